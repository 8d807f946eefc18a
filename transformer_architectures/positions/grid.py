"""Positions of patches that stand in a grid, row by row, behind tokens that stand nowhere: learned, or fixed sinusoids.

Both are one table, kept in the checkpoint. For images of another size it is resized like an image, so that what a
trained model knows of "top left" stays true.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.errors import UsageError

Grid = tuple[int, int]  # rows, columns


def sinusoids_2d(grid: Grid, embed_dim: int) -> Float[Tensor, "positions {embed_dim}"]:
    """Sine and cosine of the column, then of the row, with a quarter of the width each and wavelengths from 2π to 10000·2π.

    As in big_vision (``posemb_sincos_2d``), whose smallest frequency is 1/10000; MoCo v3 (Chen et al. 2021), where it
    comes from, ends one step before.
    """
    if embed_dim % 4 or embed_dim < 8:
        raise UsageError(f"2-D sinusoidal positions need an embed_dim of 8, 12, 16, ..., not {embed_dim}")
    # In double precision: the angle of a late position loses digits in fp32.
    frequencies = 10000.0 ** -torch.linspace(0, 1, embed_dim // 4, dtype=torch.float64)
    rows, columns = (torch.arange(size, dtype=torch.float64)[:, None] * frequencies for size in grid)
    row_angles = rows[:, None].expand(*grid, -1)
    column_angles = columns[None].expand(*grid, -1)
    parts = [column_angles.sin(), column_angles.cos(), row_angles.sin(), row_angles.cos()]
    return torch.cat(parts, dim=-1).flatten(0, 1).float()


def resize_grid(
    table: Float[Tensor, "positions embed_dim"], old: Grid, new: Grid, num_prefix: int = 0
) -> Float[Tensor, "new_positions embed_dim"]:
    """The table for a grid of another size: antialiased bicubic interpolation, in fp32.

    Args:
        num_prefix: rows at the beginning that belong to no patch, and stay as they are.
    """
    if old == new:
        return table
    prefix, patches = table[:num_prefix], table[num_prefix:]
    # A batch whose channels lie last: torch's kernel for the other layout is wrong where the result is one column (torch 2.15).
    image = patches.float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)[0]
    return torch.cat([prefix, resized.permute(1, 2, 0).flatten(0, 1).to(table.dtype)])


class GridPositions(nn.Module):
    """One vector for each of ``num_prefix`` tokens and then for each patch of the ``grid``."""

    decays = False  # a table that is only added

    weight: Tensor

    def __init__(self, grid: Grid, num_prefix: int = 0) -> None:
        super().__init__()
        self.grid = grid
        self.num_prefix = num_prefix

    def forward(self) -> Float[Tensor, "positions embed_dim"]:
        return self.weight

    def resize(self, grid: Grid) -> None:
        """Fits the table to another grid, in place: whoever holds the parameter (an optimizer) goes on holding it."""
        self.weight.data = resize_grid(self.weight.data, self.grid, grid, self.num_prefix)
        self.weight.grad = None
        self.grid = grid

    def extra_repr(self) -> str:
        return f"grid={self.grid}, num_prefix={self.num_prefix}"


class LearnedGridPositions(GridPositions):
    """Trained vectors (Dosovitskiy et al. 2021)."""

    def __init__(self, embed_dim: int, grid: Grid, num_prefix: int = 0) -> None:
        super().__init__(grid, num_prefix)
        self.weight = nn.Parameter(torch.empty(num_prefix + grid[0] * grid[1], embed_dim))


class SinusoidalGridPositions(GridPositions):
    """Fixed sinusoids, for patches only. They are saved, because a table that was resized cannot be computed again."""

    def __init__(self, embed_dim: int, grid: Grid) -> None:
        super().__init__(grid)
        self.register_buffer("weight", sinusoids_2d(grid, embed_dim))
