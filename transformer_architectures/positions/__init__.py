"""Where a token stands: in a line or in a grid, by fixed sinusoids or learned."""

from transformer_architectures.positions.grid import (
    Grid,
    GridPositions,
    LearnedGridPositions,
    SinusoidalGridPositions,
    resize_grid,
    sinusoids_2d,
)
from transformer_architectures.positions.learned import LearnedPositions
from transformer_architectures.positions.sinusoidal import SinusoidalPositions, SinusoidLayout, sinusoids

__all__ = [
    "Grid",
    "GridPositions",
    "LearnedGridPositions",
    "LearnedPositions",
    "SinusoidLayout",
    "SinusoidalGridPositions",
    "SinusoidalPositions",
    "resize_grid",
    "sinusoids",
    "sinusoids_2d",
]
