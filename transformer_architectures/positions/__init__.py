"""Where a token stands: sinusoidal (no parameters) and learned positions."""

from transformer_architectures.positions.learned import LearnedPositions
from transformer_architectures.positions.sinusoidal import SinusoidalPositions, SinusoidLayout, sinusoids

__all__ = ["LearnedPositions", "SinusoidLayout", "SinusoidalPositions", "sinusoids"]
