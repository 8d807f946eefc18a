"""What is special to each of BERT's three tasks: model, loss, and scores by the path that `predict` takes."""

import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import LabeledBatch, TransformerDataModule
from transformer_architectures.architectures.bert.document_rows import DocumentParts, MaskedRows
from transformer_architectures.architectures.bert.heads import masked_features, text_logits, word_logits
from transformer_architectures.architectures.bert.labeled_rows import LabeledTextParts
from transformer_architectures.architectures.bert.mask_filler import MaskFiller, MaskFillerSettings
from transformer_architectures.architectures.bert.pretrained_start import PretrainedStart
from transformer_architectures.architectures.bert.tagger import Tagger, TaggerSettings
from transformer_architectures.architectures.bert.text_classifier import (
    TextClassifier,
    TextClassifierSettings,
    text_scores,
)
from transformer_architectures.architectures.bert.text_model import TextModel, split_by_text
from transformer_architectures.architectures.bert.transformer import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
)
from transformer_architectures.datasets.labeled_parts import TaggedParts
from transformer_architectures.metrics.classification import (
    class_table,
    classification_signatures,
    multi_label_table,
    multi_label_text_signatures,
)
from transformer_architectures.metrics.entities import entity_table, tagging_scores, tagging_signatures
from transformer_architectures.metrics.masked_language_model import (
    masked_language_model_signatures,
    plateau_warning,
    token_counts,
    unigram_baseline,
)
from transformer_architectures.training.cross_entropy import linear_cross_entropy
from transformer_architectures.training.task import Artifact, Scores

NUM_SAMPLES = 3


class TextTask:
    """What the three have in common.

    Args:
        model_config: as it is asked for; with ``pretrained``, that one's is what counts.
    """

    name: ClassVar[str]
    architecture, unit = "bert", "tokens"
    model_class: ClassVar[type[Any]]

    def __init__(
        self, model_config: BertModelConfig, data: TransformerDataModule, pretrained: PretrainedStart | None = None
    ) -> None:
        self.model_config, self.data, self.pretrained = model_config, data, pretrained
        self._baselines: dict[str, Scores] = {}  # by part: validation asks for them again and again

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the outputs; empty where they are tokens."""
        return ()

    def build_model(self) -> nn.Module:
        """A model on the CPU, for the classes of the training data: from nothing, or from `Model.pretrained`."""
        if self.pretrained is not None:
            built: nn.Module = self.pretrained.build_model(self.model_class, self.classes)
            return built
        # A small corpus may not have as many tokens as were asked for.
        sizes = {"vocab_size": self.data.tokenizer.vocab_size, "num_labels": len(self.classes)}
        model: nn.Module = self.model_class(self.model_config.model_copy(update=sizes))
        return model

    def compile(self, model: Any) -> None:
        """Compiles the encoder, in place, so names in the state dict stay as they are."""
        model.backbone.encoder.compile(dynamic=False)

    def learning_rate_scale(self, model: nn.Module, parameter: str) -> float:
        """The same for all."""
        return 1.0

    @abstractmethod
    def text_model(self, model: Any) -> TextModel:
        """The model as others will use it."""

    def validate(self, model: Any, should_stop: Callable[[], None]) -> Scores:
        """Scores on all validation rows."""
        return self.evaluate(model, "validation", should_stop)

    @abstractmethod
    def evaluate(self, model: Any, part: str, should_stop: Callable[[], None]) -> Scores:
        """Scores on a whole part; empty without such a part."""

    def artifacts(self, model: Any, part: str) -> dict[str, Artifact]:
        """None, where the samples say it."""
        return {}

    def export(self, model: Any, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        self.text_model(model).export(folder, results)

    @property
    def _windows(self) -> dict[str, Any]:
        return {"max_length": self.data.config.max_length, "stride": self.data.config.window_stride}


class MaskedLanguageModelTask(TextTask):
    """Pre-training: tokens that are masked are filled in."""

    name = "masked_language_model"
    model_class = BertForMaskedLM

    def loss(self, model: BertForMaskedLM, batch: LabeledBatch) -> Tensor:
        """Summed cross-entropy of the masked tokens; only these are projected to the vocabulary."""
        decoder = model.masked_lm_head.decoder
        return linear_cross_entropy(masked_features(model, batch), decoder.weight, decoder.bias, batch.labels, 0.0)

    def text_model(self, model: BertForMaskedLM) -> MaskFiller:
        """The model as others will use it."""
        settings = MaskFillerSettings(**self._windows, masking=self.data.config.masking)
        return MaskFiller(model, self.data.tokenizer, settings)

    def evaluate(self, model: BertForMaskedLM, part: str, should_stop: Callable[[], None]) -> Scores:
        """Scores of a fixed set of masks; says so where they are those of frequencies alone."""
        dataset = self.data.dataset(part)
        if not len(dataset):
            return {}
        scores = self.text_model(model).scores(self.data.evaluation_loader(dataset), should_stop)
        if warning := plateau_warning(scores["loss"], self.baseline(part)["loss"]):
            print(warning, file=sys.stderr)
        return scores

    def baseline(self, part: str) -> Scores:
        """Every masked token is given the frequencies of the training tokens."""
        parts = self.data.parts
        assert isinstance(parts, DocumentParts)
        if part not in self._baselines:
            train, dataset = parts.datasets["train"], parts.datasets[part]
            assert isinstance(train, MaskedRows)
            size = self.data.tokenizer.vocab_size
            labels = [dataset[index].labels for index in range(len(dataset))]
            self._baselines[part] = unigram_baseline(
                token_counts(train.store.tokens, size), token_counts(np.concatenate(labels), size)
            )
        return self._baselines[part]

    def signatures(self) -> dict[str, str]:
        """How each score is computed."""
        return masked_language_model_signatures()

    def samples(self, model: BertForMaskedLM, part: str) -> list[dict[str, str]]:
        """Parts of a few rows, as they were and as the model fills them in."""
        dataset, tokenizer = self.data.dataset(part), self.data.tokenizer
        filler = self.text_model(model)
        step = max(1, len(dataset) // NUM_SAMPLES)
        rows = [dataset[index] for index in range(step // 2, len(dataset), step)[:NUM_SAMPLES]]
        samples: list[dict[str, str]] = []
        for batch in filler.batches([row.text for row in rows], [row.positions for row in rows]):
            best = filler.compute(lambda batch: model.masked_lm_head.decoder(masked_features(model, batch)), batch)
            for index, found in zip(
                batch.indices, split_by_text(best.argmax(dim=1), batch.labels_of_text), strict=True
            ):
                masked, filled, right = (rows[index].text.token_ids.copy() for _ in range(3))
                positions = rows[index].positions
                filled[positions], right[positions] = found.numpy(), rows[index].labels
                shown = slice(1, 40)
                samples.append(
                    {
                        "text": tokenizer.decode(right[shown].tolist()),
                        "masked": " ".join(tokenizer.tokens[number] for number in masked[shown].tolist()),
                        "filled in": tokenizer.decode(filled[shown].tolist()),
                    }
                )
        return samples


class LabelTask(TextTask):
    """What classification and tagging have in common: labelled rows."""

    @property
    def parts(self) -> LabeledTextParts:
        """The rows and their labels."""
        assert isinstance(self.data.parts, LabeledTextParts)
        return self.data.parts

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the training data, sorted."""
        return self.parts.rows.labels

    def rows_of(self, part: str) -> tuple[Any, ...]:
        """The texts of a part, with their labels as they stood in the files."""
        found: tuple[Any, ...] = getattr(self.parts.rows, part)
        return found


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

    def evaluate(self, model: BertForSeqClassification, part: str, should_stop: Callable[[], None]) -> Scores:
        """Scores on a whole part; empty without such a part."""
        dataset = self.data.dataset(part)
        if not len(dataset):
            return {}
        classifier = self.text_model(model)
        found = classifier.of_batches(self.data.evaluation_loader(dataset), len(dataset), should_stop)
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
        rows = self.rows_of(part)
        step = max(1, len(rows) // NUM_SAMPLES)
        chosen = rows[step // 2 :: step][:NUM_SAMPLES]
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


class TokenClassificationTask(LabelTask):
    """Words with a tag each."""

    name = "token_classification"
    model_class = BertForTokenClassification

    @property
    def are_entities(self) -> bool:
        """Whether tags spell entities."""
        assert isinstance(self.parts.rows, TaggedParts)
        return self.parts.rows.are_entities

    def loss(self, model: BertForTokenClassification, batch: LabeledBatch) -> Tensor:
        """Summed cross-entropy of all words, at their first sub-words."""
        return F.cross_entropy(word_logits(model, batch).float(), batch.labels, reduction="sum")

    def text_model(self, model: BertForTokenClassification) -> Tagger:
        """The model as others will use it."""
        read = self.data.config.train.tags
        assert read is not None
        settings = TaggerSettings(
            **self._windows, are_entities=self.are_entities, word_column=read.word_column, tag_column=read.tag_column
        )
        return Tagger(model, self.data.tokenizer, settings, self.classes)

    def evaluate(self, model: BertForTokenClassification, part: str, should_stop: Callable[[], None]) -> Scores:
        """Scores on a whole part; empty without such a part."""
        dataset = self.data.dataset(part)
        if not len(dataset):
            return {}
        batches = self.data.evaluation_loader(dataset)
        return self.text_model(model).scores(self.rows_of(part), batches, should_stop)

    def baseline(self, part: str) -> Scores:
        """Every word is given the tag that it had most often in training; one that was never seen, the most frequent tag of all."""
        counts: dict[str, dict[str, int]] = {}
        overall: dict[str, int] = {}
        for row in self.rows_of("train"):
            for word, tag in zip(row.words, row.tags, strict=True):
                of_word = counts.setdefault(word, {})
                of_word[tag] = of_word.get(tag, 0) + 1
                overall[tag] = overall.get(tag, 0) + 1
        best = {word: max(sorted(of_word), key=of_word.__getitem__) for word, of_word in counts.items()}
        usual = max(sorted(overall), key=overall.__getitem__)
        rows = self.rows_of(part)
        predicted = [[best.get(word, usual) for word in row.words] for row in rows]
        return tagging_scores([row.tags for row in rows], predicted, self.are_entities)

    def signatures(self) -> dict[str, str]:
        """How each score is computed."""
        return tagging_signatures(self.are_entities)

    def samples(self, model: BertForTokenClassification, part: str) -> list[dict[str, str]]:
        """A few sentences with their tags and the predictions."""
        rows = self.rows_of(part)
        step = max(1, len(rows) // NUM_SAMPLES)
        chosen = rows[step // 2 :: step][:NUM_SAMPLES]
        predicted = self.text_model(model).tag([row.words for row in chosen])
        return [
            {"words": " ".join(row.words), "tags": " ".join(row.tags), "predicted": " ".join(found)}
            for row, found in zip(chosen, predicted, strict=True)
        ]

    def artifacts(self, model: BertForTokenClassification, part: str) -> dict[str, Artifact]:
        """A table of entity types, where tags spell entities."""
        if not self.are_entities:
            return {}
        rows, tagger = self.rows_of(part), self.text_model(model)
        predicted = tagger.of_batches(self.data.evaluation_loader(self.data.dataset(part)), len(rows))
        table = entity_table([row.tags for row in rows], predicted)
        return {"entities.json": [row._asdict() for row in table]}


TASKS: Mapping[str, type[TextTask]] = {
    "documents": MaskedLanguageModelTask,
    "texts": TextClassificationTask,
    "tags": TokenClassificationTask,
}

__all__ = ["MaskedLanguageModelTask", "TASKS", "TextClassificationTask", "TokenClassificationTask"]
