"""Tags of words by a trained model, and the entities that they spell."""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import nn

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.heads import word_logits
from transformer_architectures.architectures.bert.text_model import TextModel, TextModelSettings, split_by_text
from transformer_architectures.architectures.bert.transformer import BertForTokenClassification
from transformer_architectures.architectures.bert.windowed_text import WindowedText, encode_words
from transformer_architectures.datasets.conll import TaggedText
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.tag_schemes import TagScheme, entity_spans
from transformer_architectures.datasets.tagged_text import TaggedTextConfig, read_tagged_text
from transformer_architectures.errors import DataError, UsageError
from transformer_architectures.metrics.entities import tagging_scores, tagging_signatures
from transformer_architectures.metrics.nothing_lost import check_nothing_lost

# What a line is split into: at white space, and punctuation at either end of a piece stands alone, as in treebanks.
_PIECE = re.compile(r"\S+")
_INNER = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)
_ATTACHED = ("@", "#")  # names and topics of social media keep their sign


class Word(NamedTuple):
    """A word of a line: ``line[start:end]``."""

    text: str
    start: int
    end: int


class TaggerSettings(TextModelSettings):
    """How the training text was read: `evaluate` reads alike."""

    are_entities: bool = False
    word_column: int | None = None
    tag_column: int | None = None


class Tagger(TextModel):
    """A `BertForTokenClassification` with its tokenizer and its tags."""

    task: ClassVar[str] = "token_classification"
    settings_class: ClassVar[type[TextModelSettings]] = TaggerSettings

    @staticmethod
    def build(config: BertModelConfig) -> nn.Module:
        """The model with its head."""
        return BertForTokenClassification(config)

    @property
    def settings(self) -> TaggerSettings:
        """As the folder has them."""
        assert isinstance(self._settings, TaggerSettings)
        return self._settings

    def rows(
        self, lines: Sequence[str], batch_tokens: int | None = None, batch_size: int | None = None
    ) -> list[dict[str, Any]]:
        """``{"words", "tags", "entities"}`` for each line, entities with the characters where they begin and end."""
        words = [split_words(line) for line in lines]
        tags = self.tag([[word.text for word in of_line] for of_line in words], batch_tokens, batch_size)
        return [
            {
                "words": [word.text for word in of_line],
                "tags": of_words,
                "entities": self._entities(line, of_line, of_words),
            }
            for line, of_line, of_words in zip(lines, words, tags, strict=True)
        ]

    def tag(
        self, rows: Sequence[Sequence[str]], batch_tokens: int | None = None, batch_size: int | None = None
    ) -> list[list[str]]:
        """A tag for each word of each row, whatever its length."""
        windowed = self.windowed(rows)
        return self.of_batches(self.batches(windowed, batch_tokens=batch_tokens, batch_size=batch_size), len(rows))

    def windowed(self, rows: Sequence[Sequence[str]]) -> list[WindowedText]:
        """Rows of words as the model reads them."""
        return [self.windowing(*row) for row in encode_words(self.tokenizer, rows)]

    def of_batches(
        self, batches: Iterable[LabeledBatch], num_texts: int, between_batches: Callable[[], None] = lambda: None
    ) -> list[list[str]]:
        """The tags of all texts of these batches, in the order of their indices."""
        found: list[list[str]] = [[] for _ in range(num_texts)]
        for batch in batches:
            best = self.compute(lambda batch: word_logits(self.model, batch), batch).argmax(dim=1)
            for index, of_text in zip(batch.indices, split_by_text(best, batch.labels_of_text), strict=True):
                found[index] = [self.classes[number] for number in of_text.tolist()]
            between_batches()
        return found

    def scores(
        self,
        texts: Sequence[TaggedText],
        batches: Iterable[LabeledBatch],
        between_batches: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Scores of the predictions for batches whose labels are the gold tags of these texts.

        Raises:
            DataError: a gold tag got lost on the way to the model: nothing is reported.
        """
        arrived: list[list[str]] = [[] for _ in texts]

        def noted(batches: Iterable[LabeledBatch]) -> Iterable[LabeledBatch]:
            for batch in batches:
                for index, gold in zip(batch.indices, split_by_text(batch.labels, batch.labels_of_text), strict=True):
                    arrived[index] = [self.classes[number] for number in gold.tolist()]
                yield batch

        predicted = self.of_batches(noted(batches), len(texts), between_batches)
        check_nothing_lost(texts, arrived, self.settings.are_entities)
        return tagging_scores([text.tags for text in texts], predicted, self.settings.are_entities)

    def evaluate(
        self, data: str | Path, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """Scores on a file of tagged words, of the form and columns that the model was trained on.

        Raises:
            DataError: a sentence is bad, or has a tag that the model does not know: every sentence is scored.
        """
        settings = self.settings
        scheme: TagScheme | None = None if settings.are_entities else "free"
        columns = {name: getattr(settings, name) for name in ("word_column", "tag_column")}
        config = TaggedTextConfig(
            file=str(data),
            tags=list(self.classes),
            scheme=scheme or "auto",
            **{name: column for name, column in columns.items() if column is not None},
        )
        texts = []
        found = read_tagged_text(config, "test", settings.are_entities)
        for note in found.notes:
            print(note, file=sys.stderr)
        for row in found.rows:
            if isinstance(row, Rejection):
                raise DataError(f"{row.file}:{row.line}: {row.reason}; every sentence is scored, mend it")
            texts.append(row)
        number = {name: index for index, name in enumerate(self.classes)}
        gold = [np.array([number[tag] for tag in text.tags], dtype=np.int64) for text in texts]
        windowed = self.windowed([text.words for text in texts])
        batches = self.batches(windowed, batch_tokens=batch_tokens, batch_size=batch_size, labels=gold)
        return self.scores(texts, batches)

    def evaluate_command(
        self, data: str | None = None, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Scores of a file, and their signatures."""
        if data is None:
            raise UsageError("a tagger is evaluated with --data FILE")
        scores = self.evaluate(data, batch_tokens, batch_size)
        return scores, tagging_signatures(self.settings.are_entities)

    def _entities(self, line: str, words: Sequence[Word], tags: Sequence[str]) -> list[dict[str, Any]]:
        if not self.settings.are_entities:
            return []
        places = [(span.type, words[span.first].start, words[span.last].end) for span in entity_spans(tags)]
        return [{"type": type_, "text": line[start:end], "start": start, "end": end} for type_, start, end in places]


def split_words(line: str) -> list[Word]:
    """The words of a line of raw text: pieces between white space, signs at their ends apart, one by one.

    What is tagged in a file is split already, and stays so; of raw text this is a guess that suits most.
    """
    words = []
    for piece in _PIECE.finditer(line):
        inner = _INNER.search(piece[0])
        if inner is None:
            bounds = [*range(len(piece[0]) + 1)]
        else:
            first, last = inner.span()
            if first and piece[0][first - 1] in _ATTACHED:
                first -= 1
            bounds = [*range(first + 1), *range(last, len(piece[0]) + 1)]
        words += [
            Word(piece[0][start:end], piece.start() + start, piece.start() + end)
            for start, end in zip(bounds, bounds[1:])
            if end > start
        ]
    return words


__all__ = ["Tagger", "TaggerSettings", "Word", "split_words"]
