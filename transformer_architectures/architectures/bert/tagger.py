"""Tags of words by a trained model, and the entities that they spell."""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor, nn

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.heads import word_logits
from transformer_architectures.architectures.bert.text_model import TextModel, TextModelSettings, split_by_text
from transformer_architectures.architectures.bert.transformer import BertForTokenClassification
from transformer_architectures.architectures.bert.windowed_text import WindowedText, encode_words
from transformer_architectures.batch_work import BatchWork, one_by_one
from transformer_architectures.datasets.conll import TaggedText
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.tag_schemes import TagScheme, entity_spans
from transformer_architectures.datasets.tagged_text import TaggedTextConfig, read_tagged_text
from transformer_architectures.errors import DataError, UsageError
from transformer_architectures.metrics.entities import tagging_scores, tagging_signatures
from transformer_architectures.metrics.nothing_lost import check_nothing_lost

_PIECE = re.compile(r"\S+")
_ATTACHED = ("@", "#")  # names and topics of social media keep their sign
_JOINER = "\u200d"  # between the parts of one emoji


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
        self, batches: Iterable[LabeledBatch], num_texts: int, work: BatchWork = one_by_one
    ) -> list[list[str]]:
        """The tags of all texts of these batches, in the order of their indices."""
        found: list[list[str]] = [[] for _ in range(num_texts)]
        for indices, tags in work(batches, self._predicted):
            for index, of_text in zip(indices, tags, strict=True):
                found[index] = of_text
        return found

    def scores(
        self, texts: Sequence[TaggedText], batches: Iterable[LabeledBatch], work: BatchWork = one_by_one
    ) -> dict[str, float]:
        """Scores of the predictions for batches whose labels are the gold tags of these texts.

        Raises:
            DataError: a gold tag got lost on the way to the model: nothing is reported.
        """
        predicted: list[list[str]] = [[] for _ in texts]
        arrived: list[list[str]] = [[] for _ in texts]

        def predicted_and_gold(batch: LabeledBatch) -> tuple[tuple[int, ...], list[list[str]], list[list[str]]]:
            return *self._predicted(batch), self._names(batch.labels, batch)

        for indices, *both in work(batches, predicted_and_gold):
            for index, of_text, gold in zip(indices, *both, strict=True):
                predicted[index], arrived[index] = of_text, gold
        check_nothing_lost(texts, arrived, self.settings.are_entities)
        return tagging_scores([text.tags for text in texts], predicted, self.settings.are_entities)

    def _predicted(self, batch: LabeledBatch) -> tuple[tuple[int, ...], list[list[str]]]:
        """Numbers of a batch's texts, and their tags."""
        best = self.compute(lambda batch: word_logits(self.model, batch), batch).argmax(dim=1)
        return batch.indices, self._names(best, batch)

    def _names(self, numbers: Tensor, batch: LabeledBatch) -> list[list[str]]:
        of_texts = split_by_text(numbers, batch.labels_of_text)
        return [[self.classes[number] for number in of_text.tolist()] for of_text in of_texts]

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

    What is tagged in a file is split already, and stays so; of raw text this is a guess that suits most. A sign is never taken apart
    from what belongs to it: accents, vowel signs and the parts of an emoji stay with the character before them.
    """
    return [word for piece in _PIECE.finditer(line) for word in _words_of_piece(line, *piece.span())]


def _words_of_piece(line: str, start: int, end: int) -> Iterator[Word]:
    bounds = [start, *(place for place in range(start + 1, end) if not _belongs_to_last(line, place)), end]
    signs = list(zip(bounds, bounds[1:]))  # where each begins and ends
    inner = [number for number, (begin, stop) in enumerate(signs) if any(map(str.isalnum, line[begin:stop]))]
    if inner:
        first, last = inner[0], inner[-1]
        if first and line[slice(*signs[first - 1])] in _ATTACHED:
            first -= 1
        signs[first : last + 1] = [(signs[first][0], signs[last][1])]
    for begin, stop in signs:
        yield Word(line[begin:stop], begin, stop)


def _belongs_to_last(line: str, place: int) -> bool:
    is_mark = unicodedata.category(line[place]).startswith("M")
    return is_mark or line[place] == _JOINER or line[place - 1] == _JOINER


__all__ = ["Tagger", "TaggerSettings", "Word", "split_words"]
