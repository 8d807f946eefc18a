"""Packed rows: nothing lost, nothing mixed, never too long, as full as whole sentences allow."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.datasets.text.document_store import DocumentStore, DocumentStoreWriter
from transformer_architectures.datasets.text.packing import PackedRow, pack_documents
from transformer_architectures.datasets.text.windowed_text import SpecialTokens
from transformer_architectures.errors import UsageError

CLS, SEP = 1, 2
Documents = list[list[list[int]]]  # documents of sentences of tokens
Segments = list[list[list[int]]]  # rows of segments of tokens

documents_of_tokens = st.lists(
    st.lists(st.lists(st.integers(3, 299), min_size=1, max_size=9), min_size=1, max_size=6), max_size=8
)


def packed(folder: Path, documents: Documents, max_length: int) -> tuple[list[PackedRow], int]:
    """The rows, and how many sentences were cut."""
    with DocumentStoreWriter(folder, "x", 300) as writer:
        for document in documents:
            writer.append(np.array(sentence, dtype=np.int32) for sentence in document)
    store = DocumentStore(folder, "x", 300)
    rows = pack_documents(store, max_length, SpecialTokens((CLS,), (SEP,)))
    found = [rows.row(index, store.tokens) for index in range(len(rows))]
    assert rows.row_lengths.tolist() == [len(row.input_ids) for row in found]
    return found, rows.num_cut_sentences


def segments(row: PackedRow) -> list[list[int]]:
    """The tokens of each segment, after a look at the special ones."""
    assert sum(row.segment_lengths) == len(row.input_ids) and row.input_ids.dtype == np.int64
    ends = np.cumsum(row.segment_lengths).tolist()
    pieces = [row.input_ids[end - length : end].tolist() for end, length in zip(ends, row.segment_lengths, strict=True)]
    assert all(piece[0] == CLS and piece[-1] == SEP and len(piece) > 2 for piece in pieces)
    return [piece[1:-1] for piece in pieces]


def plainly_packed(documents: Documents, max_length: int) -> tuple[Segments, int]:
    """The same rule, sentence by sentence."""
    rows: Segments = [[]]
    num_cut = 0

    def room() -> int:
        return max_length - sum(len(segment) + 2 for segment in rows[-1])

    for document in documents:
        goes_on = False  # whether the last segment of the last row is of this document
        for sentence in document:
            rest = sentence
            num_cut += len(sentence) > max_length - 2
            while rest:
                if goes_on and len(rest) <= room():
                    rows[-1][-1] += rest
                    break
                if not goes_on and len(rest) <= room() - 2:
                    rows[-1].append(list(rest))
                    break
                if rows[-1]:
                    rows.append([])
                else:
                    rows[-1].append(rest[: max_length - 2])
                    rest = rest[max_length - 2 :]
                    rows.append([])
                goes_on = False
            goes_on = True
    return [row for row in rows if row], num_cut


@settings(deadline=None, max_examples=150)
@given(documents_of_tokens, st.integers(3, 16))
def test_packing_is_the_plain_rule(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, max_length: int
) -> None:
    rows, num_cut = packed(tmp_path_factory.mktemp("packed"), documents, max_length)
    assert all(len(row.input_ids) <= max_length for row in rows)
    assert ([segments(row) for row in rows], num_cut) == plainly_packed(documents, max_length)


@settings(deadline=None, max_examples=150)
@given(documents_of_tokens, st.integers(3, 16))
def test_every_token_once_in_order_and_documents_apart(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, max_length: int
) -> None:
    rows, _ = packed(tmp_path_factory.mktemp("packed"), documents, max_length)
    pieces = [piece for row in rows for piece in segments(row)]
    for document in documents:
        tokens = [token for sentence in document for token in sentence]
        found: list[int] = []
        while len(found) < len(tokens):
            found += pieces.pop(0)
        assert found == tokens  # no segment reaches into the next document
    assert not pieces


@settings(deadline=None, max_examples=100)
@given(documents_of_tokens, st.integers(11, 30))
def test_short_sentences_stay_whole(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, max_length: int
) -> None:
    rows, num_cut = packed(tmp_path_factory.mktemp("packed"), documents, max_length)
    assert num_cut == 0
    sentences = [sentence for document in documents for sentence in document]
    for row in rows:
        for piece in segments(row):
            while piece:
                sentence = sentences.pop(0)
                assert piece[: len(sentence)] == sentence
                piece = piece[len(sentence) :]


def test_a_sentence_that_fits_no_row_is_cut_and_counted(tmp_path: Path) -> None:
    long = list(range(10, 21))  # 11 tokens, 4 of which fit
    rows, num_cut = packed(tmp_path, [[[3, 4], long, [5]], [[6]]], max_length=6)
    assert [segments(row) for row in rows] == [[[3, 4]], [long[:4]], [long[4:8]], [[*long[8:], 5]], [[6]]]
    assert num_cut == 1


def test_no_documents_no_rows(tmp_path: Path) -> None:
    assert packed(tmp_path, [], 8) == ([], 0)


@pytest.mark.parametrize("max_length", [2, 0, -1])
def test_rows_without_room_are_refused(tmp_path: Path, max_length: int) -> None:
    with pytest.raises(UsageError, match="max_length"):
        packed(tmp_path, [[[3]]], max_length)


def test_rows_of_many_documents_are_full(tmp_path: Path, seed: int) -> None:
    """Sentences of up to 9 tokens in rows of 64: at most a sentence and its specials are missing, but for the last row."""
    documents = [
        [np.random.randint(3, 300, np.random.randint(1, 10)).tolist() for _ in range(np.random.randint(1, 20))]
        for _ in range(60)
    ]
    rows, _ = packed(tmp_path, documents, 64)
    assert all(len(row.input_ids) > 64 - 9 - 2 for row in rows[:-1])


def test_segments_between_any_special_tokens(tmp_path: Path) -> None:
    with DocumentStoreWriter(tmp_path, "x", 300) as writer:
        writer.append([np.array([10, 11]), np.array([12])])
        writer.append([np.array([13])])
    store = DocumentStore(tmp_path, "x", 300)
    for special, expected in (
        (SpecialTokens((), ()), [10, 11, 12, 13]),
        (SpecialTokens((CLS, CLS), (SEP,)), [CLS, CLS, 10, 11, 12, SEP, CLS, CLS, 13, SEP]),
        (SpecialTokens((), (SEP,)), [10, 11, 12, SEP, 13, SEP]),
    ):
        rows = pack_documents(store, 10, special)
        assert len(rows) == 1 and rows.row(0, store.tokens).input_ids.tolist() == expected
        assert rows.row_lengths.tolist() == [len(expected)]
