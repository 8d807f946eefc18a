"""Loaders of batches, alone or as one of several ranks.

The batches of a run do not depend on the number of its processes: a sampler knows none of them. Each rank loads its share of the rows
of every batch, so that all ranks together take the very steps of a single process, and a run may go on with another number of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from transformer_architectures.processes import deaf_children, time_limit

T = TypeVar("T")


class SteadyLoader(DataLoader[T]):
    """A loader whose workers no signal to the process group ends, see `deaf_children`."""

    def __iter__(self) -> Any:
        with deaf_children():
            return super().__iter__()


@dataclass(frozen=True)
class Share:
    """One rank's rows of a batch: neighbours, so that rows of similar length stay together.

    Attributes:
        batch: all rows, the same on every rank.
        begin, end: which of them are this rank's.
    """

    batch: tuple[int, ...]
    begin: int
    end: int

    @classmethod
    def of_rank(cls, batch: Sequence[int], rank: int, world_size: int) -> "Share":
        """As many rows as every other rank has, or one more."""
        size, larger = divmod(len(batch), world_size)
        begin = rank * size + min(rank, larger)
        return cls(tuple(batch), begin, begin + size + (rank < larger))

    @property
    def is_spare(self) -> bool:
        """Whether there are more ranks than rows, and none is left for this one."""
        return self.begin == self.end

    @property
    def rows(self) -> tuple[int, ...]:
        """This rank's; a rank without any takes the first row, for which it will not be counted."""
        return self.batch[:1] if self.is_spare else self.batch[self.begin : self.end]


@runtime_checkable
class ShareReader(Protocol):
    """How the rows of a share become a batch."""

    def rows(self, share: Share) -> Sequence[int]:
        """Which rows are read."""
        ...

    def batch(self, share: Share, items: Sequence[Any]) -> Any:
        """The batch that they make."""
        ...


@dataclass(frozen=True)
class RowByRow:
    """The usual one, where no row of a batch depends on the others."""

    collate: Callable[[Any], Any]

    def rows(self, share: Share) -> Sequence[int]:
        """The share's, and no others."""
        return share.rows

    def batch(self, share: Share, items: Sequence[Any]) -> Any:
        """All of them together."""
        return self.collate(items)


@dataclass(frozen=True)
class SpareBatch:
    """What a rank computes where no row is left for it, so that it does what the others do: it counts for nothing."""

    batch: Any
    num_labels: int = 0
    num_tokens: int = 0
    num_positions: int = 0
    indices: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Any:
        """The batch on a device."""
        return self.batch.to(device)

    def pin_memory(self) -> "SpareBatch":
        """In memory that a GPU reads without a detour; the loader calls this."""
        pin = getattr(self.batch, "pin_memory", None)
        return self if pin is None else replace(self, batch=pin())


@dataclass(frozen=True)
class Loading:
    """How the batches of a run are loaded.

    Attributes:
        rank, world_size: which share of each batch is this process's.
    """

    rank: int = 0
    world_size: int = 1

    def shares(
        self, dataset: Dataset[Any], batches: Any, reader: ShareReader, *, num_workers: int, seed: int
    ) -> DataLoader[Any]:
        """This rank's share of every batch of row numbers: what a model is trained on."""
        return self.whole(
            _SharedDataset(dataset, reader),
            _ShareSampler(batches, self.rank, self.world_size),
            _as_it_is,
            num_workers=num_workers,
            seed=seed,
        )

    def whole(
        self, dataset: Dataset[Any], batches: Any, collate: Callable[[Any], Any], *, num_workers: int, seed: int
    ) -> DataLoader[Any]:
        """Every batch as it is: what a model is scored on."""
        return SteadyLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            # Without one of its own, every loader would draw a number from the global generator.
            generator=torch.Generator().manual_seed(seed),
            pin_memory=torch.cuda.is_available(),
        )


def waited_for(batches: Iterable[T], seconds: float) -> Iterator[T]:
    """The batches; one that a loader's workers do not give in this time is an error, see `loader_workers`.

    A loader's own timeout does not cover all of the wait: for a worker that was stopped while it hands over a tensor, for ever.
    """
    has_workers = isinstance(batches, DataLoader) and batches.num_workers > 0
    iterator = iter(batches)
    while True:
        with time_limit(seconds if has_workers else 0.0, f"DataLoader gave nothing for {seconds:g} seconds"):
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def every_nth(loader: DataLoader[Any], first: int, step: int) -> DataLoader[Any]:
    """Some of a loader's batches, without loading the others."""
    assert loader.batch_sampler is not None
    return SteadyLoader(
        loader.dataset,
        batch_sampler=list(loader.batch_sampler)[first::step],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        generator=loader.generator,
        pin_memory=loader.pin_memory,
    )


@dataclass(frozen=True)
class _ShareSampler:
    batches: Any
    rank: int
    world_size: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Share]:
        for batch in self.batches:
            yield Share.of_rank(batch, self.rank, self.world_size)


@dataclass(frozen=True, eq=False)
class _SharedDataset(Dataset[Any]):
    """Reads what a share needs; the loader calls it with what the sampler gives."""

    dataset: Any
    reader: ShareReader

    def __getitems__(self, share: Share) -> Any:
        rows = self.reader.rows(share)
        read = getattr(self.dataset, "__getitems__", None)
        items = [self.dataset[row] for row in rows] if read is None else read(rows)
        batch = self.reader.batch(share, items)
        return SpareBatch(batch) if share.is_spare else batch


def _as_it_is(batch: Any) -> Any:
    return batch


__all__ = ["Loading", "RowByRow", "Share", "ShareReader", "SpareBatch", "SteadyLoader", "every_nth", "waited_for"]
