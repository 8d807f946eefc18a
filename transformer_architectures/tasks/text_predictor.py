"""Predictors over an encoder: texts in windows, packed batches, a JSON line for each text."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.text.packed_batches import PackedBatch, PackedCollator, TokenRow
from transformer_architectures.datasets.text.windowed_text import EncoderTokenizer, WindowedText, Windowing
from transformer_architectures.errors import UsageError
from transformer_architectures.pretrained.published_folder import PublishedModel, numbered_classes
from transformer_architectures.tasks.line_predictor import LineOptions, LinePredictor, TextOptions
from transformer_architectures.tasks.predictor import batches_by_length, check_texts
from transformer_architectures.utils.option_models import option


class TextSettings(StrictModel):
    """What the model folder keeps beside sizes.

    Attributes:
        max_length, stride: of the windows that texts are cut into.
    """

    max_length: int = Field(ge=3)
    stride: int = Field(ge=1)


class FileScoreOptions(TextOptions):
    """`evaluate` on a file of examples."""

    data: str | None = option(None, "a file of labelled inputs, as the model was trained on", command_only=True)


class TextPredictor(LinePredictor):
    """An encoder with a head, its tokenizer, its windows, and its classes where it has some."""

    settings_class: ClassVar[type[TextSettings]] = TextSettings
    predict_options = LineOptions
    evaluate_options = FileScoreOptions

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.folder_parts = {"settings": cls.settings_class}

    def __init__(
        self,
        model: Any,
        tokenizer: EncoderTokenizer,
        settings: TextSettings,
        classes: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, device)
        self.tokenizer: Any = tokenizer
        self.classes = tuple(classes)
        self.settings: Any = settings
        self.windowing = Windowing.from_tokenizer(tokenizer, settings.max_length, settings.stride)

    @abstractmethod
    def rows(self, texts: Sequence[str], options: Any) -> list[dict[str, Any]]:
        """What `predict` gives for each text."""

    def predict(self, inputs: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        """One row for each text, in order, as `tarch predict` writes them.

        Raises:
            UsageError: an option is wrong, or this is no list of texts.
        """
        return self.rows(check_texts(inputs), self.read_predict_options(options))

    def lines_for(self, texts: Sequence[str], first_line: int, options: Any) -> Iterator[str]:
        """A JSON line for each text."""
        return (json.dumps(row, ensure_ascii=False) for row in self.rows(check_texts(texts), options))

    def evaluate_files(self, options: Any) -> dict[str, float]:
        """Scores of the file that ``--data`` names."""
        if options.data is None:
            raise UsageError(f"{self.task.replace('_', ' ')} is evaluated with --data FILE")
        return self.evaluate(options.data, **options.model_dump(exclude={"data"}, exclude_none=True))

    # ---------------------------------------------------------------- model folders
    @classmethod
    def other_parts(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The classes of the outputs."""
        return {"classes": tuple(str(name) for name in config.get("classes", ()))}

    @classmethod
    def check_parts(cls, model_config: Any, **parts: Any) -> None:
        """Tokenizer, classes and windows must be those of the model."""
        if not isinstance(parts["tokenizer"], EncoderTokenizer):
            raise ValueError("the tokenizer is of another model")
        if len(parts["classes"]) != model_config.num_labels:
            raise ValueError(f"{model_config.num_labels} outputs for {len(parts['classes'])} classes")
        if model_config.positions == "learned" and parts["settings"].max_length > model_config.max_positions:
            raise ValueError("windows are longer than the model's positions")

    @classmethod
    def published_parts(cls, found: PublishedModel) -> dict[str, Any]:
        """Windows as long as the model reads, each half over the next."""
        longest = found.config.max_positions
        settings = cls.settings_class(max_length=longest, stride=(longest - 2) // 2, **cls.published_settings(found))
        classes = found.classes or numbered_classes(found.config.num_labels)
        return {"tokenizer": found.tokenizer, "settings": settings, "classes": classes}

    @classmethod
    def published_settings(cls, found: PublishedModel) -> dict[str, Any]:
        """Further settings, from what a published folder says."""
        return {}

    def parts_for_folder(self) -> dict[str, Any]:
        """The settings and the classes."""
        return {**super().parts_for_folder(), "classes": list(self.classes)}

    # ---------------------------------------------------------------- computing
    def batches(
        self,
        texts: Sequence[WindowedText],
        options: TextOptions = TextOptions(),
        positions: Sequence[np.ndarray] | None = None,
        labels: Sequence[np.ndarray] | None = None,
    ) -> Iterator[PackedBatch]:
        """Packed batches of texts, longest first.

        Args:
            positions: for each text the tokens that are asked for; those of its words unless given.
            labels: for each text the right answers, for scores.
        """
        asked = [text.word_positions for text in texts] if positions is None else positions
        collate = PackedCollator(self.tokenizer.pad_id)
        lengths = np.array([len(text.token_ids) for text in texts], dtype=np.int64)[:, None]
        for numbers in batches_by_length(lengths, options.batch_tokens, options.batch_size):
            yield collate(
                [(number, TokenRow(texts[number], asked[number], (labels or asked)[number])) for number in numbers]
            )

    def compute(self, function: Callable[[PackedBatch], Tensor], batch: PackedBatch) -> Tensor:
        """``function`` of a batch on the model, without dropout, whatever the model's mode; fp32, on the CPU."""
        with self.computing():
            return function(batch.to(self.device)).float().cpu()


def split_by_text(values: Tensor, counts: Iterable[int]) -> list[Tensor]:
    """Rows of a batch's values as one tensor for each text."""
    return list(torch.split(values, list(counts)))
