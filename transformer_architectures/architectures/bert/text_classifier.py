"""Classes of texts by a trained model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.heads import text_logits
from transformer_architectures.architectures.bert.text_model import TextModel, TextModelSettings
from transformer_architectures.architectures.bert.transformer import BertForSeqClassification
from transformer_architectures.architectures.bert.windowed_text import encode_texts
from transformer_architectures.batch_work import BatchWork, one_by_one
from transformer_architectures.datasets.labeled_text import (
    LabeledTextConfig,
    read_labeled_text,
)
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.errors import DataError, UsageError
from transformer_architectures.metrics.classification import (
    classification_scores,
    classification_signatures,
    multi_label_text_scores,
    multi_label_text_signatures,
)

THRESHOLD = 0.5  # of several labels, from which probability on each is given


class TextClassifierSettings(TextModelSettings):
    """How the training text was read: `evaluate` reads alike."""

    text_column: str = "text"
    label_column: str = "label"
    multi_label: bool = False
    label_separator: str = ","


class TextClassifier(TextModel):
    """A `BertForSeqClassification` with its tokenizer and its classes."""

    task: ClassVar[str] = "text_classification"
    settings_class: ClassVar[type[TextModelSettings]] = TextClassifierSettings

    @staticmethod
    def build(config: BertModelConfig) -> nn.Module:
        """The model with its head."""
        return BertForSeqClassification(config)

    @property
    def settings(self) -> TextClassifierSettings:
        """As the folder has them."""
        assert isinstance(self._settings, TextClassifierSettings)
        return self._settings

    def rows(
        self, lines: Sequence[str], batch_tokens: int | None = None, batch_size: int | None = None
    ) -> list[dict[str, Any]]:
        """``{"label", "probabilities"}`` for each text; with several labels per text ``{"labels", "probabilities"}``."""
        rows = []
        for row in self.probabilities(lines, batch_tokens, batch_size).numpy():
            probabilities = dict(zip(self.classes, (round(float(value), 6) for value in row), strict=True))
            if self.settings.multi_label:
                rows.append(
                    {
                        "labels": [self.classes[i] for i in np.flatnonzero(row >= THRESHOLD)],
                        "probabilities": probabilities,
                    }
                )
            else:
                rows.append({"label": self.classes[int(row.argmax())], "probabilities": probabilities})
        return rows

    def probabilities(
        self, texts: Sequence[str], batch_tokens: int | None = None, batch_size: int | None = None
    ) -> Float32[Tensor, "texts classes"]:
        """Of each class; of texts with one label they add up to 1."""
        windowed = [self.windowing(*text) for text in encode_texts(self.tokenizer, texts)]
        batches = self.batches(windowed, batch_tokens=batch_tokens, batch_size=batch_size)
        return self.of_batches(batches, len(texts))

    def of_batches(
        self, batches: Iterable[LabeledBatch], num_texts: int, work: BatchWork = one_by_one
    ) -> Float32[Tensor, "texts classes"]:
        """Probabilities of all texts of these batches, in the order of their indices."""
        found = torch.zeros(num_texts, len(self.classes))

        def probabilities(batch: LabeledBatch) -> tuple[tuple[int, ...], Tensor]:
            logits = self.compute(lambda batch: text_logits(self.model, batch), batch)
            return batch.indices, logits.sigmoid() if self.settings.multi_label else logits.softmax(dim=1)

        for indices, of_batch in work(batches, probabilities):
            found[list(indices)] = of_batch
        return found

    def evaluate(self, data: str | Path, **options: Any) -> dict[str, float]:
        """Scores on a file of labelled texts, of the form and columns that the model was trained on.

        Raises:
            DataError: a row is bad, or has a label that the model does not know: every row is scored.
        """
        settings = self.settings
        config = LabeledTextConfig(file=str(data), labels=list(self.classes), **_of_reader(settings))
        rows = []
        for row in read_labeled_text(config, "test"):
            if isinstance(row, Rejection):
                raise DataError(f"{row.file}:{row.line}: {row.reason}; every row is scored, mend it")
            rows.append(row)
        found = self.probabilities([row.text for row in rows], **options).numpy()
        return text_scores([row.labels for row in rows], found, self.classes, settings.multi_label)

    def evaluate_command(
        self, data: str | None = None, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Scores of a file, and their signatures."""
        if data is None:
            raise UsageError("a text classifier is evaluated with --data FILE")
        scores = self.evaluate(data, batch_tokens=batch_tokens, batch_size=batch_size)
        return scores, multi_label_text_signatures() if self.settings.multi_label else classification_signatures()


def text_scores(
    gold: Sequence[Sequence[str]],
    probabilities: Float32[np.ndarray, "texts classes"],
    classes: Sequence[str],
    is_multi_label: bool,
) -> dict[str, float]:
    """Scores of probabilities against labels."""
    number = {name: index for index, name in enumerate(classes)}
    if not is_multi_label:
        wanted = np.array([number[label] for (label,) in gold], dtype=np.int64)
        return classification_scores(wanted, probabilities.argmax(axis=1))
    is_wanted = np.zeros(probabilities.shape, dtype=bool)
    for row, labels in zip(is_wanted, gold, strict=True):
        row[[number[name] for name in labels]] = True
    return multi_label_text_scores(is_wanted, probabilities >= THRESHOLD)


def _of_reader(settings: TextClassifierSettings) -> dict[str, Any]:
    names = ["text_column", "label_column", "multi_label", *(["label_separator"] if settings.multi_label else [])]
    return {name: getattr(settings, name) for name in names}


__all__ = ["TextClassifier", "TextClassifierSettings", "text_scores"]
