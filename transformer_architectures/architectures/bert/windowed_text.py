"""A text as the model reads it: windows one behind the other, each ``[CLS]`` ... ``[SEP]``, and where each word is predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from transformer_architectures.datasets.windows import Windows, plan_windows
from transformer_architectures.tokenization import WordPieceTokenizer

SPECIAL_TOKENS = 2  # of a window


class WindowedText(NamedTuple):
    """Token ids of all windows of a text.

    Attributes:
        token_ids: one window after the other.
        segment_lengths: how many tokens each window takes; a text without words is one of two.
        word_positions: for each word the place of its first sub-word, in the window that it is predicted from.
        weights: for each window its share in the text; they add up to 1.
        num_cut_words: words of which the model does not see the end.
    """

    token_ids: Int64[np.ndarray, "tokens"]
    segment_lengths: tuple[int, ...]
    word_positions: Int64[np.ndarray, "words"]
    weights: Float32[np.ndarray, "windows"]
    num_cut_words: int = 0


@dataclass(frozen=True)
class Windowing:
    """How texts are cut into windows.

    Attributes:
        max_length: tokens of a window, special ones included; stride: tokens from one window to the next.
    """

    max_length: int
    stride: int
    cls_id: int
    sep_id: int

    def __call__(self, ids: Sequence[int], subwords: Sequence[int]) -> WindowedText:
        """The windows of one text.

        Args:
            ids: its token ids, without special ones; subwords: how many of them each word has.
        """
        room = self.max_length - SPECIAL_TOKENS
        starts = np.concatenate([[0], np.cumsum(np.asarray(subwords, dtype=np.int64))])
        if len(ids) <= room:  # nearly all texts
            token_ids = np.array([self.cls_id, *ids, self.sep_id], dtype=np.int64)
            return WindowedText(token_ids, (len(token_ids),), starts[:-1] + 1, np.ones(1, dtype=np.float32))
        return self._several(np.asarray(ids, dtype=np.int64), starts, plan_windows(subwords, room, self.stride))

    def _several(
        self, ids: Int64[np.ndarray, "tokens"], starts: Int64[np.ndarray, "words_and_one"], windows: Windows
    ) -> WindowedText:
        token_ids: list[int] = []
        lengths, word_positions = [], []
        for window in windows.windows:
            begin = len(token_ids)
            token_ids.append(self.cls_id)
            for word in window.words:
                if word in window.predicts:
                    word_positions.append(len(token_ids))
                token_ids += ids[starts[word] : starts[word] + windows.kept_subwords[word]].tolist()
            token_ids.append(self.sep_id)
            lengths.append(len(token_ids) - begin)
        weights = np.array([window.weight for window in windows.windows], dtype=np.float32)
        return WindowedText(
            token_ids=np.array(token_ids, dtype=np.int64),
            segment_lengths=tuple(lengths),
            word_positions=np.array(word_positions, dtype=np.int64),
            weights=weights / weights.sum(),
            num_cut_words=windows.num_cut_words,
        )


def encode_texts(tokenizer: WordPieceTokenizer, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """For each text its token ids, and the number of them in each word of the tokenizer's own."""
    continues = tokenizer.continues_word()
    encoded = []
    for ids in tokenizer.encode_batch(texts):
        begins = np.flatnonzero(~continues[ids]) if ids else np.empty(0, dtype=np.int64)
        encoded.append((ids, np.diff(begins, append=len(ids)).tolist()))
    return encoded


def encode_words(tokenizer: WordPieceTokenizer, rows: Sequence[Sequence[str]]) -> list[tuple[list[int], list[int]]]:
    """For each row of words its token ids, and the number of them in each word."""
    return [
        (found.ids, np.bincount(found.word_ids, minlength=len(words)).tolist() if words else [])
        for found, words in zip(tokenizer.encode_words(rows), rows, strict=True)
    ]


__all__ = ["WindowedText", "Windowing", "encode_texts", "encode_words"]
