"""Beam search, wholly in tensors.

Each step extends the live beams of every sentence by one token. A beam and the end token are a finished hypothesis if
they are among the sentence's ``num_beams`` best candidates; the next best takes the place, so there are always as many
live beams. A sentence is done when it has ``num_beams`` finished hypotheses, when no live beam can
still beat the worst of its ``n_best`` kept ones, or at its length limit. With one beam this is greedy search.

Nothing of the texts is copied while searching: every step writes one token and one parent for each beam, and the few
hypotheses that are kept are traced back through them at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from transformer_architectures.errors import UsageError
from transformer_architectures.generation.protocol import DecoderState, Hypotheses, distinct_limits
from transformer_architectures.generation.scoring import log_probabilities_
from transformer_architectures.kernels.top_k import top_k

# Sentences that are done leave the batch when they are this share of it: leaving copies the caches of those that stay.
LEAVING_SHARE = 0.125


@dataclass
class Frontier:
    """The sentences that are still in the batch.

    Attributes:
        number: which sentence of the batch each one is; limit: the most tokens that it may get.
        reach: ``limit ** length_penalty``: no log probability is ever divided by more.
        live: log probabilities of the beams, best first; -inf where there is none.
        scores: of the best hypotheses so far, best first; -inf where there is none.
        origins: where each of them stands: ``number of tokens without end token × num_beams + beam``.
    """

    number: Int[Tensor, "sentences"]
    limit: Int[Tensor, "sentences"]
    reach: Float[Tensor, "sentences"]
    live: Float[Tensor, "sentences beams"]
    scores: Float[Tensor, "sentences n_best"]
    origins: Int[Tensor, "sentences n_best"]
    num_finished: Int[Tensor, "sentences"]
    is_done: Bool[Tensor, "sentences"]

    @classmethod
    def start(
        cls, max_lengths: Int[Tensor, "sentences"], num_beams: int, n_best: int, length_penalty: float
    ) -> "Frontier":
        """Every sentence with one live beam: the others would only repeat it."""
        num_sentences = len(max_lengths)
        scores = torch.full((num_sentences, num_beams + n_best), -torch.inf, device=max_lengths.device)
        scores[:, 0] = 0.0
        return cls(
            number=torch.arange(num_sentences, device=max_lengths.device),
            limit=max_lengths,
            reach=max_lengths.float() ** length_penalty,
            live=scores[:, :num_beams].clone(),
            scores=scores[:, num_beams:].clone(),
            origins=max_lengths.new_zeros(num_sentences, n_best),
            num_finished=torch.zeros_like(max_lengths),
            is_done=torch.zeros_like(max_lengths, dtype=torch.bool),
        )

    def offer(self, scores: Float[Tensor, "sentences beams"], origins: Int[Tensor, "beams"]) -> None:
        """Hypotheses (-inf: none) that are kept if they are better than those kept so far; none of what is done."""
        n_best, is_open = self.scores.shape[1], ~self.is_done[:, None]
        kept, best = torch.cat([self.scores, scores], dim=1).topk(n_best, dim=1)
        places = torch.cat([self.origins, origins.expand_as(scores)], dim=1).gather(1, best)
        self.scores, self.origins = kept.where(is_open, self.scores), places.where(is_open, self.origins)

    def finish_at_limit(self, length: int, length_penalty: float, origins: Int[Tensor, "beams"]) -> None:
        """Sentences with this limit are done; unfinished beams take the places that finished ones have left free.

        They stand behind the finished ones whatever their scores, so that the best hypothesis is the same for every
        ``n_best``.
        """
        ends_here = (self.limit == length) & ~self.is_done
        num_finished = (self.scores > -torch.inf).sum(dim=1, keepdim=True)
        beam = torch.arange(self.scores.shape[1], device=self.live.device) - num_finished
        is_free, beam = ends_here[:, None] & (beam >= 0), beam.clamp(min=0)
        self.scores = torch.where(is_free, self.live.gather(1, beam) / length**length_penalty, self.scores)
        self.origins = torch.where(is_free, origins[beam], self.origins)
        self.is_done |= ends_here

    def select(self, sentences: Int[Tensor, "kept"]) -> "Frontier":
        """Only these of the sentences."""
        return Frontier(*(getattr(self, field.name)[sentences] for field in fields(self)))


@torch.inference_mode()
def beam_search(
    state: DecoderState,
    num_sentences: int,
    *,
    num_beams: int,
    start_token: int,
    end_token: int,
    max_lengths: Int[Tensor, "sentences"],
    n_best: int = 1,
    length_penalty: float = 1.0,
    suppress_tokens: Sequence[int] = (),
    leaving_share: float = LEAVING_SHARE,
) -> Hypotheses:
    """The ``n_best`` best outputs that ``num_beams`` beams find for each sentence.

    Args:
        state: at the start, with ``num_sentences × num_beams`` rows.
        max_lengths: the most tokens of each sentence's output, end token included, at least 1. What is not finished
            there is cut, and returned only where too few are finished.
        length_penalty: see `scoring`; 0 compares plain log probabilities.
        suppress_tokens: never generated (the end token: outputs all reach their limit).
        leaving_share: sentences that are done leave when they are this share of the batch; results do not depend on it.

    Raises:
        UsageError: ``n_best`` is not between 1 and ``num_beams``, or a limit is below 1.
    """
    if not 1 <= n_best <= num_beams:
        raise UsageError(f"n-best {n_best} needs at least as many beams, not {num_beams}")
    limits = distinct_limits(max_lengths)
    device, longest = max_lengths.device, max(limits, default=0)
    frontier = Frontier.start(max_lengths, num_beams, n_best, length_penalty)
    results = frontier
    tokens_of_step = max_lengths.new_full((longest, num_sentences, num_beams), end_token)
    parents_of_step = torch.zeros_like(tokens_of_step)
    beams = torch.arange(num_beams, device=device)
    suppressed = torch.tensor(list(suppress_tokens), dtype=torch.long, device=device)
    tokens = max_lengths.new_full((num_sentences, num_beams), start_token)

    for step in range(longest):
        length = step + 1

        # ------------------------------------------------ log probability of each beam's end, and its best other tokens
        groups = [_ends_and_others(logits, end_token, num_beams, suppressed) for logits in state.step(tokens.flatten())]
        ended, continuations, candidates = (torch.cat(parts) for parts in zip(*groups, strict=True))
        ends = frontier.live + ended.view_as(frontier.live)

        # ------------------------------------------------ the best continuations of each sentence
        width = continuations.shape[1]
        totals = frontier.live[:, :, None] + continuations.view(-1, num_beams, width)
        live, best = totals.flatten(1).topk(num_beams, dim=1)
        parents = best // width
        tokens = candidates.view(-1, num_beams * width).gather(1, best)
        tokens_of_step[step, frontier.number] = tokens
        parents_of_step[step, frontier.number] = parents

        # ------------------------------------------------ beams that end here
        worst_of_best = torch.cat([live, ends], dim=1).topk(num_beams, dim=1).values[:, -1:]
        is_end = (ends >= worst_of_best) & (ends > -torch.inf)
        frontier.offer((ends / length**length_penalty).where(is_end, -torch.inf), step * num_beams + beams)
        frontier.num_finished += is_end.sum(dim=1)

        # ------------------------------------------------ sentences that are done
        frontier.live = live
        cannot_improve = frontier.scores[:, -1] >= live[:, 0] / frontier.reach
        frontier.is_done |= cannot_improve | (frontier.num_finished >= num_beams)
        if length in limits:
            frontier.finish_at_limit(length, length_penalty, length * num_beams + beams)
        num_done, num_moved = torch.stack([frontier.is_done.sum(), (parents != beams).sum()]).tolist()
        if num_moved:
            rows = torch.arange(len(parents), device=device)[:, None] * num_beams + parents
            state.reorder(rows.flatten())
        if num_done == len(parents):
            break
        if num_done >= max(1, leaving_share * len(parents)):
            results = _note(results, frontier)
            staying = (~frontier.is_done).nonzero()[:, 0]
            state.keep(staying)
            frontier, tokens = frontier.select(staying), tokens[staying]

    results = _note(results, frontier)
    return _trace_back(results, tokens_of_step, parents_of_step, end_token)


def _ends_and_others(
    logits: Float[Tensor, "rows vocab"], end_token: int, num_others: int, suppressed: Int[Tensor, "tokens"]
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows others"], Int[Tensor, "rows others"]]:
    """Log probability of each row's end token; those of its best other tokens, and which these are. Overwrites the logits."""
    log_probs = log_probabilities_(logits).index_fill_(1, suppressed, -torch.inf)
    ended = log_probs[:, end_token].clone()
    log_probs[:, end_token] = -torch.inf
    return ended, *top_k(log_probs, min(num_others, log_probs.shape[1]))


def _note(results: Frontier, frontier: Frontier) -> Frontier:
    """Writes what was found for the sentences of the frontier to their places among all."""
    if results is not frontier:
        results.scores[frontier.number] = frontier.scores
        results.origins[frontier.number] = frontier.origins
    return results


def _trace_back(
    results: Frontier,
    tokens_of_step: Int[Tensor, "steps sentences beams"],
    parents_of_step: Int[Tensor, "steps sentences beams"],
    end_token: int,
) -> Hypotheses:
    """Follows the parents of each kept hypothesis from its last token to its first."""
    num_beams = tokens_of_step.shape[2]
    num_tokens, beams = results.origins // num_beams, results.origins % num_beams
    lengths = torch.minimum(num_tokens + 1, results.limit[:, None])  # all but those cut at the limit have an end token
    longest = int(lengths.max()) if len(lengths) else 0
    tokens = results.origins.new_full((*results.origins.shape, longest), end_token)
    for position in reversed(range(longest)):
        is_inside = position < num_tokens
        tokens[:, :, position] = tokens_of_step[position].gather(1, beams).where(is_inside, end_token)
        beams = parents_of_step[position].gather(1, beams).where(is_inside, beams)
    return Hypotheses(tokens, lengths, results.scores, end_token)
