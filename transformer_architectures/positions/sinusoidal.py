"""Fixed sinusoidal positions (Vaswani et al. 2017, section 3.5), in the layouts that published weights expect."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.errors import UsageError

SinusoidLayout = Literal["interleaved", "half"]


def sinusoids(
    num_positions: int, embed_dim: int, layout: SinusoidLayout = "interleaved"
) -> Float[Tensor, "{num_positions} {embed_dim}"]:
    """Table of sinusoids with wavelengths from 2π to 10000·2π.

    ``interleaved``: sine in even, cosine in odd columns (the paper). ``half``: all sines, then all cosines (Marian).
    """
    if embed_dim % 2:
        raise UsageError(f"sinusoidal positions need an even embed_dim, not {embed_dim}")
    # In double precision: the angle of a late position loses digits in fp32.
    exponents = torch.arange(0, embed_dim, 2, dtype=torch.float64) / embed_dim
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * 10000.0**-exponents
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1 if layout == "interleaved" else 1)
    return pairs.reshape(num_positions, embed_dim).float()


MAX_FIRST_TABLE = (
    2**12
)  # positions: a model that declares more than anybody has memory for costs nothing until such a text comes


class SinusoidalPositions(nn.Module):
    """Positions without parameters; the table grows when a longer text comes, so there is no length limit."""

    table: Tensor

    def __init__(self, embed_dim: int, num_positions: int = 512, layout: SinusoidLayout = "interleaved") -> None:
        super().__init__()
        self.layout: SinusoidLayout = layout
        self.register_buffer(
            "table", sinusoids(min(num_positions, MAX_FIRST_TABLE), embed_dim, layout), persistent=False
        )

    def forward(self, length: int, first_position: int = 0) -> Float[Tensor, "length embed_dim"]:
        """Rows ``first_position`` to ``first_position + length`` of the table."""
        end = first_position + length
        self._grow(end)
        return self.table[first_position:end]

    def look_up(self, position_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length embed_dim"]:
        """The row of each position, wherever it stands."""
        if (
            position_ids.numel() and not torch.compiler.is_compiling()
        ):  # a compiled model has the table that it was declared with
            self._grow(int(position_ids.max()) + 1)
        return F.embedding(position_ids, self.table)

    def _grow(self, end: int) -> None:
        if end > len(self.table):
            # The table outlives the decoding that it grew in: training may use it too.
            with torch.inference_mode(False):
                longer = sinusoids(max(end, 2 * len(self.table)), self.table.shape[1], self.layout)
                self.table = longer.to(self.table.device, self.table.dtype)
