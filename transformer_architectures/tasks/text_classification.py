"""Text classification: training on texts with one label each, or several, and using the trained model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.datasets.text.examples import labeled_examples
from transformer_architectures.datasets.text.packed_batches import PackedBatch
from transformer_architectures.datasets.text.windowed_text import encode_texts
from transformer_architectures.metrics.classification import (
    class_table,
    classification_scores,
    classification_signatures,
    multi_label_table,
    multi_label_text_scores,
    multi_label_text_signatures,
)
from transformer_architectures.metrics.metric import Metric, metrics
from transformer_architectures.pretrained.published_folder import PublishedModel
from transformer_architectures.tasks.line_predictor import TextOptions
from transformer_architectures.tasks.text_predictor import TextPredictor, TextSettings
from transformer_architectures.tasks.text_task import LabelTask
from transformer_architectures.training.task import Artifact, Scores
from transformer_architectures.utils.map_batches import MapBatches, map_batches
from transformer_architectures.utils.option_models import read_options

THRESHOLD = 0.5  # of several labels, from which probability on each is given


def text_logits(model: Any, batch: PackedBatch) -> Float[Tensor, "texts classes"]:
    """Logits of each text: the mean of its windows' logits, every sub-word with the same weight."""
    of_segments = model(**batch.inputs).float()
    weighted = of_segments * batch.weight_of_segment[:, None]
    pooled = torch.zeros(len(batch.indices), of_segments.shape[1], device=weighted.device)
    return pooled.index_add(0, batch.text_of_segment, weighted)


# ==================================================================== using it
class TextClassifierSettings(TextSettings):
    """How the training text was read: `evaluate` reads alike."""

    text_column: str = "text"
    label_column: str = "label"
    multi_label: bool = False
    label_separator: str = ","


class TextClassifier(TextPredictor):
    """A classifier of texts with its tokenizer and its classes."""

    task: ClassVar[str] = "text_classification"
    settings_class: ClassVar[type[TextSettings]] = TextClassifierSettings

    @classmethod
    def published_settings(cls, found: PublishedModel) -> dict[str, Any]:
        """One label for each text, unless ``problem_type`` says else."""
        return {"multi_label": found.content.get("problem_type") == "multi_label_classification"}

    def rows(self, texts: Sequence[str], options: Any) -> list[dict[str, Any]]:
        """``{"label", "probabilities"}`` for each text; with several labels per text ``{"labels", "probabilities"}``."""
        rows = []
        for row in self.probabilities(texts, options).numpy():
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
        self, texts: Sequence[str], options: TextOptions = TextOptions()
    ) -> Float32[Tensor, "texts classes"]:
        """Of each class; of texts with one label they add up to 1."""
        windowed = [self.windowing(*text) for text in encode_texts(self.tokenizer, texts)]
        batches = self.batches(windowed, options)
        return self.of_batches(batches, len(texts))

    def of_batches(
        self, batches: Iterable[PackedBatch], num_texts: int, map_batches: MapBatches = map_batches
    ) -> Float32[Tensor, "texts classes"]:
        """Probabilities of all texts of these batches, in the order of their indices."""
        found = torch.zeros(num_texts, len(self.classes))

        def probabilities(batch: PackedBatch) -> tuple[tuple[int, ...], Tensor]:
            logits = self.compute(lambda batch: text_logits(self.model, batch), batch)
            return batch.indices, logits.sigmoid() if self.settings.multi_label else logits.softmax(dim=1)

        for indices, of_batch in map_batches(batches, probabilities):
            found[list(indices)] = of_batch
        return found

    def evaluate(self, data: str | Path, **options: Any) -> dict[str, float]:
        """Scores on a file of labelled texts, of the form and columns that the model was trained on.

        Raises:
            DataError: a row is bad, or has a label that the model does not know: every row is scored.
        """
        given, settings = read_options(TextOptions, options), self.settings
        reading = settings.model_dump(include={"text_column", "label_column", "multi_label", "label_separator"})
        rows = labeled_examples(Path(data), self.classes, **reading)
        found = self.probabilities([row.text for row in rows], given).numpy()
        return text_scores([row.labels for row in rows], found, self.classes, settings.multi_label)

    def metrics(self, options: Any) -> tuple[Metric, ...]:
        """Accuracy first; of several labels micro F1."""
        return text_metrics(self.settings.multi_label)


def text_metrics(is_multi_label: bool) -> tuple[Metric, ...]:
    """What classifiers of texts are scored by."""
    return metrics(multi_label_text_signatures() if is_multi_label else classification_signatures())


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


# ==================================================================== training it
class TextClassificationTask(LabelTask):
    """Texts with one label each, or several."""

    name, kind = "text_classification", "texts"
    predictor = TextClassifier

    @property
    def is_multi_label(self) -> bool:
        """Whether a text has any number of labels."""
        assert self.data.config.train.texts is not None
        return self.data.config.train.texts.multi_label

    def loss(self, model: Any, batch: PackedBatch) -> Tensor:
        """Summed over texts: cross-entropy of the one label, or binary cross-entropy of all of them."""
        logits = text_logits(model, batch)
        if self.is_multi_label:
            return F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    def as_predictor(self, model: Any) -> TextClassifier:
        """The model as others will use it."""
        read = self.data.config.train.texts
        assert read is not None
        names = ("text_column", "label_column", "multi_label", "label_separator")
        settings = TextClassifierSettings(**self.windows, **{name: getattr(read, name) for name in names})
        return TextClassifier(model, self.data.tokenizer, settings, self.classes)

    def score(self, split: str, probabilities: Tensor) -> Scores:
        """Scores of probabilities against the labels of a split."""
        gold = [row.labels for row in self.examples_of(split)]
        return text_scores(gold, probabilities.numpy(), self.classes, self.is_multi_label)

    def evaluate(self, model: Any, split: str, map_batches: MapBatches) -> Scores:
        """Scores on a whole split; empty if there is no such split."""
        dataset = self.data.dataset(split)
        if not len(dataset):
            return {}
        classifier = self.as_predictor(model)
        found = classifier.of_batches(self.data.evaluation_loader(dataset), len(dataset), map_batches)
        return self.score(split, found)

    def baseline(self, split: str) -> Scores:
        """Every text is given the label that most training texts have; of several, those that more than half of them have."""
        labels = [row.labels for row in self.examples_of("train")]
        counts = torch.tensor([sum(name in of_text for of_text in labels) for name in self.classes])
        constant = (counts / len(labels)) if self.is_multi_label else (counts == counts.max()).float()
        return self.score(split, constant.expand(len(self.examples_of(split)), -1))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy first; of several labels micro F1."""
        return text_metrics(self.is_multi_label)

    def samples(self, model: Any, split: str) -> list[dict[str, str]]:
        """A few texts with their labels and the predictions."""
        chosen = self.some_examples(split)
        predicted = self.as_predictor(model).predict([row.text for row in chosen])
        return [
            {
                "text": row.text,
                "label": ", ".join(row.labels),
                "predicted": found["label"] if "label" in found else ", ".join(found["labels"]),
            }
            for row, found in zip(chosen, predicted, strict=True)
        ]

    def artifacts(self, model: Any, split: str) -> dict[str, Artifact]:
        """A table of classes."""
        dataset, classifier = self.data.dataset(split), self.as_predictor(model)
        found = classifier.of_batches(self.data.evaluation_loader(dataset), len(dataset)).numpy()
        gold = [dataset[index].labels for index in range(len(dataset))]
        if self.is_multi_label:
            table = multi_label_table(np.stack(gold) > 0, found >= 0.5, self.classes)
        else:
            table = class_table(np.concatenate(gold), found.argmax(axis=1), self.classes)
        return {"classes.json": [row._asdict() for row in table]}
