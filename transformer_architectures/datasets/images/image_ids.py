"""Millions of image ids, compactly."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, Integer

from transformer_architectures.errors import DataError

STRINGS_AT_ONCE = 100_000


class ImageIds(Sequence[str]):
    """A sequence of strings whose bytes lie side by side: 24 bytes for an id of 16 digits where a list takes 73.

    Args:
        array: of Arrow's `large_string`.
    """

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    @classmethod
    def from_strings(cls, ids: Iterable[str]) -> "ImageIds":
        """In the order given. An iterator is never held in memory as a whole.

        Raises:
            DataError: one is not UTF-8: a file's name may be any bytes.
        """
        remaining = iter(ids)
        chunks = iter(lambda: list(islice(remaining, STRINGS_AT_ONCE)), [])
        try:
            arrays = [pa.array(chunk, pa.large_string()) for chunk in chunks]
        except UnicodeEncodeError as error:
            raise DataError(f"the name of an image is not UTF-8, rename it: {os.fsencode(error.object)!r}") from None
        return cls(pa.concat_arrays(arrays) if arrays else pa.array([], pa.large_string()))

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "ImageIds": ...

    def __getitem__(self, index: Any) -> "str | ImageIds":
        if isinstance(index, slice):
            return ImageIds(self.array[index])
        return self.array[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), STRINGS_AT_ONCE):
            yield from self.array[start : start + STRINGS_AT_ONCE].to_pylist()

    def take(self, indices: Integer[np.ndarray, "picked"]) -> "ImageIds":
        """Those at the given places, in that order."""
        return ImageIds(self.array.take(pa.array(indices)))

    def order(self) -> Int64[np.ndarray, "ids"]:
        """The places of the ids from the first to the last in the order of their code points, as Python sorts."""
        return pc.sort_indices(self.array).to_numpy().astype(np.int64)

    def places_of(self, wanted: "ImageIds") -> Int64[np.ndarray, "wanted"]:
        """Where each of ``wanted`` stands first in this sequence; -1 where it does not."""
        found = pc.index_in(wanted.array, value_set=self.array)
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)

    def first_repeated(self) -> int | None:
        """Of sorted ids the place of the first one that the next one is equal to."""
        repeated = pc.equal(self.array[:-1], self.array[1:]) if len(self) > 1 else pa.array([], pa.bool_())
        place = pc.index(repeated, True).as_py()
        return None if place < 0 else int(place)
