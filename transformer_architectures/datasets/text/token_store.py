"""Token ids of many rows in flat, memory-mapped arrays: what does not fit into memory stays on disk."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer


class TokenStoreWriter:
    """Appends rows of token ids to ``<name>.bin``; ``<name>.lengths`` says where each ends."""

    ROWS_IN_MEMORY = 10_000

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.dtype = token_dtype(vocab_size)
        self.tokens = (folder / f"{name}.bin").open("wb")
        self.lengths = (folder / f"{name}.lengths").open("wb")
        self.rows: list[Int[np.ndarray, "_"]] = []

    def append(self, row: Int[np.ndarray, "_"]) -> None:
        """Adds one row at the end."""
        self.rows.append(row)
        if len(self.rows) == self.ROWS_IN_MEMORY:
            self._flush()

    def close(self) -> None:
        """Writes what is still in memory."""
        try:
            self._flush()
        finally:
            self.tokens.close()
            self.lengths.close()

    def _flush(self) -> None:
        if self.rows:
            # Not by `tofile`: where the disk is full it may lose the end of an array and not say so.
            self.tokens.write(np.concatenate(self.rows).astype(self.dtype).data)
            self.lengths.write(np.array([len(row) for row in self.rows], dtype=np.int32).data)
            self.rows = []


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """Two bytes a token where they are enough."""
    return np.uint16 if vocab_size <= 2**16 else np.int32


class TokenStore:
    """Row ``i`` of a written store; nothing is read from disk before it is asked for, but the lengths."""

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.lengths: Int[np.ndarray, "rows"] = np.fromfile(folder / f"{name}.lengths", dtype=np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        dtype = token_dtype(vocab_size)
        path = folder / f"{name}.bin"
        # An empty file cannot be mapped.
        self.tokens = np.memmap(path, dtype=dtype, mode="r") if self.offsets[-1] else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Integer[np.ndarray, "length"]:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]
