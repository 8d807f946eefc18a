"""What a row of BERT's data is, whatever the task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from torch.utils.data import Dataset

from transformer_architectures.architectures.bert.windowed_text import WindowedText


class TokenRow(NamedTuple):
    """A text (or packed row) and what is asked of it.

    Attributes:
        text: its windows, or the segments of a packed row.
        positions: the places of its tokens that have labels; empty where the text as a whole has.
        labels: of each of these places an index, or of the text one index, or of each class 0 or 1.
    """

    text: WindowedText
    positions: Int[np.ndarray, "labels"]
    labels: Shaped[np.ndarray, "_"]


class TransformerDataset(Dataset[TokenRow], ABC):
    """The rows of one part."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> TokenRow: ...

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, TokenRow]]:
        """What the loader calls for a whole batch: each row with its number."""
        return [(index, self[index]) for index in indices]

    def at(self, epoch: int) -> "TransformerDataset":
        """As it is in that epoch of training."""
        return self

    @property
    @abstractmethod
    def lengths(self) -> Int[np.ndarray, "rows"]:
        """Tokens that each row takes in a batch."""


__all__ = ["TokenRow", "TransformerDataset"]
