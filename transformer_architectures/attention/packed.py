"""Self-attention over packed rows: segments of similar length are computed together, so that hardly anything is padded.

Each segment goes into a rectangle ``(segments, heads, length, head_dim)`` whose length is the segment's own, rounded up: a few
rectangles for a batch, and few shapes in the course of a run. Heads have to be laid side by side anyway, which costs a copy;
here that copy also takes them to their rectangles. Measured in `benchmarks/results/packed_attention.md`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from transformer_architectures.masking import AttentionMask, Segments

NUM_PROJECTIONS = 3  # a row of the fused projection: the heads of the query, of the key, of the value


class Rectangle(NamedTuple):
    """The numbers of the segments in it, the length that they are padded to, and what they may attend to."""

    segments: list[int]
    length: int
    mask: AttentionMask


class PackedHeads:
    """Takes the heads of packed rows to rectangles and back. Made once for a batch: see `PackedHeads.from_mask`."""

    def __init__(self, segments: Segments, causal: bool, num_heads: int, device: torch.device) -> None:
        self.segments = segments
        self.num_heads = num_heads
        self.rectangles: list[Rectangle] = []
        lengths, starts = torch.tensor(segments.lengths), segments.starts()
        rounded = [rounded_length(length) for length in segments.lengths]
        rows = []  # for each rectangle, the row that stands at each place of it; `num_rows` where there is none
        for length in sorted(set(rounded)):
            numbers = [number for number, own in enumerate(rounded) if own == length]
            is_real = torch.arange(length) < lengths[numbers][:, None]
            rows.append(torch.where(is_real, starts[numbers][:, None] + torch.arange(length), segments.num_rows))
            # Under causality the padding needs no mask: it stands behind all that is real.
            allowed = None if causal or bool(is_real.all()) else is_real[:, None, None].to(device)
            self.rectangles.append(Rectangle(numbers, length, AttentionMask(allowed, causal)))
        self._projections = _places(rows, segments.num_rows, num_heads, NUM_PROJECTIONS, device)
        self._contexts = _places(rows, segments.num_rows, num_heads, 1, device)

    @classmethod
    def from_mask(cls, mask: AttentionMask, num_heads: int, device: torch.device) -> "PackedHeads":
        """Those of a mask with segments; all layers of a stack get the same."""
        assert mask.segments is not None
        return _packed_heads(mask.segments, mask.causal, num_heads, device)

    def split(self, projected: Float[Tensor, "1 rows all_projections"]) -> list[tuple[Tensor, ...]]:
        """Query, key and value of each rectangle, ``(segments, heads, length, head_dim)``; zeros where it is padded."""
        heads = projected.view(self.segments.num_rows * NUM_PROJECTIONS * self.num_heads, -1)
        places = self._projections
        parts = _Move.apply(places.row_of_slot, places.slot_of_row, places.sizes, heads)
        return [
            part.view(NUM_PROJECTIONS, len(numbers), self.num_heads, length, -1).unbind(0)
            for part, (numbers, length, _) in zip(parts, self.rectangles, strict=True)
        ]

    def merge(self, contexts: list[Tensor]) -> Float[Tensor, "1 rows embed_dim"]:
        """The context of each rectangle, shaped like its query, as packed rows; zeros behind the last segment."""
        heads = [context.reshape(-1, context.shape[-1]) for context in contexts]
        places = self._contexts
        (rows,) = _Move.apply(places.slot_of_row, places.row_of_slot, [len(places.slot_of_row)], *heads)
        return rows.view(1, self.segments.num_rows, -1)

    def unpack_weights(self, weights: list[Tensor]) -> Float[Tensor, "segments heads longest longest"]:
        """The attention weights of each rectangle, ``(segments, heads, length, length)``, as one tensor: padded with zeros, in the order of the segments."""
        longest = self.segments.longest
        unpacked = weights[0].new_zeros(len(self.segments.lengths), self.num_heads, longest, longest)
        for part, rectangle in zip(weights, self.rectangles, strict=True):
            for number, own in zip(rectangle.segments, part, strict=True):
                length = self.segments.lengths[number]
                unpacked[number, :, :length, :length] = own[:, :length, :length]
        return unpacked


def rounded_length(length: int) -> int:
    """The next multiple of 16, or of an eighth of the next power of two where that is more."""
    step = max(16, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


@lru_cache(maxsize=4)
def _packed_heads(segments: Segments, causal: bool, num_heads: int, device: torch.device) -> PackedHeads:
    with torch.inference_mode(False):  # a training step may meet the lengths that were evaluated before
        return PackedHeads(segments, causal, num_heads, device)


class _Places(NamedTuple):
    """Which head of which row each slot of the rectangles holds, and the inverse; one beyond the end means none, a zero.

    Slots are ordered by rectangle, projection, segment, head, place; heads of rows by row, projection, head.
    """

    row_of_slot: Int[Tensor, "slots"]
    slot_of_row: Int[Tensor, "rows"]
    sizes: list[int]  # slots of each rectangle


def _places(rows: list[Tensor], num_rows: int, num_heads: int, num_projections: int, device: torch.device) -> _Places:
    heads_per_row = num_projections * num_heads
    heads = torch.arange(heads_per_row).view(num_projections, 1, num_heads, 1)
    slots = [(part[:, None] * heads_per_row + heads).clamp_(max=num_rows * heads_per_row).flatten() for part in rows]
    row_of_slot = torch.cat(slots)
    slot_of_row = torch.full((num_rows * heads_per_row + 1,), len(row_of_slot))
    slot_of_row[row_of_slot] = torch.arange(len(row_of_slot))
    return _Places(row_of_slot.to(device), slot_of_row[:-1].to(device), [len(part) for part in slots])


class _Move(torch.autograd.Function):
    """Rows to where ``index`` takes them from. torch's own gradient would add them up one by one, as if they could repeat."""

    @staticmethod
    def forward(ctx: FunctionCtx, index: Tensor, inverse: Tensor, sizes: list[int], *parts: Tensor) -> Any:
        ctx.inverse, ctx.sizes = inverse, [len(part) for part in parts]  # type: ignore[attr-defined]
        return _moved(parts, index, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *_moved(grads, ctx.inverse, ctx.sizes)


def _moved(parts: tuple[Tensor, ...], index: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    nothing = parts[0].new_zeros(1, parts[0].shape[1])
    return torch.split(torch.cat([*parts, nothing]).index_select(0, index), sizes)
