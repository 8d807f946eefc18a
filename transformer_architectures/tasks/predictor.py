"""A finished model, ready to predict: what all tasks do alike. Folder in and out, precision, options, errors, batches by length."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Integer
from torch import nn

from transformer_architectures.config import StrictModel
from transformer_architectures.errors import ModelFolderError, UnknownModelError, UsageError
from transformer_architectures.metrics.metric import Metric
from transformer_architectures.pretrained.fitting_weights import model_with_weights, part_of
from transformer_architectures.pretrained.model_folder import ModelFolder, Saveable, write_model_folder
from transformer_architectures.pretrained.published_folder import PublishedModel
from transformer_architectures.samplers import TokenBudgetBatchSampler
from transformer_architectures.tokenization import Tokenizer, load_tokenizer
from transformer_architectures.training.precision import resolve_device, resolve_precision
from transformer_architectures.utils.option_models import Options, python_signature, read_options

DEFAULT_BATCH_TOKENS = 8192

T = TypeVar("T")
MODEL_FOLDER_ERRORS = (KeyError, TypeError, ValueError, OverflowError, RuntimeError)


class Predictor(ABC):
    """A model with all that it needs to predict. `load_model` gives one; its class belongs to the task.

    Args:
        device: where it computes; where the model is, unless given.

    Attributes:
        task: the name of the task.
        predict_options, evaluate_options: options of the two methods and of the two commands.
        folder_parts: what the model folder's ``config.json`` keeps for the constructor, by argument name.
        precision: fp32, so that every machine gives the same answers, unless another one is set.
    """

    task: ClassVar[str]
    predict_options: ClassVar[type[Options]]
    evaluate_options: ClassVar[type[Options]]
    folder_parts: ClassVar[Mapping[str, type[StrictModel]]] = {}
    has_tokenizer: ClassVar[bool] = False

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self.model: Any = model.to(device)
        self.precision = resolve_precision("fp32", next(model.parameters()).device)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, options in (("predict", "predict_options"), ("evaluate", "evaluate_options")):
            if name in vars(cls) and hasattr(cls, options):
                vars(cls)[name].__signature__ = python_signature(vars(cls)[name], getattr(cls, options))

    # ---------------------------------------------------------------- from Python
    @abstractmethod
    def predict(self, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """One output for each input, in order; options are those of `predict_options`."""

    @abstractmethod
    def evaluate(self, *inputs: Any, **options: Any) -> dict[str, float]:
        """Score by name, the main one first; options are those of `evaluate_options`."""

    # ---------------------------------------------------------------- the commands
    @abstractmethod
    def predict_lines(self, inputs: Sequence[str], options: Any) -> Iterator[str]:
        """Lines for standard output.

        Args:
            inputs: what stands on the command line, files or texts; nothing reads standard input where the task does so.
        """

    @abstractmethod
    def evaluate_files(self, options: Any) -> dict[str, float]:
        """Scores of the files that the options name."""

    @abstractmethod
    def metrics(self, options: Any) -> tuple[Metric, ...]:
        """What `evaluate_files` scores."""

    # ---------------------------------------------------------------- model folders
    @classmethod
    def from_folder(cls, folder: ModelFolder, device: str) -> "Predictor":
        """Reads a model folder whose files have been checked.

        Raises:
            ModelFolderError: its parts do not fit together.
        """
        tokenizer = load_tokenizer(folder.path, folder.manifest.files) if cls.has_tokenizer else None
        try:
            model_config = folder.architecture.model_config.model_validate_json(json.dumps(folder.config["model"]))
            parts: dict[str, Any] = {
                name: part.model_validate_json(json.dumps(folder.config[name]))
                for name, part in cls.folder_parts.items()
            }
            parts |= cls.other_parts(folder.config)
            if tokenizer is not None:
                if tokenizer.vocab_size > getattr(model_config, "vocab_size", 0):
                    raise ValueError("the tokenizer is of another model")
                parts["tokenizer"] = tokenizer
            cls.check_parts(model_config, **parts)
            build = folder.architecture.models[folder.task_class]
            model = model_with_weights(lambda: build(model_config), folder.weights())
        except MODEL_FOLDER_ERRORS as error:
            reason = " ".join(str(error).split())
            raise ModelFolderError(f"{folder.path}: config.json and model.safetensors do not fit: {reason}") from None
        return cls(model.eval(), device=resolve_device(device), **parts)

    @classmethod
    def from_published(cls, found: PublishedModel, build: Callable[[Any], nn.Module], device: str) -> "Predictor":
        """A published model, ready to use. Parts that a model for this task has not are left out.

        Raises:
            ModelFolderError: weights and config do not fit together.
        """
        try:
            parts = cls.published_parts(found)
            cls.check_parts(found.config, **parts)
            with torch.device("meta"):
                own = {part_of(name) for name in build(found.config).state_dict()}
            weights = {name: tensor for name, tensor in found.weights.items() if part_of(name) in own}
            model = model_with_weights(lambda: build(found.config), weights)
        except MODEL_FOLDER_ERRORS as error:
            reason = " ".join(str(error).split())
            raise ModelFolderError(f"{found.path}: config.json and the weights do not fit: {reason}") from None
        return cls(model.eval(), device=resolve_device(device), **parts)

    @classmethod
    def published_parts(cls, found: PublishedModel) -> dict[str, Any]:
        """Arguments of the constructor beside the model, from what a published folder says.

        Raises:
            UnknownModelError: no published model is for this task.
        """
        raise UnknownModelError(f"nothing is known of published models for {cls.task}")

    @classmethod
    def other_parts(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Further arguments of the constructor from ``config.json``, that are no pydantic models."""
        return {}

    @classmethod
    def check_parts(cls, model_config: Any, **parts: Any) -> None:
        """Raises a `ValueError` if the parts of a folder belong to different models."""

    def export(self, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        config = {
            "task": self.task,
            "architecture": self.model.config.architecture,
            "model": self.model.config.to_folder(),
            **self.parts_for_folder(),
        }
        saved: list[Saveable] = [self.tokenizer] if self.has_tokenizer else []
        write_model_folder(folder, self.model.state_dict(), config, results, saved)

    tokenizer: Tokenizer

    def parts_for_folder(self) -> dict[str, Any]:
        """What ``config.json`` keeps beside the model's config."""
        return {name: getattr(self, name).model_dump(mode="json") for name in self.folder_parts}

    # ---------------------------------------------------------------- computing
    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.precision.device

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside the block the model's outputs are those of `precision`, without gradients or dropout, whatever its mode."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), self.precision.autocast():
                yield
        finally:
            self.model.train(was_training)

    @classmethod
    def read_predict_options(cls, given: Mapping[str, Any]) -> Any:
        """The checked options of `predict`."""
        return read_options(cls.predict_options, given)


def batches_by_length(
    lengths: Integer[np.ndarray, "items sides"], batch_tokens: int | None, batch_size: int | None
) -> Iterator[list[int]]:
    """Indices of items with similar lengths, the longest first.

    Args:
        batch_tokens: tokens of a batch at most, padding included; 8,192 unless given.
        batch_size: items of a batch at most.
    """
    if not len(lengths):
        return
    for batch in TokenBudgetBatchSampler(lengths, batch_tokens or DEFAULT_BATCH_TOKENS, shuffle=False):
        size = batch_size or len(batch)
        yield from (batch[start : start + size] for start in range(0, len(batch), size))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items; the last one has what is left."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def check_texts(inputs: Any) -> Sequence[str]:
    """The texts, without halves of surrogate pairs, which no tokenizer takes.

    Raises:
        UsageError: this is no list of texts.
    """
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or not all(isinstance(text, str) for text in inputs):
        raise UsageError("predict takes a list of texts, one for each output")
    return [text.encode("utf-8", errors="replace").decode("utf-8") for text in inputs]
