"""Items of a dataset that are worked out by several processes and come in order."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from transformer_architectures.processes import available_cores, ignore_signals

FEW = 256  # so many inputs are worked out here: starting processes would take as long

T = TypeVar("T")


def items_in_order(dataset: Dataset[T], num_items: int, num_inputs: int) -> Iterator[T]:
    """Items 0, 1, ... of a dataset, as they are.

    Args:
        num_inputs: pictures (or whatever takes the time) in all; processes are started only for many.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(num_items),
        collate_fn=_as_it_is,
        num_workers=available_cores() if num_inputs > FEW else 0,
        generator=torch.Generator(),  # of its own, or it would draw from the global one
        worker_init_fn=ignore_signals,
    )
    return iter(loader)


def _as_it_is(item: T) -> T:
    """Loaders would turn arrays into tensors."""
    return item


__all__ = ["FEW", "items_in_order"]
