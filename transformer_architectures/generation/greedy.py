"""Greedy search, and the loop that it shares with sampling: one token at a time for every row, none ever taken back."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_architectures.generation.beam_search import LEAVING_SHARE
from transformer_architectures.generation.protocol import DecoderState, Hypotheses, distinct_limits
from transformer_architectures.generation.scoring import log_probabilities_

Choose = Callable[[Tensor], Tensor]  # log probabilities (rows, vocab) to one token for each row


def greedy_search(
    state: DecoderState,
    num_sentences: int,
    *,
    start_token: int,
    end_token: int,
    max_lengths: Int[Tensor, "sentences"],
    length_penalty: float = 1.0,
    suppress_tokens: Sequence[int] = (),
    leaving_share: float = LEAVING_SHARE,
) -> Hypotheses:
    """The most probable token at every step: what beam search gives with one beam. Arguments as there."""
    found = generate_forward(
        state, num_sentences, 1, _most_probable, start_token, end_token, max_lengths, suppress_tokens, leaving_share
    )
    return replace(found, scores=found.scores / found.lengths**length_penalty)


@torch.inference_mode()
def generate_forward(
    state: DecoderState,
    num_sentences: int,
    rows_per_sentence: int,
    choose: Choose,
    start_token: int,
    end_token: int,
    max_lengths: Int[Tensor, "sentences"],
    suppress_tokens: Sequence[int],
    leaving_share: float = LEAVING_SHARE,
) -> Hypotheses:
    """Extends every row by the token that ``choose`` takes, to its end token or limit; scores are log probabilities."""
    longest = max(distinct_limits(max_lengths), default=0)
    tokens = max_lengths.new_full((num_sentences, rows_per_sentence, longest), end_token)
    lengths = max_lengths.new_zeros(num_sentences, rows_per_sentence)
    totals = torch.zeros(num_sentences, rows_per_sentence, device=max_lengths.device)
    suppressed = torch.tensor(list(suppress_tokens), dtype=torch.long, device=max_lengths.device)

    number = torch.arange(num_sentences, device=max_lengths.device)  # of the sentences that are still in the batch
    is_running = torch.ones_like(lengths, dtype=torch.bool)
    latest = torch.full_like(lengths, start_token)

    def _next(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's next token and its log probability."""
        log_probs = log_probabilities_(logits).index_fill_(1, suppressed, -torch.inf)
        chosen = choose(log_probs)
        return chosen, log_probs.gather(1, chosen[:, None])

    for step in range(longest):
        groups = [_next(logits) for logits in state.step(latest.flatten())]
        chosen, gained = (torch.cat(parts) for parts in zip(*groups, strict=True))
        latest = chosen.view_as(latest)
        tokens[number, :, step] = latest.where(is_running, end_token)
        totals[number] += gained.view_as(latest).where(is_running, 0.0)
        lengths[number] += is_running
        is_running &= (latest != end_token) & (max_lengths[number] > step + 1)[:, None]
        is_staying = is_running.any(dim=1)
        num_staying = int(is_staying.sum())
        if not num_staying:
            break
        if len(number) - num_staying >= max(1, leaving_share * len(number)):
            staying = is_staying.nonzero()[:, 0]
            state.keep(staying)
            number, is_running, latest = number[staying], is_running[staying], latest[staying]
    return Hypotheses(tokens[:, :, : int(lengths.max()) if num_sentences else 0], lengths, totals, end_token)


def _most_probable(log_probs: Float[Tensor, "rows vocab"]) -> Int[Tensor, "rows"]:
    return log_probs.argmax(dim=1)
