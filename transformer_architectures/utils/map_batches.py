"""How a list of batches is worked through: by one process, or by several that share them out."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

B = TypeVar("B")
R = TypeVar("R")


@runtime_checkable
class MapBatches(Protocol):
    """Computes something for each of many batches."""

    def __call__(self, batches: Iterable[B], compute: Callable[[B], R]) -> list[R]:
        """The results in the order of the batches, the same on every rank; may raise to end the work early."""
        ...


def map_batches(batches: Iterable[B], compute: Callable[[B], R]) -> list[R]:
    """In this process, without an end before the last."""
    return [compute(batch) for batch in batches]
