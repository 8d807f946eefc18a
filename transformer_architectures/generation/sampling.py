"""Sampling: random outputs, by temperature, top-k (Fan et al. 2018) and top-p (Holtzman et al. 2020)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_architectures.errors import UsageError
from transformer_architectures.generation.greedy import generate_forward
from transformer_architectures.generation.protocol import DecoderState, Hypotheses


def sample(
    state: DecoderState,
    num_sentences: int,
    *,
    num_samples: int = 1,
    start_token: int,
    end_token: int,
    max_lengths: Int[Tensor, "sentences"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    length_penalty: float = 1.0,
    suppress_tokens: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Hypotheses:
    """``num_samples`` random outputs for each sentence, the best first.

    Args:
        state: at the start, with ``num_sentences × num_samples`` rows.
        temperature: logits are divided by it; below 1 the probable becomes more probable.
        top_k: only the k most probable tokens are drawn.
        top_p: only the most probable tokens that together reach this probability are drawn.
        generator: of random numbers, on the state's device; torch's global one unless given.

    The scores are those that a search would give the outputs: of the model's distribution, not of the one drawn from.

    Raises:
        UsageError: a setting is out of its range.
    """
    if num_samples < 1 or temperature <= 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        raise UsageError("sampling needs num_samples ≥ 1, temperature > 0, top_k ≥ 1 and top_p above 0, at most 1")

    def draw(log_probs: Tensor) -> Tensor:
        probabilities = truncated(log_probs / temperature, top_k, top_p).softmax(dim=1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    found = generate_forward(
        state, num_sentences, num_samples, draw, start_token, end_token, max_lengths, suppress_tokens
    )
    scores, order = (found.scores / found.lengths**length_penalty).sort(dim=1, descending=True)
    tokens = found.tokens.gather(1, order[:, :, None].expand_as(found.tokens))
    return replace(found, tokens=tokens, lengths=found.lengths.gather(1, order), scores=scores)


def truncated(logits: Float[Tensor, "rows vocab"], top_k: int | None, top_p: float) -> Float[Tensor, "rows vocab"]:
    """The logits with -inf for all tokens that ``top_k`` or ``top_p`` rules out; the most probable one always stays."""
    if top_k is not None and top_k < logits.shape[1]:
        smallest = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=1, descending=True)
        probabilities = ordered.softmax(dim=1)
        is_beyond = probabilities.cumsum(dim=1) - probabilities >= top_p
        logits = logits.scatter(1, order, ordered.masked_fill(is_beyond, -torch.inf))
    return logits
