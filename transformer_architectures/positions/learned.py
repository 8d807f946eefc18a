"""Learned absolute positions (Gehring et al. 2017; Devlin et al. 2019)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.errors import UsageError


class LearnedPositions(nn.Module):
    """One trained vector for each of ``num_positions`` positions; a longer text is an error, not a repetition."""

    decays = False  # a table that is only added

    def __init__(self, embed_dim: int, num_positions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, embed_dim))

    def forward(self, length: int, first_position: int = 0) -> Float[Tensor, "length embed_dim"]:
        """Rows ``first_position`` to ``first_position + length``.

        Raises:
            UsageError: there are not so many.
        """
        end = first_position + length
        self._check(end)
        return self.weight[first_position:end]

    def look_up(self, position_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length embed_dim"]:
        """The row of each position, wherever it stands.

        Raises:
            UsageError: there are not so many.
        """
        # On another device looking would wait for it; there it is torch that refuses what is not in the table.
        if position_ids.device.type == "cpu" and position_ids.numel() and not torch.compiler.is_compiling():
            self._check(int(position_ids.max()) + 1)
        return F.embedding(position_ids, self.weight)

    def _check(self, end: int) -> None:
        if end > len(self.weight):
            raise UsageError(f"position {end} is beyond the {len(self.weight)} positions that this model has learned")
