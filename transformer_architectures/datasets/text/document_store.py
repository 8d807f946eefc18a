"""Tokenised documents on disk: a row of a `TokenStore` is a sentence (or piece); other files say how many each document has."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer

from transformer_architectures.datasets.text.token_store import TokenStore, TokenStoreWriter
from transformer_architectures.errors import DataError


class DocumentStoreWriter:
    """Appends documents to ``<name>.bin`` and ``<name>.lengths`` (sentences), ``<name>.documents`` and ``<name>.bytes``."""

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.sentences = TokenStoreWriter(folder, name, vocab_size)
        self.path, self.bytes_path = folder / f"{name}.documents", folder / f"{name}.bytes"
        self.num_sentences: list[int] = []
        self.num_bytes: list[int] = []

    def append(self, document: Iterable[Int[np.ndarray, "_"]], num_bytes: Iterable[int] | None = None) -> None:
        """Adds a document at the end. Sentences without a token are left out, and so is a document without any.

        Args:
            num_bytes: length of each sentence's text in UTF-8. Those of a sentence that is left out count for the next one, or the last.
        """
        rows = list(document)
        lengths = [0] * len(rows) if num_bytes is None else list(num_bytes)
        kept, carried = 0, 0
        for row, length in zip(rows, lengths, strict=True):
            carried += length
            if len(row):
                self.sentences.append(row)
                self.num_bytes.append(carried)
                kept, carried = kept + 1, 0
        if kept:
            self.num_sentences.append(kept)
            self.num_bytes[-1] += carried

    def __enter__(self) -> "DocumentStoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Writes what is still in memory."""
        self.sentences.close()
        self.path.write_bytes(np.array(self.num_sentences, dtype=np.int32).tobytes())
        self.bytes_path.write_bytes(np.array(self.num_bytes, dtype=np.int32).tobytes())


class DocumentStore:
    """Reads what the writer wrote; tokens stay on disk until they are asked for.

    Attributes:
        sentences: the token ids of each, in order.
        first_sentences: index of each document's first sentence, and at the end the number of sentences.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.sentences = TokenStore(folder, name, vocab_size)
        counts = np.fromfile(folder / f"{name}.documents", dtype=np.int32)
        self.first_sentences: Int[np.ndarray, "documents_and_one"] = np.concatenate(
            [[0], np.cumsum(counts, dtype=np.int64)]
        )
        self._bytes_path = folder / f"{name}.bytes"

    def __len__(self) -> int:
        return len(self.first_sentences) - 1

    @property
    def tokens(self) -> Integer[np.ndarray, "tokens"]:
        """All documents one after the other, memory-mapped."""
        return self.sentences.tokens

    @property
    def first_tokens(self) -> Int[np.ndarray, "documents_and_one"]:
        """Index of each document's first token, and at the end the number of tokens."""
        return self.sentences.offsets[self.first_sentences]

    def num_bytes(self) -> Int[np.ndarray, "sentences"]:
        """Length of each sentence's text in UTF-8.

        Raises:
            DataError: the store was written by an older version, which did not count them.
        """
        try:
            return np.fromfile(self._bytes_path, dtype=np.int32)
        except FileNotFoundError:
            folder = self._bytes_path.parent
            raise DataError(f"{folder}: does not count bytes: delete this folder, it is made again") from None
