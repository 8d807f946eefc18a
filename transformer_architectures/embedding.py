"""Token embedding: the table that input and output may share."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class TokenEmbedding(nn.Module):
    """Looks tokens up, scaled by ``sqrt(embed_dim)`` where the architecture does so (Vaswani et al. 2017, section 3.4).

    The scale lets one table serve as input embedding (entries of size one) and as output projection (rows of norm one).
    """

    def __init__(self, vocab_size: int, embed_dim: int, scaled: bool = True) -> None:
        super().__init__()
        self.scale = math.sqrt(embed_dim) if scaled else 1.0
        self.weight = nn.Parameter(torch.empty(vocab_size, embed_dim))

    def forward(self, token_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length embed_dim"]:
        """The tokens' rows of the table, scaled."""
        return F.embedding(token_ids, self.weight) * self.scale
