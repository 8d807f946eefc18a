"""Rows to train and score a language model on: the next token over documents, cut into rows of equal length, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor
from torch.utils.data import Dataset

from transformer_architectures.datasets.data_module import Batch
from transformer_architectures.datasets.text.document_store import DocumentStore
from transformer_architectures.datasets.text.packed_batches import ROWS_MULTIPLE
from transformer_architectures.masking import AttentionMask, Segments

IGNORED_LABEL = -100  # torch's own convention


class LanguageModelRow(NamedTuple):
    """One row.

    Attributes:
        token_ids: the model's input.
        labels: the next token at each position.
        segment_lengths: number of positions of each document in the row; they add up to its length.
        num_bytes: UTF-8 bytes of the text that the labels stand for; 0 if they are not counted.
    """

    token_ids: Int64[np.ndarray, "length"]
    labels: Int64[np.ndarray, "length"]
    segment_lengths: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, eq=False)
class LanguageModelRows(Dataset[LanguageModelRow]):
    """All documents one after the other, cut into rows of ``context_length`` positions; the last row may be shorter.

    A document of n tokens has n + 1 positions: the input is the begin token and its tokens, the labels are its tokens and the end
    token. So every token of every document, and every end, is a label exactly once. A row may begin inside a document.

    Bytes: the UTF-8 length of each piece of text (see `DocumentsRecipe.pieces`) is divided among its tokens in proportion to their own
    bytes. So the bytes of all rows add up to those of the text, whatever the tokenizer does to it. An end token has none.

    Attributes:
        begin_id: first input of each document (the end token, if the tokenizer has no other).
        end_id: last label of each document.
        bytes_of_piece: UTF-8 bytes of each piece of text; None: bytes are not counted.
        bytes_of_token: UTF-8 bytes of each token id, see `bytes_of_tokens`; the same for all unless given.
    """

    store: DocumentStore
    context_length: int
    begin_id: int
    end_id: int
    bytes_of_piece: Int[np.ndarray, "pieces"] | None = None
    bytes_of_token: Int[np.ndarray, "vocab"] | None = None

    def __len__(self) -> int:
        return -(-int(self._starts[-1]) // self.context_length)

    def __getitem__(self, index: int) -> LanguageModelRow:
        first = index * self.context_length
        last = min(first + self.context_length, int(self._starts[-1]))
        token_ids = np.full(last - first, self.begin_id, dtype=np.int64)
        labels = np.full(last - first, self.end_id, dtype=np.int64)
        lengths: list[int] = []
        document = int(np.searchsorted(self._starts, first, side="right")) - 1
        position = first
        while position < last:
            start, stop = int(self._starts[document]), int(self._starts[document + 1])
            end = min(stop, last)
            # At position p the label is token p of the store, less one for each document before; the input is the token before.
            second = max(position, start + 1)  # after the begin token
            token_ids[second - first : end - first] = self.store.tokens[second - document - 1 : end - document - 1]
            before_end = min(end, stop - 1)
            labels[position - first : before_end - first] = self.store.tokens[
                position - document : before_end - document
            ]
            lengths.append(end - position)
            position, document = end, document + 1
        return LanguageModelRow(token_ids, labels, tuple(lengths), self._bytes_before(last) - self._bytes_before(first))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, LanguageModelRow]]:
        """What the loader calls for a whole batch: each row with its index."""
        return [(index, self[index]) for index in indices]

    @property
    def lengths(self) -> Int64[np.ndarray, "rows"]:
        """Positions of each row."""
        starts = np.arange(len(self), dtype=np.int64) * self.context_length
        return np.minimum(self.context_length, self._starts[-1] - starts)

    @cached_property
    def _starts(self) -> Int64[np.ndarray, "documents_and_one"]:
        """First position of each document, and at the end the number of positions."""
        first_tokens = self.store.first_tokens
        return first_tokens + np.arange(len(first_tokens))

    def _bytes_before(self, position: int) -> int:
        """Bytes of the labels at all earlier positions."""
        if self.bytes_of_piece is None:
            return 0
        num_ends = int(np.searchsorted(self._starts[1:], position, side="right"))
        token, offsets, weights = position - num_ends, self.store.sentences.offsets, self._weights
        piece = int(np.searchsorted(offsets, token, side="right")) - 1
        before = int(self._bytes_of_pieces[piece])
        if piece == len(self.bytes_of_piece):
            return before
        weight, whole = (int(weights[place] - weights[offsets[piece]]) for place in (token, offsets[piece + 1]))
        return before + int(self.bytes_of_piece[piece]) * weight // max(whole, 1)

    @cached_property
    def _bytes_of_pieces(self) -> Int64[np.ndarray, "pieces_and_one"]:
        """Bytes before each piece."""
        assert self.bytes_of_piece is not None
        return _sums(self.bytes_of_piece)

    @cached_property
    def _weights(self) -> Int64[np.ndarray, "tokens_and_one"]:
        """Sum of the tokens' own bytes before each token."""
        if self.bytes_of_token is None:
            return np.arange(len(self.store.tokens) + 1, dtype=np.int64)
        return _sums(self.bytes_of_token[self.store.tokens])


def bytes_of_tokens(tokenizer: Any) -> Int[np.ndarray, "vocab"] | None:
    """UTF-8 bytes of each token id, as the tokenizer states them: its array ``bytes_of_token``, or else its method ``num_bytes(ids)``.

    None if it states nothing: then a text's bytes are divided evenly among its tokens.
    """
    if (stated := getattr(tokenizer, "bytes_of_token", None)) is not None:
        return np.asarray(stated() if callable(stated) else stated, dtype=np.int64)
    if hasattr(tokenizer, "num_bytes"):
        return np.array([tokenizer.num_bytes([number]) for number in range(tokenizer.vocab_size)], dtype=np.int64)
    return None


def _sums(values: Int[np.ndarray, "values"]) -> Int64[np.ndarray, "values_and_one"]:
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


@dataclass(frozen=True)
class LanguageModelBatch(Batch):
    """Several rows: one below the other, or, if documents are kept apart, packed one after the other.

    Attributes:
        token_ids: the model's input, padded on the right.
        labels: the next token at each position; `IGNORED_LABEL` for padding.
        segments: of packed rows, the lengths of the documents; None: a row is one sequence, across documents.
        num_bytes: UTF-8 bytes that the labels stand for; 0 if they are not counted.
        indices: which rows of the dataset these are.
    """

    token_ids: Int[Tensor, "batch length"]
    labels: Int[Tensor, "batch length"]
    segments: Segments | None
    num_bytes: int
    indices: tuple[int, ...]

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments of a model's ``forward``. The mask is causal: padding on the right needs no other."""
        return {"token_ids": self.token_ids, "attention_mask": AttentionMask(causal=True, segments=self.segments)}

    @cached_property
    def num_labels(self) -> int:
        """Number of terms in the summed loss: tokens, and ends of documents."""
        return int((self.labels != IGNORED_LABEL).sum())

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding: each has a label."""
        return self.num_labels

    @property
    def num_positions(self) -> int:
        """Positions, padding included."""
        return self.token_ids.numel()


@dataclass(frozen=True)
class LanguageModelCollator:
    """Makes a batch of rows.

    Attributes:
        documents_apart: whether attention is kept inside each document, and positions begin at 0 in each.
    """

    pad_id: int
    documents_apart: bool = False
    rows_multiple: int = ROWS_MULTIPLE

    def __call__(self, rows: Sequence[tuple[int, LanguageModelRow]]) -> LanguageModelBatch:
        segments = None
        if self.documents_apart:
            segments = Segments(tuple(length for _, row in rows for length in row.segment_lengths), self.rows_multiple)
            lines = [
                (np.concatenate([row.token_ids for _, row in rows]), np.concatenate([row.labels for _, row in rows]))
            ]
            width = segments.num_rows
        else:
            lines = [(row.token_ids, row.labels) for _, row in rows]
            width = max(len(token_ids) for token_ids, _ in lines)
        token_ids = np.full((len(lines), width), self.pad_id, dtype=np.int64)
        labels = np.full((len(lines), width), IGNORED_LABEL, dtype=np.int64)
        for number, (of_input, of_label) in enumerate(lines):
            token_ids[number, : len(of_input)], labels[number, : len(of_label)] = of_input, of_label
        return LanguageModelBatch(
            token_ids=torch.from_numpy(token_ids),
            labels=torch.from_numpy(labels),
            segments=segments,
            num_bytes=sum(row.num_bytes for _, row in rows),
            indices=tuple(index for index, _ in rows),
        )
