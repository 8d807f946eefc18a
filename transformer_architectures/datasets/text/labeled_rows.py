"""Texts to classify and sentences to tag, tokenised and cut into windows."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from transformer_architectures.datasets.rejections import RejectionLog, rejection_list
from transformer_architectures.datasets.splits import SPLITS
from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.data_config import EncoderDataConfig
from transformer_architectures.datasets.text.labeled_splits import (
    LabeledRecipe,
    LabeledSplits,
    TaggedRecipe,
    TaggedSplits,
)
from transformer_architectures.datasets.text.labeled_text import LabeledText
from transformer_architectures.datasets.text.packed_batches import TokenDataset, TokenRow
from transformer_architectures.datasets.text.trained_tokenizer import TokenizerKind
from transformer_architectures.datasets.text.windowed_text import (
    EncoderTokenizer,
    WindowedText,
    Windowing,
    encode_texts,
    encode_words,
)

NO_WORDS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class WindowedTexts(TokenDataset):
    """Texts in windows, with labels of their words or of themselves.

    Attributes:
        labels: for each text an index for each of its words; or one index; or 0 or 1 for each class.
        are_of_words: whether the words have labels.
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
class LabeledTextSplits:
    """The splits of a set of labelled or tagged texts, tokenised and cut into windows."""

    recipe_digest: str
    rows: LabeledSplits[LabeledText] | TaggedSplits
    rejections: RejectionLog
    tokenizer: Any
    datasets: dict[str, WindowedTexts]

    def row_counts(self) -> dict[str, int]:
        """Rows of each split, and of each reason for which training rows were rejected."""
        counts: dict[str, int] = {split: len(self.datasets[split]) for split in SPLITS}
        return counts | {f"rejected: {reason}": count for reason, count in self.rejections.reasons.most_common()}

    @property
    def digest(self) -> str:
        """Of settings, content of the files and tokenizer."""
        return f"{self.recipe_digest} {self.tokenizer.digest()}"


def windowed_texts(
    rows: Iterable[LabeledText],
    classes: tuple[str, ...],
    is_multi_label: bool,
    tokenizer: EncoderTokenizer,
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
    rows: Iterable[TaggedText], tags: tuple[str, ...], tokenizer: EncoderTokenizer, windowing: Windowing
) -> WindowedTexts:
    """Sentences to tag."""
    rows = list(rows)
    number = {name: index for index, name in enumerate(tags)}
    labels = [np.array([number[tag] for tag in row.tags], dtype=np.int64) for row in rows]
    encoded = encode_words(tokenizer, [row.words for row in rows])
    return WindowedTexts(tuple(windowing(*text) for text in encoded), tuple(labels), are_of_words=True)


def read_labeled_rows(
    config: EncoderDataConfig,
    kind: TokenizerKind[Any],
    vocab_size: int,
    seed: int,
    tokenizer: EncoderTokenizer | None,
    rejected_path: Path | None,
) -> LabeledTextSplits:
    """Labelled texts or tagged sentences of all splits, in windows. Nothing here depends on the seed.

    Args:
        tokenizer: a given one; otherwise one of this ``kind`` is trained on the training split.

    Raises:
        DataError: a file is missing or bad, or too many rows are.
    """
    settings, are_tagged = config.sources() | config.amounts(), config.train.kind == "tags"
    recipe: LabeledRecipe | TaggedRecipe = TaggedRecipe(**settings) if are_tagged else LabeledRecipe(**settings)
    with rejection_list(rejected_path) as rejections:
        rows = recipe.read(rejections)
    for note in rows.notes:
        print(note, file=sys.stderr)
    if tokenizer is None:
        texts = (" ".join(row.words) if isinstance(row, TaggedText) else row.text for row in rows.train)
        tokenizer = kind.trained(config.cache_path, recipe.digest(), texts, vocab_size, config)
    windowing = Windowing.from_tokenizer(tokenizer, config.max_length, config.window_stride)
    datasets: dict[str, WindowedTexts] = {}
    for split in SPLITS:
        if isinstance(rows, TaggedSplits):
            datasets[split] = windowed_words(getattr(rows, split), rows.labels, tokenizer, windowing)
        else:
            assert config.train.texts is not None
            is_multi_label = config.train.texts.multi_label
            datasets[split] = windowed_texts(getattr(rows, split), rows.labels, is_multi_label, tokenizer, windowing)
        if num_cut := sum(text.num_cut_words for text in datasets[split].texts):
            print(
                f"{split}: {num_cut:,} words are longer than a window: the model does not see their ends",
                file=sys.stderr,
            )
    return LabeledTextSplits(recipe.digest(), rows, rejections, tokenizer, datasets)
