"""Searches over any decoder that fits `DecoderState`: greedy, beam search, sampling, and the score that they share."""

from transformer_architectures.generation.beam_search import beam_search
from transformer_architectures.generation.config import GenerationConfig
from transformer_architectures.generation.greedy import greedy_search
from transformer_architectures.generation.protocol import DecoderState, Hypotheses
from transformer_architectures.generation.sampling import sample
from transformer_architectures.generation.scoring import score

__all__ = [
    "DecoderState",
    "GenerationConfig",
    "Hypotheses",
    "beam_search",
    "greedy_search",
    "sample",
    "score",
]
