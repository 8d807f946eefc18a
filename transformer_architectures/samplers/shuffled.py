"""Batches of a fixed number of rows: a pure function of (seed, epoch)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from transformer_architectures.errors import UsageError


@dataclass(frozen=True)
class ShuffledBatchSampler:
    """Cuts rows into batches of ``batch_size``; the last batch of an epoch has what is left.

    Attributes:
        num_rows: rows are numbered from 0.
        shuffle: a new order in every epoch; otherwise as they are numbered.
        epoch, start_batch: the position that iteration starts from, see `at`.
    """

    num_rows: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    epoch: int = 0
    start_batch: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")

    def at(self, epoch: int, start_batch: int = 0) -> "ShuffledBatchSampler":
        """The same sampler, iterating over one epoch from a position on."""
        return replace(self, epoch=epoch, start_batch=start_batch)

    def __len__(self) -> int:
        return max(0, -(-self.num_rows // self.batch_size) - self.start_batch)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(self.start_batch * self.batch_size, self.num_rows, self.batch_size):
            yield order[start : start + self.batch_size].tolist()

    def _order(self) -> Int[np.ndarray, "rows"]:
        if not self.shuffle:
            return np.arange(self.num_rows)
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
