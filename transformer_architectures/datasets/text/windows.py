"""Long texts in overlapping windows: nothing is cut silently, and every word is predicted exactly once.

A text is a sequence of words, each of so many sub-words. Windows hold whole words. Where several hold a word, it is predicted from
the one in which it has most context on its poorer side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from transformer_architectures.errors import UsageError

Prediction = TypeVar("Prediction")


@dataclass(frozen=True)
class Window:
    """A stretch of whole words.

    Attributes:
        words: which words it holds.
        predicts: those of them that are predicted from it; the windows of a text divide its words, in order.
        num_tokens: sub-words in it.
        weight: sub-words of the words that it predicts, for means over a text: every sub-word counts once.
    """

    words: range
    predicts: range
    num_tokens: int
    weight: int


@dataclass(frozen=True)
class Windows:
    """The windows of one text.

    Attributes:
        windows: in order; none where the text has no words.
        kept_subwords: of each word, how many of its sub-words go into a window, from its beginning.
        num_cut_words: words with more sub-words than a window takes, whose end the model does not see.
    """

    windows: tuple[Window, ...]
    kept_subwords: tuple[int, ...]
    num_cut_words: int

    def merge(self, predictions: Sequence[Sequence[Prediction]]) -> list[Prediction]:
        """One prediction for each word of the text.

        Args:
            predictions: for each window one for each word that it holds.

        Raises:
            UsageError: there are more, or fewer.
        """
        if [len(of_window) for of_window in predictions] != [len(window.words) for window in self.windows]:
            raise UsageError("there must be one prediction for each word of each window")
        return [
            of_window[word - window.words.start]
            for window, of_window in zip(self.windows, predictions, strict=True)
            for word in window.predicts
        ]

    def pool(self, values: Float[np.ndarray, "windows classes"]) -> Float[np.ndarray, "classes"]:
        """The mean over windows of logits or probabilities, every sub-word of the text with the same weight."""
        return np.average(values, axis=0, weights=[window.weight for window in self.windows])


def plan_windows(subwords: Sequence[int], max_length: int, stride: int) -> Windows:
    """Windows over a text.

    The next window begins ``stride`` sub-words after the one before, or as little less as whole words allow; but so late that at least
    one more word goes in, and never behind the end of the one before. The last one begins as early as it can, so that it is as full as
    the others. Context is counted in sub-words of the window; of two
    windows in which a word has as much, the earlier predicts it.

    Args:
        subwords: of each word how many it has, at least one: a word that the tokenizer does not see must be given ``[UNK]``.
        max_length: sub-words in a window, without special tokens.
        stride: how far a window begins behind the one before; the rest of its length they share.

    Raises:
        UsageError: a number is not possible.
    """
    if min(subwords, default=1) < 1:
        raise UsageError("every word needs at least one sub-word to be predicted from: give [UNK] to one without any")
    if not 1 <= stride <= max_length:
        raise UsageError(f"windows of {max_length} sub-words cannot begin every {stride}: 1 <= stride <= max_length")
    kept = np.minimum(np.asarray(subwords, dtype=np.int64), max_length)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    words = _stretches(offsets, max_length, stride)
    best = _best_windows(offsets, words)
    windows = []
    for number, held in enumerate(words):
        first, behind = np.searchsorted(best, [number, number + 1])
        windows.append(
            Window(
                words=held,
                predicts=range(int(first), int(behind)),
                num_tokens=int(offsets[held.stop] - offsets[held.start]),
                weight=int(offsets[behind] - offsets[first]),
            )
        )
    return Windows(tuple(windows), tuple(kept.tolist()), sum(number > max_length for number in subwords))


def _stretches(offsets: Int[np.ndarray, "words_and_one"], max_length: int, stride: int) -> list[range]:
    """The words of each window."""
    num_words = len(offsets) - 1
    stretches: list[range] = []
    start = 0
    while start < num_words:
        stop = int(np.searchsorted(offsets, offsets[start] + max_length, side="right")) - 1
        if stop == num_words:  # the last one: as much as goes in, counted from the end
            start = int(np.searchsorted(offsets, offsets[-1] - max_length))
            stretches.append(range(start, stop))
            break
        stretches.append(range(start, stop))
        after_stride = int(np.searchsorted(offsets, offsets[start] + stride, side="right")) - 1
        for_next_word = int(np.searchsorted(offsets, offsets[stop + 1] - max_length))
        start = max(after_stride, for_next_word)  # neither is behind the end of this one
    return stretches


def _best_windows(offsets: Int[np.ndarray, "words_and_one"], words: list[range]) -> Int[np.ndarray, "words"]:
    """For each word, the number of the window that predicts it. It never falls from word to word."""
    best = np.zeros(len(offsets) - 1, dtype=np.int64)
    most = np.full(len(offsets) - 1, -1)
    for number, held in enumerate(words):
        left = offsets[held.start : held.stop] - offsets[held.start]
        right = offsets[held.stop] - offsets[held.start + 1 : held.stop + 1]
        context = np.minimum(left, right)
        place = slice(held.start, held.stop)
        is_better = context > most[place]
        best[place][is_better] = number
        most[place][is_better] = context[is_better]
    return best
