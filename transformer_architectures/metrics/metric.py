"""A score's name, its direction, and how it is computed."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

K = TypeVar("K")
Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """What a score is. The first metric of a task is its main one: by it weights, seeds and early stopping are decided.

    Attributes:
        signature: how it is computed, so that others can repeat it.
        better: whether higher or lower values are better.
    """

    name: str
    signature: str = ""
    better: Direction = "higher"

    def is_better(self, value: float, other: float | None) -> bool:
        """Whether a value is better than another one. Anything but NaN is better than None or NaN."""
        if math.isnan(value):
            return False
        if other is None or math.isnan(other):
            return True
        return value > other if self.better == "higher" else value < other

    def best(self, values: Mapping[K, float]) -> K:
        """The key of the best value, the first one of equals; of NaN alone the first."""
        best, *others = values
        for key in others:
            if self.is_better(values[key], values[best]):
                best = key
        return best


def metrics(signatures: Mapping[str, str], lower_is_better: Collection[str] = ()) -> tuple[Metric, ...]:
    """A metric for each signature, in the same order."""
    return tuple(
        Metric(name, signature, "lower" if name in lower_is_better else "higher")
        for name, signature in signatures.items()
    )
