"""Batches of similar lengths under a budget of tokens, padding counted: a pure function of (seed, epoch)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int

from transformer_architectures.errors import UsageError

Lengths = Int[np.ndarray, "rows sides"]


@dataclass(frozen=True)
class TokenBudgetBatchSampler:
    """Cuts rows into batches that cost at most ``max_tokens`` positions each.

    The cost of a batch is ``rows × (longest source + longest target)``; a row that costs more alone is a batch alone.

    Attributes:
        lengths: ``(rows, sides)``, the length that each side of a row takes in a batch.
        shuffle: bucket and shuffle anew in every epoch; otherwise one fixed order, longest first (so that memory runs out early).
        rows_multiple: larger batches have a multiple of so many rows (but for the last one), so that fewer shapes occur.
        epoch, start_batch: the position that iteration starts from, see `at`.
    """

    lengths: Lengths
    max_tokens: int
    seed: int = 0
    shuffle: bool = True
    rows_multiple: int = 1
    epoch: int = 0
    start_batch: int = 0
    # Of the last epoch that was asked for; `at` hands it on, so that an epoch is sorted and cut once.
    _known: dict[int, list[Int[np.ndarray, "_"]]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.rows_multiple < 1:
            raise UsageError(
                f"max_tokens and rows_multiple must be at least 1, not {min(self.max_tokens, self.rows_multiple)}"
            )

    def at(self, epoch: int, start_batch: int = 0) -> "TokenBudgetBatchSampler":
        """The same sampler, iterating over one epoch from a position on."""
        return replace(self, epoch=epoch, start_batch=start_batch)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches(self.epoch)[self.start_batch :]:
            yield batch.tolist()

    def __len__(self) -> int:
        return max(0, len(self.batches(self.epoch)) - self.start_batch)

    def batches(self, epoch: int) -> list[Int[np.ndarray, "_"]]:
        """The row numbers of each batch of an epoch."""
        if epoch not in self._known:
            made = self._make(epoch)
            self._known.clear()
            self._known[epoch] = made
        return self._known[epoch]

    def _make(self, epoch: int) -> list[Int[np.ndarray, "_"]]:
        generator = np.random.default_rng([self.seed, epoch]) if self.shuffle else None
        order = self._similar_lengths_together(generator)
        bounds = self._cut(self.lengths[order].astype(np.int64))
        batches = [order[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
        if generator is not None:
            batches = [batches[index] for index in generator.permutation(len(batches))]
        return batches

    def padding_share(self, epoch: int) -> float:
        """Share of all positions of an epoch that are padding."""
        real = positions = 0
        for batch in self.batches(epoch):
            lengths = self.lengths[batch].astype(np.int64)
            real += int(lengths.sum())
            positions += len(batch) * int(lengths.max(axis=0).sum())
        return 1 - real / positions if positions else 0.0

    def _similar_lengths_together(self, generator: np.random.Generator | None) -> Int[np.ndarray, "rows"]:
        """Sorted by the first side's length; among equals by the others', up and down in turn, so that neighbours are alike."""
        first, rest = self.lengths[:, 0].astype(np.int64), self.lengths[:, 1:].sum(axis=1, dtype=np.int64)
        if generator is None:
            return np.lexsort((rest, first))[::-1]
        # One length of blur: without it a small corpus would fall into the very same batches in every epoch.
        first = first + generator.integers(0, 2, len(first))
        rest = rest + generator.integers(0, 2, len(rest))
        turning = np.where(first % 2 == 0, rest, -rest)
        return np.lexsort((generator.random(len(first)), turning, first))

    def _cut(self, lengths: Int[np.ndarray, "rows sides"]) -> list[int]:
        """Greedy: as many rows in each batch as the budget allows."""
        bounds = [0]
        while (start := bounds[-1]) < len(lengths):
            # Longer rows may follow, never so many that twice this guess would fit.
            guess = 2 * max(1, self.max_tokens // max(1, int(lengths[start].sum())))
            longest = np.maximum.accumulate(lengths[start : start + guess], axis=0).sum(axis=1)
            costs = longest * np.arange(1, len(longest) + 1)
            num_rows = max(1, int(np.searchsorted(costs, self.max_tokens, side="right")))
            if num_rows > self.rows_multiple and start + num_rows < len(lengths):
                num_rows -= num_rows % self.rows_multiple
            bounds.append(start + num_rows)
        return bounds
