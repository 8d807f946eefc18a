"""Feed-forward sub-layers."""

from transformer_architectures.feedforward.feedforward import ActivationName, FeedForwardConfig, FeedForwardSubLayer

__all__ = ["ActivationName", "FeedForwardConfig", "FeedForwardSubLayer"]
