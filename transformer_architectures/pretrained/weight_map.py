"""A declared, two-way map between our state dict and the weights of a published checkpoint.

A map is a list of entries, each of which knows both directions: nothing is converted that cannot be converted back.
Names are written once for all layers, as in ``Rename("encoder.blocks.{i}.{kind}", ...)``, and filled in by `for_each`. A
weight that is missing, or that no entry names, is an error. Entries only move numbers about: a map converts gradients too.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from transformer_architectures.errors import ModelFolderError


class Remaining:
    """Weights that no entry has taken yet."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)

    def find(self, name: str) -> Tensor | None:
        """Takes a weight, if it is there."""
        return self.weights.pop(name, None)

    def take(self, name: str) -> Tensor:
        """Takes a weight that must be there."""
        if (tensor := self.find(name)) is None:
            raise ModelFolderError(f"the weight {name} is missing")
        return tensor


@dataclass(frozen=True)
class Entry(ABC):
    """The names of one or several weights on either side, and how those of one side become those of the other."""

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]

    @abstractmethod
    def to_ours(self, remaining: Remaining) -> Mapping[str, Tensor]:
        """Takes the checkpoint's weights and gives ours."""

    @abstractmethod
    def to_theirs(self, remaining: Remaining) -> Mapping[str, Tensor]:
        """Takes our weights and gives the checkpoint's."""


@dataclass(frozen=True)
class Rename(Entry):
    """The same tensor under two names."""

    ours: str
    theirs: str

    def to_ours(self, remaining: Remaining) -> Mapping[str, Tensor]:
        return {self.ours: remaining.take(self.theirs)}

    def to_theirs(self, remaining: Remaining) -> Mapping[str, Tensor]:
        return {self.theirs: remaining.take(self.ours)}


@dataclass(frozen=True)
class OnlyRow(Entry):
    """A tensor of ours, which the checkpoint keeps as the only row of a larger one."""

    ours: str
    theirs: str

    def to_ours(self, remaining: Remaining) -> Mapping[str, Tensor]:
        rows = remaining.take(self.theirs)
        if rows.dim() < 2 or len(rows) != 1:
            raise ModelFolderError(f"the weight {self.theirs} has shape {tuple(rows.shape)}, not that of one row")
        return {self.ours: rows[0]}

    def to_theirs(self, remaining: Remaining) -> Mapping[str, Tensor]:
        return {self.theirs: remaining.take(self.ours)[None]}


@dataclass(frozen=True)
class Stacked(Entry):
    """Several tensors of ours with equal shapes, which the checkpoint keeps as one, the first above the second."""

    ours: tuple[str, ...]
    theirs: str

    def to_ours(self, remaining: Remaining) -> Mapping[str, Tensor]:
        stack = remaining.take(self.theirs)
        if len(stack) % len(self.ours):
            raise ModelFolderError(
                f"the weight {self.theirs} has {len(stack)} rows, not a multiple of {len(self.ours)}"
            )
        return dict(zip(self.ours, stack.chunk(len(self.ours)), strict=True))

    def to_theirs(self, remaining: Remaining) -> Mapping[str, Tensor]:
        return {self.theirs: torch.cat([remaining.take(name) for name in self.ours])}


@dataclass(frozen=True)
class Tied(Entry):
    """One tensor under several names on either side; a file may hold it under any of them."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    def to_ours(self, remaining: Remaining) -> Mapping[str, Tensor]:
        return dict.fromkeys(self.ours, _the_one(self.theirs, remaining))

    def to_theirs(self, remaining: Remaining) -> Mapping[str, Tensor]:
        return dict.fromkeys(self.theirs, _the_one(self.ours, remaining))


@dataclass(frozen=True, eq=False)
class Computed(Entry):
    """Tables that we compute, without a weight, and that a checkpoint may hold: equal up to rounding.

    Attributes:
        is_written: whether a checkpoint of today holds them; False for what only older ones do.
    """

    ours: tuple[str, ...]  # none
    theirs: tuple[str, ...]
    table: Tensor
    is_written: bool = True

    def to_ours(self, remaining: Remaining) -> Mapping[str, Tensor]:
        for name in self.theirs:
            found = remaining.find(name)
            if found is None:
                continue
            # Two thousand positions in fp32 lose four digits; a different table differs by one.
            if found.shape != self.table.shape or not torch.allclose(found.float(), self.table, rtol=0, atol=1e-2):
                raise ModelFolderError(f"{name} is not the table that this library computes in its place")
        return {}

    def to_theirs(self, remaining: Remaining) -> Mapping[str, Tensor]:
        return dict.fromkeys(self.theirs if self.is_written else (), self.table)


class WeightMap:
    """All entries of a model."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)

    def to_ours(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of our model for the weights of a checkpoint.

        Raises:
            ModelFolderError: a weight is missing, does not fit its entry, or is named by no entry.
        """
        remaining = Remaining(weights)
        converted = {name: tensor for entry in self.entries for name, tensor in entry.to_ours(remaining).items()}
        return _if_nothing_is_left(remaining, converted)

    def to_theirs(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a checkpoint, under all their names, for our state dict: the inverse of `to_ours`.

        Raises:
            ModelFolderError: a weight is missing, does not fit its entry, or is named by no entry.
        """
        remaining = Remaining(weights)
        converted = {name: tensor for entry in self.entries for name, tensor in entry.to_theirs(remaining).items()}
        return _if_nothing_is_left(remaining, converted)


def for_each(entries: Sequence[Entry], **values: Iterable[object]) -> list[Entry]:
    """The entries once for each combination of values, which fill the places ``{name}`` of their names.

    An entry without one of the places is there once, not once for each value that it does not mention.
    """
    filled = []
    for entry in entries:
        names = {side: getattr(entry, side) for side in ("ours", "theirs")}
        used = {key: value for key, value in values.items() if "{" + key + "}" in str(names)}
        for combination in product(*used.values()):
            chosen = dict(zip(used, combination, strict=True))
            filled.append(replace(entry, **{side: _fill(name, chosen) for side, name in names.items()}))
    return filled


def _fill(name: str | tuple[str, ...], values: Mapping[str, object]) -> str | tuple[str, ...]:
    return name.format(**values) if isinstance(name, str) else tuple(part.format(**values) for part in name)


def _the_one(names: Sequence[str], remaining: Remaining) -> Tensor:
    found = {name: tensor for name in names if (tensor := remaining.find(name)) is not None}
    if not found:
        raise ModelFolderError(f"the weight {names[0]} is missing")
    (first, tensor), *others = found.items()
    for name, other in others:
        if other is not tensor and not torch.equal(other, tensor):
            raise ModelFolderError(f"the weights {first} and {name} differ, but they have to be one")
    return tensor


def _if_nothing_is_left(remaining: Remaining, converted: dict[str, Tensor]) -> dict[str, Tensor]:
    if remaining.weights:
        name, *others = remaining.weights
        more = f" (and {len(others)} more)" if others else ""
        raise ModelFolderError(f"nothing is known of the weight {name}{more}")
    return converted
