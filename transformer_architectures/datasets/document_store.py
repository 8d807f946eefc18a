"""Tokenised documents on disk: a row of a `TokenStore` is a sentence; a second file says how many each document has."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer

from transformer_architectures.datasets.token_store import TokenStore, TokenStoreWriter


class DocumentStoreWriter:
    """Appends documents to ``<name>.bin`` and ``<name>.lengths`` (sentences) and ``<name>.documents``."""

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.sentences = TokenStoreWriter(folder, name, vocab_size)
        self.path = folder / f"{name}.documents"
        self.num_sentences: list[int] = []

    def append(self, document: Iterable[Int[np.ndarray, "_"]]) -> None:
        """Adds one document at the end. Sentences without a token are left out, and so is a document without any."""
        rows = [row for row in document if len(row)]
        for row in rows:
            self.sentences.append(row)
        if rows:
            self.num_sentences.append(len(rows))

    def __enter__(self) -> "DocumentStoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Writes what is still in memory."""
        self.sentences.close()
        self.path.write_bytes(np.array(self.num_sentences, dtype=np.int32).tobytes())


class DocumentStore:
    """Reads what the writer wrote; tokens stay on disk until they are asked for.

    Attributes:
        sentences: the token ids of each, in order.
        first_sentences: where each document begins among them, and at the end their number.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.sentences = TokenStore(folder, name, vocab_size)
        counts = np.fromfile(folder / f"{name}.documents", dtype=np.int32)
        self.first_sentences: Int[np.ndarray, "documents_and_one"] = np.concatenate(
            [[0], np.cumsum(counts, dtype=np.int64)]
        )

    def __len__(self) -> int:
        return len(self.first_sentences) - 1

    @property
    def tokens(self) -> Integer[np.ndarray, "tokens"]:
        """All documents one after the other, mapped."""
        return self.sentences.tokens


__all__ = ["DocumentStore", "DocumentStoreWriter"]
