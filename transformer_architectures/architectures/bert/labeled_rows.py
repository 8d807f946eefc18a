"""Texts to classify and sentences to tag, in windows."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from transformer_architectures.architectures.bert.data_config import BertDataConfig
from transformer_architectures.architectures.bert.rows import TokenRow, TransformerDataset
from transformer_architectures.architectures.bert.trained_tokenizer import part_settings, trained_tokenizer
from transformer_architectures.architectures.bert.windowed_text import (
    WindowedText,
    Windowing,
    encode_texts,
    encode_words,
)
from transformer_architectures.datasets.labeled_parts import LabeledRecipe, Parts, TaggedParts, TaggedRecipe
from transformer_architectures.datasets.labeled_text import LabeledText
from transformer_architectures.datasets.parts_recipe import PARTS
from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.datasets.tagged_text import TaggedText
from transformer_architectures.tokenization import WordPieceTokenizer

NO_WORDS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class WindowedTexts(TransformerDataset):
    """Texts in windows, with labels of their words or of themselves.

    Attributes:
        labels: of each text an index for each of its words; or one index; or of each class 0 or 1.
        are_of_words: whether it is the words that have labels.
    """

    texts: tuple[WindowedText, ...]
    labels: tuple[np.ndarray, ...]
    are_of_words: bool

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> TokenRow:
        text = self.texts[index]
        return TokenRow(text, text.word_positions if self.are_of_words else NO_WORDS, self.labels[index])

    @property
    def lengths(self) -> Int[np.ndarray, "rows"]:
        """Tokens of each text, all windows together."""
        return np.array([len(text.token_ids) for text in self.texts], dtype=np.int64)


@dataclass(frozen=True)
class LabeledTextParts:
    """Labelled or tagged texts, tokenised and cut into windows."""

    recipe_digest: str
    rows: Parts[LabeledText] | TaggedParts
    rejections: RejectionLog
    tokenizer: WordPieceTokenizer
    datasets: dict[str, WindowedTexts]

    def row_counts(self) -> dict[str, int]:
        """Rows of each part, and of each reason for which training rows were rejected."""
        counts = {part: len(self.datasets[part]) for part in PARTS}
        return counts | {f"rejected: {reason}": count for reason, count in self.rejections.reasons.most_common()}

    @property
    def digest(self) -> str:
        """Of settings, content of the files and tokenizer."""
        return f"{self.recipe_digest} {self.tokenizer.digest()}"


def windowed_texts(
    rows: Iterable[LabeledText],
    classes: tuple[str, ...],
    is_multi_label: bool,
    tokenizer: WordPieceTokenizer,
    windowing: Windowing,
) -> WindowedTexts:
    """Texts to classify."""
    rows = list(rows)
    number = {name: index for index, name in enumerate(classes)}
    labels = []
    for row in rows:
        indices = [number[name] for name in row.labels]
        if is_multi_label:
            of_classes = np.zeros(len(classes), dtype=np.float32)
            of_classes[indices] = 1
            labels.append(of_classes)
        else:
            labels.append(np.array(indices, dtype=np.int64))
    encoded = encode_texts(tokenizer, [row.text for row in rows])
    return WindowedTexts(tuple(windowing(*text) for text in encoded), tuple(labels), are_of_words=False)


def windowed_words(
    rows: Iterable[TaggedText], tags: tuple[str, ...], tokenizer: WordPieceTokenizer, windowing: Windowing
) -> WindowedTexts:
    """Sentences to tag."""
    rows = list(rows)
    number = {name: index for index, name in enumerate(tags)}
    labels = [np.array([number[tag] for tag in row.tags], dtype=np.int64) for row in rows]
    encoded = encode_words(tokenizer, [row.words for row in rows])
    return WindowedTexts(tuple(windowing(*text) for text in encoded), tuple(labels), are_of_words=True)


def read_labeled_rows(
    config: BertDataConfig,
    vocab_size: int,
    seed: int,
    tokenizer: WordPieceTokenizer | None,
    rejected_path: Path | None,
) -> LabeledTextParts:
    """Labelled texts or tagged sentences of all parts, in windows. Nothing here depends on the seed.

    Raises:
        DataError: a file is missing or bad, or too many rows are.
    """
    settings, are_tagged = part_settings(config), config.train.kind == "tags"
    recipe: LabeledRecipe | TaggedRecipe = TaggedRecipe(**settings) if are_tagged else LabeledRecipe(**settings)
    with rejection_list(rejected_path) as rejections:
        rows = recipe.read(rejections)
    for note in rows.notes:
        print(note, file=sys.stderr)
    if tokenizer is None:
        texts = (" ".join(row.words) if isinstance(row, TaggedText) else row.text for row in rows.train)
        tokenizer = trained_tokenizer(config, vocab_size, recipe, texts)
    windowing = Windowing(config.max_length, config.window_stride, tokenizer.cls_id, tokenizer.sep_id)
    datasets: dict[str, WindowedTexts] = {}
    for part in PARTS:
        if isinstance(rows, TaggedParts):
            datasets[part] = windowed_words(getattr(rows, part), rows.labels, tokenizer, windowing)
        else:
            assert config.train.texts is not None
            is_multi_label = config.train.texts.multi_label
            datasets[part] = windowed_texts(getattr(rows, part), rows.labels, is_multi_label, tokenizer, windowing)
        if num_cut := sum(text.num_cut_words for text in datasets[part].texts):
            print(
                f"{part}: {num_cut:,} words are longer than a window: the model does not see their ends",
                file=sys.stderr,
            )
    return LabeledTextParts(recipe.digest(), rows, rejections, tokenizer, datasets)


@contextmanager
def rejection_list(path: Path | None) -> Iterator[RejectionLog]:
    """A log that also lists what is rejected in a file, if a path is given."""
    if path is None:
        yield RejectionLog()
        return
    with path.open("w", encoding="utf-8") as file:
        yield RejectionLog(file)


__all__ = ["LabeledTextParts", "WindowedTexts", "read_labeled_rows", "windowed_texts", "windowed_words"]
