"""The position-wise feed-forward sub-layer (Vaswani et al. 2017, section 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.kernels.dropout import Dropout
from transformer_architectures.kernels.linear import Linear
from transformer_architectures.residual import Residual, ResidualConfig

# The two forms of GELU differ by up to 4.7e-4: which one it is belongs to the weights.
ActivationName = Literal["relu", "gelu", "gelu_tanh", "silu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


@dataclass(frozen=True)
class FeedForwardConfig:
    """Width of the hidden layer, its activation, and the dropout behind the activation."""

    ff_dim: int
    activation: ActivationName = "relu"
    dropout: float = 0.0
    bias: bool = True


class FeedForwardSubLayer(nn.Module):
    """``output(dropout(activation(expand(x))))`` inside the residual rule."""

    def __init__(self, embed_dim: int, config: FeedForwardConfig, residual: ResidualConfig) -> None:
        super().__init__()
        self.residual = Residual(embed_dim, residual)
        self.expand = Linear(embed_dim, config.ff_dim, bias=config.bias)
        self.output = Linear(config.ff_dim, embed_dim, bias=config.bias)
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout)

    def forward(
        self, hidden_states: Float[Tensor, "batch length embed_dim"]
    ) -> Float[Tensor, "batch length embed_dim"]:
        """Every position on its own, inside the residual rule."""
        return self.residual(hidden_states, self.transform)

    def transform(
        self, hidden_states: Float[Tensor, "batch length embed_dim"]
    ) -> Float[Tensor, "batch length embed_dim"]:
        """The two layers alone, without norm and residual."""
        return self.output(self.dropout(self.activation(self.expand(hidden_states))))
