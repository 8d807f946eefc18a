"""Feed-forward sub-layers."""

from transformer_architectures.feedforward.feedforward import (
    ACTIVATIONS,
    ActivationName,
    FeedForwardConfig,
    FeedForwardSubLayer,
)

__all__ = ["ACTIVATIONS", "ActivationName", "FeedForwardConfig", "FeedForwardSubLayer"]
