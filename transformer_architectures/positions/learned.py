"""Learned absolute positions (Gehring et al. 2017; Devlin et al. 2019)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.errors import UsageError


class LearnedPositions(nn.Module):
    """One trained vector for each of ``num_positions`` positions; a longer text is an error, not a repetition."""

    def __init__(self, embed_dim: int, num_positions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, embed_dim))

    def forward(self, length: int, first_position: int = 0) -> Float[Tensor, "length embed_dim"]:
        """Rows ``first_position`` to ``first_position + length``.

        Raises:
            UsageError: there are not so many.
        """
        end = first_position + length
        if end > len(self.weight):
            raise UsageError(f"position {end} is beyond the {len(self.weight)} positions that this model has learned")
        return self.weight[first_position:end]
