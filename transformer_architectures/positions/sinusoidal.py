"""Fixed sinusoidal positions (Vaswani et al. 2017, section 3.5), in the layouts that published weights expect."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

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


class SinusoidalPositions(nn.Module):
    """Positions without parameters; the table grows when a longer text comes, so there is no length limit."""

    table: Tensor

    def __init__(self, embed_dim: int, num_positions: int = 512, layout: SinusoidLayout = "interleaved") -> None:
        super().__init__()
        self.layout: SinusoidLayout = layout
        self.register_buffer("table", sinusoids(num_positions, embed_dim, layout), persistent=False)

    def forward(self, length: int, first_position: int = 0) -> Float[Tensor, "length embed_dim"]:
        """Rows ``first_position`` to ``first_position + length`` of the table."""
        end = first_position + length
        if end > len(self.table):
            # The table outlives the decoding that it grew in: training may use it too.
            with torch.inference_mode(False):
                longer = sinusoids(max(end, 2 * len(self.table)), self.table.shape[1], self.layout)
                self.table = longer.to(self.table.device, self.table.dtype)
        return self.table[first_position:end]
