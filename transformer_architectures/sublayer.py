"""The residual rule, written once: where the norm stands and what is dropped."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.dropout import Dropout
from transformer_architectures.normalization import NormConfig


@dataclass(frozen=True)
class ResidualConfig:
    """``pre_layernorm``: ``x + dropout(f(norm(x)))`` (Xiong et al. 2020); otherwise ``norm(x + dropout(f(x)))`` (Vaswani et al. 2017)."""

    pre_layernorm: bool = True
    dropout: float = 0.0
    norm: NormConfig = field(default_factory=NormConfig)


class Residual(nn.Module):
    """Wraps a sub-layer's function with normalisation, dropout and the residual connection."""

    def __init__(self, embed_dim: int, config: ResidualConfig) -> None:
        super().__init__()
        self.pre_layernorm = config.pre_layernorm
        self.norm = config.norm.build(embed_dim)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, hidden_states: Float[Tensor, "batch length embed_dim"], function: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch length embed_dim"]:
        if self.pre_layernorm:
            update: Tensor = self.dropout(function(self.norm(hidden_states)))
            return hidden_states + update
        output: Tensor = self.norm(hidden_states + self.dropout(function(hidden_states)))
        return output
