"""How outputs are searched for: what a model folder keeps beside its weights."""

from pydantic import Field

from transformer_architectures.config import StrictModel


class GenerationConfig(StrictModel):
    """Search settings. An output has at most ``max_length_factor × source tokens + max_length_offset`` tokens."""

    num_beams: int = Field(default=5, ge=1)
    length_penalty: float = Field(default=1.0, ge=0, description="score = log probability / length ** length_penalty")
    max_length_factor: float = Field(default=2.0, gt=0)
    max_length_offset: int = Field(default=10, ge=0)

    def limit(self, source_length: int) -> int:
        """The number of tokens, end token included, that an output for this many source tokens may have."""
        return max(1, int(self.max_length_factor * source_length) + self.max_length_offset)
