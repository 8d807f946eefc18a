"""Loaders of batches, for a single process or for one of several ranks.

The batches of a run do not depend on the number of its processes: a sampler knows nothing of ranks. Each rank loads its slice of every
batch. So all ranks together take exactly the steps of a single process, and a run may be resumed with another number of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from transformer_architectures.utils.moved import renamed
from transformer_architectures.utils.processes import block_signals_in_workers, time_limit

T = TypeVar("T")

Collate = Callable[[Any], Any]  # what makes a batch of a list of examples


class SteadyLoader(DataLoader[T]):
    """A loader whose workers ignore signals to the process group, see `block_signals_in_workers`."""

    def __iter__(self) -> Any:
        with block_signals_in_workers():
            return super().__iter__()


@dataclass(frozen=True)
class BatchSlice:
    """One rank's examples of a batch: consecutive ones, so that examples of similar length stay together.

    Attributes:
        batch: indices of all examples, the same on every rank.
        begin, end: which of them are this rank's.
    """

    batch: tuple[int, ...]
    begin: int
    end: int

    @classmethod
    def of_rank(cls, batch: Sequence[int], rank: int, world_size: int) -> "BatchSlice":
        """As many examples as every other rank has, or one more."""
        size, larger = divmod(len(batch), world_size)
        begin = rank * size + min(rank, larger)
        return cls(tuple(batch), begin, begin + size + (rank < larger))

    @property
    def is_dummy(self) -> bool:
        """Whether there are more ranks than examples, and none is left for this one."""
        return self.begin == self.end

    @property
    def rows(self) -> tuple[int, ...]:
        """This rank's; a rank without any takes the first example, which is not counted for it."""
        return self.batch[:1] if self.is_dummy else self.batch[self.begin : self.end]


@runtime_checkable
class SliceReader(Protocol):
    """How the examples of a slice become a batch."""

    def rows(self, batch_slice: BatchSlice) -> Sequence[int]:
        """The indices of the examples to read."""
        ...

    def batch(self, batch_slice: BatchSlice, items: Sequence[Any]) -> Any:
        """The batch of the examples that were read."""
        ...


@dataclass(frozen=True)
class RowByRow:
    """The usual case, in which no example of a batch depends on the others."""

    collate: Collate

    def rows(self, batch_slice: BatchSlice) -> Sequence[int]:
        """Those of the slice."""
        return batch_slice.rows

    def batch(self, batch_slice: BatchSlice, items: Sequence[Any]) -> Any:
        """All of them, collated."""
        return self.collate(items)


@dataclass(frozen=True)
class DummyBatch:
    """The batch of a rank without examples: it is computed, because all ranks must take batch_slice in a step, and counts for nothing."""

    batch: Any
    num_labels: int = 0
    num_tokens: int = 0
    num_positions: int = 0
    indices: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Any:
        """The batch on a device."""
        return self.batch.to(device)

    def pin_memory(self) -> "DummyBatch":
        """The batch in page-locked memory, which a GPU reads directly. A loader calls this."""
        pin = getattr(self.batch, "pin_memory", None)
        return self if pin is None else replace(self, batch=pin())


@dataclass(frozen=True)
class Loading:
    """How the batches of a run are loaded.

    Attributes:
        rank, world_size: which slice of each batch is this process's.
    """

    rank: int = 0
    world_size: int = 1

    def slices(
        self, dataset: Dataset[Any], batches: Any, reader: SliceReader, *, num_workers: int, seed: int
    ) -> DataLoader[Any]:
        """This rank's slice of every batch of indices: what a model is trained on."""
        return self.whole(
            _SlicedDataset(dataset, reader),
            _SliceSampler(batches, self.rank, self.world_size),
            _as_it_is,
            num_workers=num_workers,
            seed=seed,
        )

    def whole(
        self, dataset: Dataset[Any], batches: Any, collate: Collate, *, num_workers: int, seed: int
    ) -> DataLoader[Any]:
        """Every whole batch: what a model is scored on."""
        return SteadyLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            # Without its own generator, every loader would draw a number from the global one.
            generator=torch.Generator().manual_seed(seed),
            pin_memory=torch.cuda.is_available(),
        )


def iterate_with_timeout(batches: Iterable[T], seconds: float) -> Iterator[T]:
    """Iterates over batches. A batch that a loader's workers do not deliver in time is an error.

    A loader's own timeout does not cover all waiting: for a worker that was stopped while it hands over a tensor, it waits for ever.
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
class _SliceSampler:
    batches: Any
    rank: int
    world_size: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[BatchSlice]:
        for batch in self.batches:
            yield BatchSlice.of_rank(batch, self.rank, self.world_size)


@dataclass(frozen=True, eq=False)
class _SlicedDataset(Dataset[Any]):
    """Reads what a slice needs; the loader calls it with what the sampler gives."""

    dataset: Any
    reader: SliceReader

    def __getitems__(self, batch_slice: BatchSlice) -> Any:
        rows = self.reader.rows(batch_slice)
        read = getattr(self.dataset, "__getitems__", None)
        items = [self.dataset[row] for row in rows] if read is None else read(rows)
        batch = self.reader.batch(batch_slice, items)
        return DummyBatch(batch) if batch_slice.is_dummy else batch


def _as_it_is(batch: Any) -> Any:
    return batch


__getattr__ = renamed(__name__, {"Share": "BatchSlice", "ShareReader": "SliceReader"})
