"""A text as an encoder reads it: consecutive windows, each between the tokenizer's special tokens, and where each word is predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64

from transformer_architectures.datasets.text.windows import Windows, plan_windows
from transformer_architectures.tokenization.protocol import Tokenizer

LONGEST_WORD = 100  # tokens of a word; a WordPiece has no more


@runtime_checkable
class EncoderTokenizer(Tokenizer, Protocol):
    """What an encoder's data need of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        ...

    @property
    def mask_id(self) -> int:
        """The token that stands for a masked one."""
        ...

    def encode_words(self, rows: Sequence[Sequence[str]]) -> list[Any]:
        """For each row of words its ``ids``, and ``word_ids``: the number of the word that each belongs to."""
        ...

    def continues_word(self) -> Bool[np.ndarray, "vocab"]:
        """Of each token id, whether it continues the word of the token before it."""
        ...


class SpecialTokens(NamedTuple):
    """The tokens around each window or segment: ``[CLS]`` ... ``[SEP]``, ``<s>`` ... ``</s>``, only one of them, or none."""

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """How many there are."""
        return len(self.prefix_ids) + len(self.suffix_ids)


def special_tokens_of(tokenizer: Any) -> SpecialTokens:
    """The tokens that a tokenizer puts around a text: its ``prefix_ids`` and ``suffix_ids``, or else its ``cls_id`` and ``sep_id``.

    This is the only place that looks for them.
    """

    def ids(of_sequence: str, of_token: str) -> tuple[int, ...]:
        if (several := getattr(tokenizer, of_sequence, None)) is not None:
            return tuple(several)
        one = getattr(tokenizer, of_token, None)
        return () if one is None else (one,)

    return SpecialTokens(ids("prefix_ids", "cls_id"), ids("suffix_ids", "sep_id"))


class WindowedText(NamedTuple):
    """Token ids of all windows of a text.

    Attributes:
        token_ids: one window after the other.
        segment_lengths: number of tokens of each window; a text without words is one window of special tokens.
        word_positions: for each word the index of its first sub-word, in the window that it is predicted from.
        weights: for each window its fraction of the text; they add up to 1.
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
        max_length: tokens of a window, special ones included.
        stride: tokens from the beginning of a window to that of the next.
        prefix_ids, suffix_ids: special tokens before and after each window.
        empty_id: the one token of an empty text, if there are no special tokens.
    """

    max_length: int
    stride: int
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    empty_id: int = 0

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, max_length: int, stride: int) -> "Windowing":
        """Windows between the special tokens that the tokenizer states."""
        return cls(max_length, stride, *special_tokens_of(tokenizer), empty_id=tokenizer.pad_id)

    def __call__(self, ids: Sequence[int], subwords: Sequence[int]) -> WindowedText:
        """The windows of one text.

        Args:
            ids: its token ids, without special ones.
            subwords: number of tokens of each word.
        """
        room = self.max_length - len(self.prefix_ids) - len(self.suffix_ids)
        starts = np.concatenate([[0], np.cumsum(np.asarray(subwords, dtype=np.int64))])
        if len(ids) <= room:  # nearly all texts
            token_ids = np.array([*self.prefix_ids, *ids, *self.suffix_ids] or [self.empty_id], dtype=np.int64)
            word_positions = starts[:-1] + len(self.prefix_ids)
            return WindowedText(token_ids, (len(token_ids),), word_positions, np.ones(1, dtype=np.float32))
        return self._several(np.asarray(ids, dtype=np.int64), starts, plan_windows(subwords, room, self.stride))

    def _several(
        self, ids: Int64[np.ndarray, "tokens"], starts: Int64[np.ndarray, "words_and_one"], windows: Windows
    ) -> WindowedText:
        token_ids: list[int] = []
        lengths, word_positions = [], []
        for window in windows.windows:
            begin = len(token_ids)
            token_ids += self.prefix_ids
            for word in window.words:
                if word in window.predicts:
                    word_positions.append(len(token_ids))
                token_ids += ids[starts[word] : starts[word] + windows.kept_subwords[word]].tolist()
            token_ids += self.suffix_ids
            lengths.append(len(token_ids) - begin)
        weights = np.array([window.weight for window in windows.windows], dtype=np.float32)
        return WindowedText(
            token_ids=np.array(token_ids, dtype=np.int64),
            segment_lengths=tuple(lengths),
            word_positions=np.array(word_positions, dtype=np.int64),
            weights=weights / weights.sum(),
            num_cut_words=windows.num_cut_words,
        )


def encode_texts(tokenizer: EncoderTokenizer, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """For each text its token ids, and the number of them in each word as the tokenizer divides it."""
    continues = tokenizer.continues_word()
    encoded = []
    for ids in tokenizer.encode_batch(texts):
        begins_word = ~continues[ids] if ids else np.empty(0, dtype=bool)
        begins_word[:1] = True  # nothing is before it
        words = np.diff(np.flatnonzero(begins_word), append=len(ids)).tolist()
        if max(words, default=0) > LONGEST_WORD:  # of a script without spaces
            words = [min(LONGEST_WORD, word - start) for word in words for start in range(0, word, LONGEST_WORD)]
        encoded.append((ids, words))
    return encoded


def encode_words(tokenizer: EncoderTokenizer, rows: Sequence[Sequence[str]]) -> list[tuple[list[int], list[int]]]:
    """For each row of words its token ids, and the number of them in each word."""
    return [
        (found.ids, np.bincount(found.word_ids, minlength=len(words)).tolist() if words else [])
        for found, words in zip(tokenizer.encode_words(rows), rows, strict=True)
    ]
