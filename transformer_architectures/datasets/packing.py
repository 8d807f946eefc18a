"""Sequences to pre-train on, packed from whole sentences: a pure function of the lengths of sentences and documents.

A row takes at most ``max_length`` tokens and holds *segments*; a segment is consecutive sentences of one document between its own
``[CLS]`` and ``[SEP]``. Documents are told apart by segments: attention never crosses them, and positions begin anew in each.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from transformer_architectures.datasets.document_store import DocumentStore
from transformer_architectures.errors import UsageError

SPECIAL_TOKENS = 2  # of a segment: [CLS] and [SEP]


class PackedRow(NamedTuple):
    """One training sequence.

    Attributes:
        input_ids: the tokens of all segments, special ones included, one segment after the other.
        segment_lengths: how many each takes; their sum is the length of the row.
    """

    input_ids: Integer[np.ndarray, "length"]
    segment_lengths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Which tokens make which row.

    Attributes:
        starts: of each segment, its first token among all tokens of the store.
        lengths: of each segment, tokens without the special ones.
        first_segments: where each row begins among the segments, and at the end their number.
        num_cut_sentences: sentences that are longer than a row and had to be cut into pieces; no token is lost.
    """

    starts: Int[np.ndarray, "segments"]
    lengths: Int[np.ndarray, "segments"]
    first_segments: Int[np.ndarray, "rows_and_one"]
    num_cut_sentences: int

    def __len__(self) -> int:
        return len(self.first_segments) - 1

    @property
    def row_lengths(self) -> Int[np.ndarray, "rows"]:
        """Tokens of each row, special ones included."""
        totals = np.concatenate([[0], np.cumsum(self.lengths + SPECIAL_TOKENS)])
        return np.diff(totals[self.first_segments])

    def row(self, index: int, tokens: Integer[np.ndarray, "tokens"], cls_id: int, sep_id: int) -> PackedRow:
        """One row.

        Args:
            tokens: all tokens of the store.
        """
        segments = range(self.first_segments[index], self.first_segments[index + 1])
        lengths = tuple(int(self.lengths[segment]) + SPECIAL_TOKENS for segment in segments)
        input_ids = np.empty(sum(lengths), dtype=np.int64)
        end = 0
        for segment, length in zip(segments, lengths, strict=True):
            start, end = end, end + length
            first = self.starts[segment]
            input_ids[start], input_ids[end - 1] = cls_id, sep_id
            input_ids[start + 1 : end - 1] = tokens[first : first + length - SPECIAL_TOKENS]
        return PackedRow(input_ids, lengths)


def pack_documents(store: DocumentStore, max_length: int) -> PackedRows:
    """Fills row after row with whole sentences, in the order of the store.

    A document begins in what is left of the row before, if its first sentence fits there. A sentence that fits no row is cut into
    pieces as long as a row, and the text goes on behind the last piece.

    Raises:
        UsageError: not even one token fits into a row.
    """
    if max_length <= SPECIAL_TOKENS:
        raise UsageError(f"max_length must be over {SPECIAL_TOKENS}, because [CLS] and [SEP] count, not {max_length}")
    offsets: list[int] = store.sentences.offsets.tolist()
    starts: list[int] = []
    ends: list[int] = []
    first_segments = [0]
    used = num_cut = 0  # tokens in the row that is being filled; sentences
    for first, last in pairwise(store.first_sentences.tolist()):
        position = offsets[first]
        while position < offsets[last]:
            limit = position + max_length - used - SPECIAL_TOKENS
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
            used += end - position + SPECIAL_TOKENS
            position = end
    if used:
        first_segments.append(len(starts))
    starts_array = np.array(starts, dtype=np.int64)
    lengths = np.array(ends, dtype=np.int64) - starts_array
    return PackedRows(starts_array, lengths, np.array(first_segments), num_cut)


__all__ = ["PackedRow", "PackedRows", "pack_documents"]
