"""Packed rows: the sequences of a batch one behind the other, as hidden states of shape ``(1, rows, embed_dim)``.

Nothing is padded, so linear layers, norms and the feed-forward compute real tokens only. `Segments` says where each sequence
lies; as part of an `AttentionMask` it keeps them apart.
"""

from dataclasses import dataclass
from typing import Union

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from transformer_architectures.errors import UsageError

Device = Union[torch.device, str, None]


@dataclass(frozen=True)
class Segments:
    """The lengths of packed sequences, in their order.

    Attributes:
        lengths: how many rows each sequence takes.
        rows_multiple: the number of rows is rounded up to a multiple of it, because kernels prepare every new shape. The rows
            behind the last segment belong to none: attention gives them zeros, and no loss may count them.

    Raises:
        UsageError: no segment, or one without rows.
    """

    lengths: tuple[int, ...]
    rows_multiple: int = 1

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise UsageError(f"packed rows need at least one segment, and a row in each, not lengths {self.lengths}")
        if self.rows_multiple < 1:
            raise UsageError(f"rows_multiple must be at least 1, not {self.rows_multiple}")

    @classmethod
    def of_mask(cls, mask: Shaped[Tensor, "segments length"], rows_multiple: int = 1) -> "Segments":
        """The lengths that a padding mask (1 = real token) shows.

        Raises:
            UsageError: a sequence does not begin at the left, or has a gap.
        """
        real = mask != 0
        if bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise UsageError("only sequences that are padded on the right, without gaps, can be packed")
        return cls(tuple(real.sum(dim=1).tolist()), rows_multiple)

    @property
    def num_tokens(self) -> int:
        """Rows that belong to a segment."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Length of the longest segment."""
        return max(self.lengths)

    @property
    def num_rows(self) -> int:
        """All rows."""
        return -(-self.num_tokens // self.rows_multiple) * self.rows_multiple

    def starts(self, device: Device = None) -> Int[Tensor, "segments"]:
        """The first row of each segment."""
        lengths = torch.tensor(self.lengths)
        return (lengths.cumsum(0) - lengths).to(device)

    def numbers(self, device: Device = None) -> Int[Tensor, "rows"]:
        """Which segment each row belongs to; -1 behind the last one."""
        numbers = torch.full((self.num_rows,), -1)
        numbers[: self.num_tokens] = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))
        return numbers.to(device)

    def positions(self, device: Device = None) -> Int[Tensor, "rows"]:
        """Where each row stands in its segment, from 0; 0 behind the last segment."""
        positions = torch.zeros(self.num_rows, dtype=torch.int64)
        starts = self.starts().repeat_interleave(torch.tensor(self.lengths))
        positions[: self.num_tokens] = torch.arange(self.num_tokens) - starts
        return positions.to(device)

    def same(self, device: Device = None) -> Bool[Tensor, "1 1 rows rows"]:
        """Whether two rows belong to the same segment: what packed rows mean to attention, written out."""
        numbers = self.numbers(device)
        return ((numbers[:, None] == numbers) & (numbers >= 0))[None, None]

    def pack(self, padded: Shaped[Tensor, "segments length *rest"]) -> Shaped[Tensor, "1 rows *rest"]:
        """Padded sequences as packed rows, zeros behind the last one."""
        packed = padded.new_zeros(self.num_rows, *padded.shape[2:])
        packed[: self.num_tokens] = padded[self._real(padded.shape[1], padded.device)]
        return packed[None]

    def unpack(self, packed: Shaped[Tensor, "1 rows *rest"]) -> Shaped[Tensor, "segments longest *rest"]:
        """Packed rows as one padded sequence for each segment, zeros behind its end."""
        padded = packed.new_zeros(len(self.lengths), self.longest, *packed.shape[2:])
        padded[self._real(self.longest, packed.device)] = packed[0, : self.num_tokens]
        return padded

    def _real(self, length: int, device: torch.device) -> Bool[Tensor, "segments length"]:
        return (torch.arange(length) < torch.tensor(self.lengths)[:, None]).to(device)
