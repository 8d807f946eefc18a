"""Items that are worked out by several processes and come in order."""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch.utils.data import Dataset

from transformer_architectures.datasets.loading import SteadyLoader
from transformer_architectures.errors import TransformerArchitecturesError
from transformer_architectures.utils.processes import available_cores

FEW = 256  # so many inputs are worked out here: starting processes would take as long

T = TypeVar("T")
Item = TypeVar("Item", covariant=True)


@runtime_checkable
class Items(Protocol[Item]):
    """What is worked out when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


def items_in_order(items: Items[T], num_inputs: int) -> Iterator[T]:
    """Items 0, 1, ... as they are; an error of the library arrives as it was raised.

    Args:
        num_inputs: images (or whatever takes the time) in all; processes are started only for many.
    """
    loader = SteadyLoader(
        _ErrorsAsItems(items),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=available_cores() if num_inputs > FEW else 0,
        generator=torch.Generator(),  # of its own, or it would draw from the global one
    )
    for item in loader:
        if isinstance(item, TransformerArchitecturesError):
            raise item
        yield item


class _ErrorsAsItems(Dataset[T | TransformerArchitecturesError], Generic[T]):
    """A loader would raise a worker's error with the worker's whole traceback for its message."""

    def __init__(self, items: Items[T]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T | TransformerArchitecturesError:
        try:
            return self.items[index]
        except TransformerArchitecturesError as error:
            return error


def _as_it_is(item: T) -> T:
    """Loaders would turn arrays into tensors."""
    return item
