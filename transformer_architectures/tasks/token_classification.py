"""Token classification: training on words with a tag each, and using the trained model on raw text."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.examples import tagged_examples
from transformer_architectures.datasets.text.labeled_splits import TaggedSplits
from transformer_architectures.datasets.text.packed_batches import PackedBatch
from transformer_architectures.datasets.text.tag_schemes import entity_spans, is_entity_tag
from transformer_architectures.datasets.text.windowed_text import WindowedText, encode_words
from transformer_architectures.metrics.alignment import check_alignment
from transformer_architectures.metrics.entities import entity_table, tagging_scores, tagging_signatures
from transformer_architectures.metrics.metric import Metric, metrics
from transformer_architectures.pretrained.published_folder import PublishedModel
from transformer_architectures.tasks.line_predictor import TextOptions
from transformer_architectures.tasks.raw_words import Word, split_words
from transformer_architectures.tasks.text_predictor import TextPredictor, TextSettings, split_by_text
from transformer_architectures.tasks.text_task import LabelTask
from transformer_architectures.training.task import Artifact, Scores
from transformer_architectures.utils.map_batches import MapBatches, map_batches
from transformer_architectures.utils.option_models import read_options


def word_logits(model: Any, batch: PackedBatch) -> Float[Tensor, "labels classes"]:
    """Logits of each word, at its first sub-word."""
    return model(**batch.inputs, labeled_positions=batch.positions)


# ==================================================================== using it
class TaggerSettings(TextSettings):
    """How the training text was read: `evaluate` reads alike."""

    are_entities: bool = False
    word_column: int | None = None
    tag_column: int | None = None


class Tagger(TextPredictor):
    """A classifier of tokens with its tokenizer and its tags."""

    task: ClassVar[str] = "token_classification"
    settings_class: ClassVar[type[TextSettings]] = TaggerSettings

    @classmethod
    def published_settings(cls, found: PublishedModel) -> dict[str, Any]:
        """Whether the names of the classes spell entities."""
        return {"are_entities": bool(found.classes) and all(map(is_entity_tag, found.classes))}

    def rows(self, texts: Sequence[str], options: Any) -> list[dict[str, Any]]:
        """``{"words", "tags", "entities"}`` for each text, entities with the characters where they begin and end."""
        words = [split_words(line) for line in texts]
        tags = self.tag([[word.text for word in of_line] for of_line in words], options)
        return [
            {
                "words": [word.text for word in of_line],
                "tags": of_words,
                "entities": self._entities(line, of_line, of_words),
            }
            for line, of_line, of_words in zip(texts, words, tags, strict=True)
        ]

    def tag(self, rows: Sequence[Sequence[str]], options: TextOptions = TextOptions()) -> list[list[str]]:
        """A tag for each word of each row, whatever its length."""
        windowed = self.windowed(rows)
        return self.of_batches(self.batches(windowed, options), len(rows))

    def windowed(self, rows: Sequence[Sequence[str]]) -> list[WindowedText]:
        """Rows of words as the model reads them."""
        return [self.windowing(*row) for row in encode_words(self.tokenizer, rows)]

    def of_batches(
        self, batches: Iterable[PackedBatch], num_texts: int, map_batches: MapBatches = map_batches
    ) -> list[list[str]]:
        """The tags of all texts of these batches, in the order of their indices."""
        found: list[list[str]] = [[] for _ in range(num_texts)]
        for indices, tags in map_batches(batches, self._predicted):
            for index, of_text in zip(indices, tags, strict=True):
                found[index] = of_text
        return found

    def scores(
        self, texts: Sequence[TaggedText], batches: Iterable[PackedBatch], map_batches: MapBatches = map_batches
    ) -> dict[str, float]:
        """Scores of the predictions for batches whose labels are the gold tags of these texts.

        Raises:
            DataError: a gold tag got lost on the way to the model: nothing is reported.
        """
        predicted: list[list[str]] = [[] for _ in texts]
        arrived: list[list[str]] = [[] for _ in texts]

        def predicted_and_gold(batch: PackedBatch) -> tuple[tuple[int, ...], list[list[str]], list[list[str]]]:
            return *self._predicted(batch), self._names(batch.labels, batch)

        for indices, *both in map_batches(batches, predicted_and_gold):
            for index, of_text, gold in zip(indices, *both, strict=True):
                predicted[index], arrived[index] = of_text, gold
        check_alignment(texts, arrived, self.settings.are_entities)
        return tagging_scores([text.tags for text in texts], predicted, self.settings.are_entities)

    def _predicted(self, batch: PackedBatch) -> tuple[tuple[int, ...], list[list[str]]]:
        """Numbers of a batch's texts, and their tags."""
        best = self.compute(lambda batch: word_logits(self.model, batch), batch).argmax(dim=1)
        return batch.indices, self._names(best, batch)

    def _names(self, numbers: Tensor, batch: PackedBatch) -> list[list[str]]:
        of_texts = split_by_text(numbers, batch.labels_of_text)
        return [[self.classes[number] for number in of_text.tolist()] for of_text in of_texts]

    def evaluate(self, data: str | Path, **options: Any) -> dict[str, float]:
        """Scores on a file of tagged words, of the form and columns that the model was trained on.

        Raises:
            DataError: a sentence is bad, or has a tag that the model does not know: every sentence is scored.
        """
        given, settings = read_options(TextOptions, options), self.settings
        columns = settings.word_column, settings.tag_column
        texts, notes = tagged_examples(Path(data), self.classes, settings.are_entities, *columns)
        for note in notes:
            print(note, file=sys.stderr)
        number = {name: index for index, name in enumerate(self.classes)}
        gold = [np.array([number[tag] for tag in text.tags], dtype=np.int64) for text in texts]
        windowed = self.windowed([text.words for text in texts])
        batches = self.batches(windowed, given, labels=gold)
        return self.scores(texts, batches)

    def metrics(self, options: Any) -> tuple[Metric, ...]:
        """F1 of entities first, where tags spell entities; otherwise the accuracy of words."""
        return metrics(tagging_signatures(self.settings.are_entities))

    def _entities(self, line: str, words: Sequence[Word], tags: Sequence[str]) -> list[dict[str, Any]]:
        if not self.settings.are_entities:
            return []
        places = [(span.type, words[span.first].start, words[span.last].end) for span in entity_spans(tags)]
        return [{"type": type_, "text": line[start:end], "start": start, "end": end} for type_, start, end in places]


# ==================================================================== training it
class TokenClassificationTask(LabelTask):
    """Words with a tag each."""

    name, kind = "token_classification", "tags"
    predictor = Tagger

    @property
    def are_entities(self) -> bool:
        """Whether tags spell entities."""
        assert isinstance(self.examples.rows, TaggedSplits)
        return self.examples.rows.are_entities

    def loss(self, model: Any, batch: PackedBatch) -> Tensor:
        """Summed cross-entropy of all words, at their first sub-words."""
        return F.cross_entropy(word_logits(model, batch).float(), batch.labels, reduction="sum")

    def as_predictor(self, model: Any) -> Tagger:
        """The model as others will use it."""
        read = self.data.config.train.tags
        assert read is not None
        settings = TaggerSettings(
            **self.windows, are_entities=self.are_entities, word_column=read.word_column, tag_column=read.tag_column
        )
        return Tagger(model, self.data.tokenizer, settings, self.classes)

    def evaluate(self, model: Any, split: str, map_batches: MapBatches) -> Scores:
        """Scores on a whole split; empty if there is no such split."""
        dataset = self.data.dataset(split)
        if not len(dataset):
            return {}
        batches = self.data.evaluation_loader(dataset)
        return self.as_predictor(model).scores(self.examples_of(split), batches, map_batches)

    def baseline(self, split: str) -> Scores:
        """Every word is given the tag that it had most often in training; one that was never seen, the most frequent tag of all."""
        counts: dict[str, dict[str, int]] = {}
        overall: dict[str, int] = {}
        for row in self.examples_of("train"):
            for word, tag in zip(row.words, row.tags, strict=True):
                of_word = counts.setdefault(word, {})
                of_word[tag] = of_word.get(tag, 0) + 1
                overall[tag] = overall.get(tag, 0) + 1
        best = {word: max(sorted(of_word), key=of_word.__getitem__) for word, of_word in counts.items()}
        usual = max(sorted(overall), key=overall.__getitem__)
        rows = self.examples_of(split)
        predicted = [[best.get(word, usual) for word in row.words] for row in rows]
        return tagging_scores([row.tags for row in rows], predicted, self.are_entities)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """F1 of entities first, where tags spell entities; otherwise the accuracy of words."""
        return metrics(tagging_signatures(self.are_entities))

    def samples(self, model: Any, split: str) -> list[dict[str, str]]:
        """A few sentences with their tags and the predictions."""
        chosen = self.some_examples(split)
        predicted = self.as_predictor(model).tag([row.words for row in chosen])
        return [
            {"words": " ".join(row.words), "tags": " ".join(row.tags), "predicted": " ".join(found)}
            for row, found in zip(chosen, predicted, strict=True)
        ]

    def artifacts(self, model: Any, split: str) -> dict[str, Artifact]:
        """A table of entity types, where tags spell entities."""
        if not self.are_entities:
            return {}
        rows, tagger = self.examples_of(split), self.as_predictor(model)
        predicted = tagger.of_batches(self.data.evaluation_loader(self.data.dataset(split)), len(rows))
        table = entity_table([row.tags for row in rows], predicted)
        return {"entities.json": [row._asdict() for row in table]}
