"""The residual rule, written once: where the norm is and what is dropped."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.errors import UsageError
from transformer_architectures.kernels.dropout import Dropout
from transformer_architectures.normalization import NormConfig

Hidden = Float[Tensor, "batch length embed_dim"]


@dataclass(frozen=True)
class ResidualConfig:
    """``pre_layernorm``: ``x + dropout(f(norm(x)))`` (Xiong et al. 2020); otherwise ``norm(x + dropout(f(x)))`` (Vaswani et al. 2017).

    Attributes:
        stochastic_depth: fraction of samples that skip ``f`` in training (Huang et al. 2016); the others' branch is scaled up.
    """

    pre_layernorm: bool = True
    dropout: float = 0.0
    norm: NormConfig = field(default_factory=NormConfig)
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.stochastic_depth < 1:
            raise UsageError(f"stochastic_depth is a fraction from 0 to less than 1, not {self.stochastic_depth}")


class Residual(nn.Module):
    """Wraps a sub-layer's function with normalisation, dropout and the residual connection."""

    def __init__(self, embed_dim: int, config: ResidualConfig) -> None:
        super().__init__()
        self.pre_layernorm = config.pre_layernorm
        self.norm = config.norm.build(embed_dim)
        self.dropout = Dropout(config.dropout)
        self.stochastic_depth = config.stochastic_depth

    def forward(
        self, hidden_states: Hidden, function: Callable[[Tensor], Tensor], num_queries: int | None = None
    ) -> Float[Tensor, "batch queries embed_dim"]:
        """The hidden states with what ``function`` (the sub-layer proper) adds to them.

        Args:
            num_queries: ``function`` gives the first so many positions only, and so does this.
        """
        branch = self.dropout(function(self.norm(hidden_states) if self.pre_layernorm else hidden_states))
        if num_queries is not None:
            hidden_states = hidden_states[:, :num_queries]
        output: Tensor = self._add(hidden_states, branch)
        return output if self.pre_layernorm else self.norm(output)

    def _add(self, hidden_states: Tensor, branch: Tensor) -> Tensor:
        if not self.training or self.stochastic_depth == 0.0:
            return hidden_states + branch
        kept = 1.0 - self.stochastic_depth
        # One number for each sample, from torch's global generator: resume needs nothing more.
        scale = hidden_states.new_empty(len(hidden_states), 1, 1).bernoulli_(kept).div_(kept)
        return torch.addcmul(hidden_states, branch, scale)

    def extra_repr(self) -> str:
        return f"pre_layernorm={self.pre_layernorm}, stochastic_depth={self.stochastic_depth}"
