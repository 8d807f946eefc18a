"""What the three trained models have in common: a model, its tokenizer, texts in windows, packed batches, lines in and out."""

import json
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import LabeledBatch, TransformerDataCollator
from transformer_architectures.architectures.bert.rows import TokenRow
from transformer_architectures.architectures.bert.windowed_text import WindowedText, Windowing
from transformer_architectures.config import StrictModel
from transformer_architectures.errors import ModelFolderError, UsageError
from transformer_architectures.fitting_weights import model_with_weights
from transformer_architectures.loaded_model import LoadedModel
from transformer_architectures.model_folder import ModelFolder, write_model_folder
from transformer_architectures.samplers import TokenBudgetBatchSampler
from transformer_architectures.text_lines import read_text_lines
from transformer_architectures.tokenization import WordPieceTokenizer, load_tokenizer
from transformer_architectures.training.precision import resolve_device

DEFAULT_BATCH_TOKENS = 8192
LINES_AT_ONCE = 10_000  # of a file: enough to find lines of equal length, few enough to keep in memory


class TextModelSettings(StrictModel):
    """What the model folder says beside sizes.

    Attributes:
        max_length, stride: of the windows that texts are cut into.
    """

    max_length: int = Field(ge=3)
    stride: int = Field(ge=1)


class TextModel(LoadedModel):
    """A model with its tokenizer; computes where the model is, unless ``device`` says otherwise."""

    task: ClassVar[str]
    settings_class: ClassVar[type[TextModelSettings]]
    command_options: ClassVar[Mapping[str, frozenset[str]]] = {
        "predict": frozenset({"--input", "--batch-tokens", "--batch-size"}),
        "evaluate": frozenset({"--data", "--batch-tokens", "--batch-size"}),
    }

    def __init__(
        self,
        model: Any,
        tokenizer: WordPieceTokenizer,
        settings: TextModelSettings,
        classes: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, device)
        self.tokenizer, self.classes = tokenizer, tuple(classes)
        self._settings = settings
        self.windowing = Windowing(settings.max_length, settings.stride, tokenizer.cls_id, tokenizer.sep_id)

    @staticmethod
    @abstractmethod
    def build(config: BertModelConfig) -> nn.Module:
        """The model with its head."""

    @abstractmethod
    def rows(
        self, lines: Sequence[str], batch_tokens: int | None = None, batch_size: int | None = None
    ) -> list[dict[str, Any]]:
        """What `predict` gives for each line."""

    @classmethod
    def from_folder(cls, folder: ModelFolder, device: str) -> "TextModel":
        """Reads a model folder whose files have been checked."""
        tokenizer = load_tokenizer(folder.path, folder.manifest.files)
        try:
            config = BertModelConfig.model_validate_json(json.dumps(folder.config["model"]))
            settings = cls.settings_class.model_validate_json(json.dumps(folder.config["settings"]))
            classes = tuple(str(name) for name in folder.config.get("classes", ()))
            if not isinstance(tokenizer, WordPieceTokenizer) or tokenizer.vocab_size > config.vocab_size:
                raise ValueError("the tokenizer is of another model")
            if len(classes) != config.num_labels:
                raise ValueError(f"{config.num_labels} outputs for {len(classes)} classes")
            if config.positions == "learned" and settings.max_length > config.max_positions:
                raise ValueError("windows are longer than the model's positions")
            model = model_with_weights(lambda: cls.build(config), folder.weights())
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelFolderError(f"{folder.path}: config.json and model.safetensors do not fit: {reason}") from None
        return cls(model.eval(), tokenizer, settings, classes, resolve_device(device))

    def export(self, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        config = {
            "task": self.task,
            "architecture": "bert",
            "model": self.model.config.to_folder(),
            "settings": self._settings.model_dump(mode="json"),
            "classes": list(self.classes),
        }
        write_model_folder(folder, self.model.state_dict(), config, results, [self.tokenizer])

    # ---------------------------------------------------------------- from Python and from the command line
    def predict(self, inputs: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        """One row for each text, in order, as `tarch predict` writes them.

        Args:
            options: ``batch_tokens``: tokens of a batch; ``batch_size``: the most texts of one.

        Raises:
            UsageError: this is no list of texts.
        """
        if isinstance(inputs, str) or not isinstance(inputs, Sequence) or not all(isinstance(t, str) for t in inputs):
            raise UsageError("predict takes a list of texts")
        return self.rows([_only_characters(text) for text in inputs], **options)

    def predict_command(
        self, input: str | None = None, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> Iterator[str]:
        """A JSON line for each input line."""
        lines = read_text_lines(input)
        is_typed = input is None and sys.stdin.isatty()  # a person wants each answer at once
        while chunk := list(islice(lines, 1 if is_typed else LINES_AT_ONCE)):
            for row in self.predict(chunk, batch_tokens=batch_tokens, batch_size=batch_size):
                yield json.dumps(row, ensure_ascii=False)

    # ---------------------------------------------------------------- how it is done
    def batches(
        self,
        texts: Sequence[WindowedText],
        positions: Sequence[np.ndarray] | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        labels: Sequence[np.ndarray] | None = None,
    ) -> Iterator[LabeledBatch]:
        """Packed batches of texts, longest first.

        Args:
            positions: for each text the tokens that are asked for; those of its words unless given.
            labels: for each text what is right there, for scores.
        """
        for name, size in (("batch_tokens", batch_tokens), ("batch_size", batch_size)):
            if size is not None and size < 1:
                raise UsageError(f"{name} must be at least 1, not {size}")
        if not texts:
            return
        asked = [text.word_positions for text in texts] if positions is None else positions
        collate = TransformerDataCollator(self.tokenizer.pad_id)
        lengths = np.array([[len(text.token_ids)] for text in texts])
        for batch in TokenBudgetBatchSampler(lengths, batch_tokens or DEFAULT_BATCH_TOKENS, shuffle=False):
            size = batch_size or len(batch)
            for start in range(0, len(batch), size):
                numbers = batch[start : start + size]
                yield collate(
                    [(number, TokenRow(texts[number], asked[number], (labels or asked)[number])) for number in numbers]
                )

    def compute(self, function: Callable[[LabeledBatch], Tensor], batch: LabeledBatch) -> Tensor:
        """``function`` of a batch on the model, dropout off, whatever the model's mode; fp32, on the CPU."""
        with self.computing():
            return function(batch.to(self.device)).float().cpu()


def split_by_text(values: Tensor, counts: Iterable[int]) -> list[Tensor]:
    """Rows of a batch's values as one tensor for each text."""
    return list(torch.split(values, list(counts)))


def _only_characters(line: str) -> str:
    """Half of a surrogate pair is no character: no tokenizer takes it."""
    return line.encode("utf-8", errors="replace").decode("utf-8")


__all__ = ["TextModel", "TextModelSettings", "split_by_text"]
