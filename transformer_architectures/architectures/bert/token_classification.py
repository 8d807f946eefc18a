"""Tagging of words: what is special to it."""

from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.heads import word_logits
from transformer_architectures.architectures.bert.tagger import Tagger, TaggerSettings
from transformer_architectures.architectures.bert.text_task import LabelTask
from transformer_architectures.architectures.bert.transformer import (
    BertForTokenClassification,
)
from transformer_architectures.batch_work import BatchWork
from transformer_architectures.datasets.labeled_parts import TaggedParts
from transformer_architectures.metrics.entities import entity_table, tagging_scores, tagging_signatures
from transformer_architectures.training.task import Artifact, Scores


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

    def evaluate(self, model: BertForTokenClassification, part: str, work: BatchWork) -> Scores:
        """Scores on a whole part; empty without such a part."""
        dataset = self.data.dataset(part)
        if not len(dataset):
            return {}
        batches = self.data.evaluation_loader(dataset)
        return self.text_model(model).scores(self.rows_of(part), batches, work)

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
        chosen = self.some_rows(part)
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


__all__ = ["TokenClassificationTask"]
