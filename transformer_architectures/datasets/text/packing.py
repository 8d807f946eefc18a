"""Rows to pre-train an encoder on, packed from whole sentences: a pure function of the lengths of sentences and documents.

A row has at most ``max_length`` tokens and consists of *segments*; a segment is consecutive sentences of one document between special
tokens of its own. Segments keep documents apart: attention never crosses them, and positions begin at 0 in each.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from transformer_architectures.datasets.text.document_store import DocumentStore
from transformer_architectures.datasets.text.windowed_text import SpecialTokens
from transformer_architectures.errors import UsageError


class PackedRow(NamedTuple):
    """One training sequence.

    Attributes:
        input_ids: the tokens of all segments, special ones included, one segment after the other.
        segment_lengths: number of tokens of each; their sum is the length of the row.
    """

    input_ids: Integer[np.ndarray, "length"]
    segment_lengths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Which tokens make which row.

    Attributes:
        starts: of each segment, the index of its first token among all tokens of the store.
        lengths: of each segment, its number of tokens without the special ones.
        first_segments: index of each row's first segment, and at the end the number of segments.
        num_cut_sentences: sentences that are longer than a row and were cut into pieces; no token is lost.
        special_tokens: the tokens around each segment.
    """

    starts: Int[np.ndarray, "segments"]
    lengths: Int[np.ndarray, "segments"]
    first_segments: Int[np.ndarray, "rows_and_one"]
    num_cut_sentences: int
    special_tokens: SpecialTokens

    def __len__(self) -> int:
        return len(self.first_segments) - 1

    @property
    def row_lengths(self) -> Int[np.ndarray, "rows"]:
        """Tokens of each row, special ones included."""
        totals = np.concatenate([[0], np.cumsum(self.lengths + self.special_tokens.num_tokens)])
        return np.diff(totals[self.first_segments])

    def row(self, index: int, tokens: Integer[np.ndarray, "tokens"]) -> PackedRow:
        """One row.

        Args:
            tokens: all tokens of the store.
        """
        prefix, suffix = self.special_tokens
        segments = range(self.first_segments[index], self.first_segments[index + 1])
        lengths = tuple(int(self.lengths[segment]) + self.special_tokens.num_tokens for segment in segments)
        input_ids = np.empty(sum(lengths), dtype=np.int64)
        end = 0
        for segment, length in zip(segments, lengths, strict=True):
            start, end = end, end + length
            first, text = self.starts[segment], slice(start + len(prefix), end - len(suffix))
            input_ids[start : text.start], input_ids[text.stop : end] = prefix, suffix
            input_ids[text] = tokens[first : first + self.lengths[segment]]
        return PackedRow(input_ids, lengths)


def pack_documents(store: DocumentStore, max_length: int, special_tokens: SpecialTokens) -> PackedRows:
    """Fills row after row with whole sentences, in the order of the store.

    A document begins in the row before if its first sentence fits there. A sentence that fits no row is cut into pieces as long as a
    row, and the text continues after the last piece.

    Raises:
        UsageError: not even one token fits into a row.
    """
    num_special = special_tokens.num_tokens
    if max_length <= num_special:
        raise UsageError(f"max_length must be over {num_special}, because special tokens count, not {max_length}")
    offsets: list[int] = store.sentences.offsets.tolist()
    starts: list[int] = []
    ends: list[int] = []
    first_segments = [0]
    used = num_cut = 0  # tokens in the row that is being filled; sentences
    for first, last in pairwise(store.first_sentences.tolist()):
        position = offsets[first]
        while position < offsets[last]:
            limit = position + max_length - used - num_special
            sentence = bisect_right(offsets, limit, first + 1, last + 1) - 1
            end = offsets[sentence]  # of the last sentence that fits
            if end <= position and used:  # none does: the next row has more room
                first_segments.append(len(starts))
                used = 0
                continue
            if end <= position:  # none does even in an empty row
                num_cut += end == position  # not of the pieces that follow the first one
                end = limit
            starts.append(position)
            ends.append(end)
            used += end - position + num_special
            position = end
    if used:
        first_segments.append(len(starts))
    starts_array = np.array(starts, dtype=np.int64)
    lengths = np.array(ends, dtype=np.int64) - starts_array
    return PackedRows(starts_array, lengths, np.array(first_segments), num_cut, special_tokens)
