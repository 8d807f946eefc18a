"""Batches of a fixed number of rows: a pure function of (seed, epoch, rank)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from transformer_architectures.errors import UsageError


@dataclass(frozen=True)
class ShuffledBatchSampler:
    """Cuts rows into batches of ``batch_size``; the last batch of an epoch has what is left.

    With several ranks, step k of all ranks together takes the rows of step k of one rank with a batch that many times as large.
    Every rank gets the same number of batches: what is left for the last step is shared out evenly. Only where fewer rows are
    left than there are ranks do these go to nobody; they are others in every epoch.

    Attributes:
        num_rows: rows are numbered from 0.
        shuffle: a new order in every epoch; otherwise as they are numbered.
        epoch, start_batch: the position that iteration starts from, see `at`.
    """

    num_rows: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    start_batch: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank {self.rank} does not exist among {self.world_size}")

    def at(self, epoch: int, start_batch: int = 0) -> "ShuffledBatchSampler":
        """The same sampler, iterating over one epoch from a position on."""
        return replace(self, epoch=epoch, start_batch=start_batch)

    def __len__(self) -> int:
        full_steps, left = divmod(self.num_rows, self.batch_size * self.world_size)
        return max(0, full_steps + (left >= self.world_size) - self.start_batch)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        rows_per_step = self.batch_size * self.world_size
        for step in range(self.start_batch, self.start_batch + len(self)):
            rows = order[step * rows_per_step : (step + 1) * rows_per_step]
            yield np.array_split(rows, self.world_size)[self.rank].tolist()

    def _order(self) -> Int[np.ndarray, "rows"]:
        if not self.shuffle:
            return np.arange(self.num_rows)
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)


__all__ = ["ShuffledBatchSampler"]
