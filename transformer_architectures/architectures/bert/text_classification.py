"""Classification of texts: what is special to it."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.heads import text_logits
from transformer_architectures.architectures.bert.text_classifier import (
    TextClassifier,
    TextClassifierSettings,
    text_scores,
)
from transformer_architectures.architectures.bert.text_task import LabelTask
from transformer_architectures.architectures.bert.transformer import (
    BertForSeqClassification,
)
from transformer_architectures.batch_work import BatchWork
from transformer_architectures.metrics.classification import (
    class_table,
    classification_signatures,
    multi_label_table,
    multi_label_text_signatures,
)
from transformer_architectures.training.task import Artifact, Scores


class TextClassificationTask(LabelTask):
    """Texts with one label each, or several."""

    name = "text_classification"
    model_class = BertForSeqClassification

    @property
    def is_multi_label(self) -> bool:
        """Whether a text has any number of labels."""
        assert self.data.config.train.texts is not None
        return self.data.config.train.texts.multi_label

    def loss(self, model: BertForSeqClassification, batch: LabeledBatch) -> Tensor:
        """Summed over texts: cross-entropy of the one label, or binary cross-entropy of all of them."""
        logits = text_logits(model, batch)
        if self.is_multi_label:
            return F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    def text_model(self, model: BertForSeqClassification) -> TextClassifier:
        """The model as others will use it."""
        read = self.data.config.train.texts
        assert read is not None
        names = ("text_column", "label_column", "multi_label", "label_separator")
        settings = TextClassifierSettings(**self._windows, **{name: getattr(read, name) for name in names})
        return TextClassifier(model, self.data.tokenizer, settings, self.classes)

    def score(self, part: str, probabilities: Tensor) -> Scores:
        """Scores of probabilities against the labels of a part."""
        gold = [row.labels for row in self.rows_of(part)]
        return text_scores(gold, probabilities.numpy(), self.classes, self.is_multi_label)

    def evaluate(self, model: BertForSeqClassification, part: str, work: BatchWork) -> Scores:
        """Scores on a whole part; empty without such a part."""
        dataset = self.data.dataset(part)
        if not len(dataset):
            return {}
        classifier = self.text_model(model)
        found = classifier.of_batches(self.data.evaluation_loader(dataset), len(dataset), work)
        return self.score(part, found)

    def baseline(self, part: str) -> Scores:
        """Every text is given the label that most training texts have; of several, those that more than half of them have."""
        labels = [row.labels for row in self.rows_of("train")]
        counts = torch.tensor([sum(name in of_text for of_text in labels) for name in self.classes])
        constant = (counts / len(labels)) if self.is_multi_label else (counts == counts.max()).float()
        return self.score(part, constant.expand(len(self.rows_of(part)), -1))

    def signatures(self) -> dict[str, str]:
        """How each score is computed."""
        return multi_label_text_signatures() if self.is_multi_label else classification_signatures()

    def samples(self, model: BertForSeqClassification, part: str) -> list[dict[str, str]]:
        """A few texts with their labels and the predictions."""
        chosen = self.some_rows(part)
        predicted = self.text_model(model).predict([row.text for row in chosen])
        return [
            {
                "text": row.text,
                "label": ", ".join(row.labels),
                "predicted": found["label"] if "label" in found else ", ".join(found["labels"]),
            }
            for row, found in zip(chosen, predicted, strict=True)
        ]

    def artifacts(self, model: BertForSeqClassification, part: str) -> dict[str, Artifact]:
        """A table of classes."""
        dataset, classifier = self.data.dataset(part), self.text_model(model)
        found = classifier.of_batches(self.data.evaluation_loader(dataset), len(dataset)).numpy()
        gold = [dataset[index].labels for index in range(len(dataset))]
        if self.is_multi_label:
            table = multi_label_table(np.stack(gold) > 0, found >= 0.5, self.classes)
        else:
            table = class_table(np.concatenate(gold), found.argmax(axis=1), self.classes)
        return {"classes.json": [row._asdict() for row in table]}


__all__ = ["TextClassificationTask"]
