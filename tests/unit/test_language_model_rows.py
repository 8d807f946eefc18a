"""Rows of a language model: labels are the next tokens, every token, end and byte counts once, documents are kept apart when asked."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from transformer_architectures.datasets.text.document_store import DocumentStore, DocumentStoreWriter
from transformer_architectures.datasets.text.language_model import (
    LanguageModelDataConfig,
    LanguageModelDataModule,
    language_model_rows_of_file,
)
from transformer_architectures.datasets.text.language_model_rows import (
    IGNORED_LABEL,
    LanguageModelCollator,
    LanguageModelRows,
    bytes_of_tokens,
)
from transformer_architectures.errors import DataError

BEGIN, END, PAD = 1, 2, 0
Documents = list[list[list[int]]]  # documents of pieces of tokens
documents_of_tokens = st.lists(
    st.lists(st.lists(st.integers(3, 99), max_size=9), min_size=1, max_size=4), min_size=1, max_size=6
).filter(lambda documents: any(map(any, documents)))


def rows_of(folder: Path, documents: Documents, context_length: int, **options: Any) -> LanguageModelRows:
    """Rows over documents in which a piece has three bytes for each token, and two more."""
    with DocumentStoreWriter(folder, "x", 100) as writer:
        for document in documents:
            pieces = [np.array(piece, dtype=np.int32) for piece in document]
            writer.append(pieces, [3 * len(piece) + 2 for piece in document])
    store = DocumentStore(folder, "x", 100)
    return LanguageModelRows(store, context_length, BEGIN, END, store.num_bytes(), **options)


def tokens_of(documents: Documents) -> list[list[int]]:
    return [tokens for document in documents if (tokens := [token for piece in document for token in piece])]


@settings(deadline=None, max_examples=150)
@given(documents_of_tokens, st.integers(1, 12), st.booleans())
def test_labels_are_the_next_tokens_and_everything_counts_once(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, context_length: int, are_stated: bool
) -> None:
    stated = {"bytes_of_token": np.arange(100) % 4} if are_stated else {}
    rows = rows_of(tmp_path_factory.mktemp("rows"), documents, context_length, **stated)
    found = [rows[index] for index in range(len(rows))]
    kept = tokens_of(documents)
    inputs = [token for tokens in kept for token in [BEGIN, *tokens]]
    labels = [token for tokens in kept for token in [*tokens, END]]
    assert [token for row in found for token in row.token_ids.tolist()] == inputs
    assert [token for row in found for token in row.labels.tolist()] == labels
    assert all(len(row.labels) == context_length for row in found[:-1])
    assert rows.lengths.tolist() == [len(row.labels) for row in found]
    # Segments are the documents, cut where rows are cut.
    bounds = np.cumsum([0, *(len(tokens) + 1 for tokens in kept)])
    expected = sorted({*bounds.tolist(), *range(0, len(labels), context_length)})
    assert np.cumsum([0, *(length for row in found for length in row.segment_lengths)]).tolist() == expected
    assert [sum(row.segment_lengths) for row in found] == rows.lengths.tolist()
    # Bytes, those of pieces without a token too, but of a document without any.
    num_bytes = [sum(3 * len(piece) + 2 for piece in document) for document in documents if any(document)]
    assert sum(row.num_bytes for row in found) == sum(num_bytes) and all(row.num_bytes >= 0 for row in found)


def test_bytes_are_those_of_the_labels(tmp_path: Path) -> None:
    with DocumentStoreWriter(tmp_path, "x", 100) as writer:
        writer.append([np.array([3, 4, 5, 6])], [10])
    store = DocumentStore(tmp_path, "x", 100)
    stated = np.zeros(100, dtype=np.int64)
    stated[3:7] = [1, 2, 3, 4]
    rows = LanguageModelRows(store, 2, BEGIN, END, store.num_bytes(), stated)
    assert [rows[index].num_bytes for index in range(3)] == [3, 7, 0]  # the last row has the end only
    evenly = LanguageModelRows(store, 2, BEGIN, END, store.num_bytes())
    assert [evenly[index].num_bytes for index in range(3)] == [5, 5, 0]
    uncounted = LanguageModelRows(store, 2, BEGIN, END)
    assert [uncounted[index].num_bytes for index in range(3)] == [0, 0, 0]


class _States:
    vocab_size = 3
    num_bytes = staticmethod(lambda ids: 2 * sum(ids))


def test_a_tokenizer_states_its_bytes() -> None:
    found = bytes_of_tokens(_States())
    assert found is not None and found.tolist() == [0, 2, 4]


def test_a_store_of_an_older_version_counts_no_bytes(tmp_path: Path) -> None:
    with DocumentStoreWriter(tmp_path, "x", 100) as writer:
        writer.append([np.array([3])], [1])
    (tmp_path / "x.bytes").unlink()
    with pytest.raises(DataError, match="delete this folder"):
        DocumentStore(tmp_path, "x", 100).num_bytes()


def test_batches(tmp_path: Path, seed: int) -> None:
    documents: Documents = [[np.random.randint(3, 100, np.random.randint(1, 30)).tolist()] for _ in range(9)]
    rows = rows_of(tmp_path, documents, 16)
    chosen = random.sample(range(len(rows)), 4) + [len(rows) - 1]
    found = rows.__getitems__(chosen)
    together, apart = (LanguageModelCollator(PAD, documents_apart)(found) for documents_apart in (False, True))
    for batch in (together, apart):
        assert batch.indices == tuple(chosen) and batch.num_bytes == sum(row.num_bytes for _, row in found)
        assert batch.num_labels == batch.num_tokens == sum(len(row.labels) for _, row in found)
        assert batch.num_positions == batch.token_ids.numel() == batch.labels.numel()
        real = batch.labels != IGNORED_LABEL
        assert batch.labels[real].tolist() == [token for _, row in found for token in row.labels.tolist()]
        assert batch.token_ids[real].tolist() == [token for _, row in found for token in row.token_ids.tolist()]
        assert (batch.token_ids[~real] == PAD).all()
        assert batch.inputs["attention_mask"].causal and batch.to(torch.device("cpu")) is batch
    assert together.token_ids.shape == (5, 16) and together.segments is None
    assert apart.segments is not None and apart.token_ids.shape == (1, apart.segments.num_rows)
    assert apart.segments.lengths == tuple(length for _, row in found for length in row.segment_lengths)
    # No position sees another document, or what comes after it.
    allowed = apart.inputs["attention_mask"].render(*[apart.num_positions] * 2, torch.device("cpu"))
    numbers = apart.segments.numbers()
    assert not allowed[0, 0][numbers[:, None] != numbers].any() and not allowed[0, 0].triu(1).any()


# ---------------------------------------------------------------------------------------------------------------------
# The data module
# ---------------------------------------------------------------------------------------------------------------------

NOVEL = "".join(f"\tLine {number} of the story, which goes on and on.\n" for number in range(3_000))


def make(tmp_path: Path, text: str = NOVEL, **changes: Any) -> LanguageModelDataModule:
    (tmp_path / "novel.txt").write_bytes(text.encode())
    config = {"train": {"documents": {"files": [str(tmp_path / "novel.txt")]}}, "cache_dir": str(tmp_path / "cache")}
    sections = LanguageModelDataConfig.model_validate({**config, "context_length": 32, **changes})
    data = LanguageModelDataModule(sections, 300, seed=3, batch_tokens=128)
    data.setup()
    return data


def test_one_novel_is_trained_and_validated_on(tmp_path: Path) -> None:
    data = make(tmp_path)
    validation = data.dataset("validation")
    num_bytes = sum(batch.num_bytes for batch in data.val_dataloader())
    assert 0.015 < num_bytes / len(NOVEL) < 0.025 and data.test_dataloader() is None
    tokens = [validation.store.sentences[row].tolist() for row in range(len(validation.store.sentences))]
    text = "".join(data.tokenizer.decode_batch(tokens))
    assert text in NOVEL and len(text) == num_bytes  # one stretch, exactly as it is in the file
    assert data.row_counts()["train"] == 2 and data.row_counts()["validation"] == 1
    batches = list(data.train_dataloader(1))
    assert len(batches) == data.batches_per_epoch(1) and {batch.num_bytes for batch in batches} == {0}
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(data.dataset("train"))))
    again = [batch.token_ids.tolist() for batch in make(tmp_path).train_dataloader(1, 2)]
    assert again == [batch.token_ids.tolist() for batch in batches[2:]]


def test_a_file_to_be_scored(tmp_path: Path) -> None:
    data = make(tmp_path)
    file = tmp_path / "other.txt"
    file.write_bytes("  Zwölf\r\n\r\n\tJahre später …\n".encode())
    rows = language_model_rows_of_file(file, data.tokenizer, 8)
    found = [rows[index] for index in range(len(rows))]
    assert sum(row.num_bytes for row in found) == file.stat().st_size
    file.write_bytes(b"good\n\xff\n")
    with pytest.raises(DataError, match=r"other\.txt:2: not UTF-8: correct or remove it"):
        language_model_rows_of_file(file, data.tokenizer, 8)


def test_defaults_and_other_names_of_keys() -> None:
    train = {"documents": {"files": ["a.txt"]}}
    config = LanguageModelDataConfig.model_validate({"train": train, "max_length": 9})
    assert (config.context_length, config.train.documents.text, config.train.documents.document) == (9, "exact", "file")
    with pytest.raises(ValidationError, match="its own validation"):
        LanguageModelDataConfig.model_validate({"train": {"documents": {"bible": ["web"]}}, "test": train})
