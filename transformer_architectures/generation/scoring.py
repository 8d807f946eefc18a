"""Log probabilities as all searches count them.

The score of an output is ``log probability / length ** length_penalty`` (Jean et al. 2015), the end token counted in
both. It is what Marian, fairseq and `transformers` use, so their settings carry over; the ``((5 + length) / 6) ** α``
of GNMT ranks alike but needs an α of its own. Suppressed tokens keep their share of probability: a score is always the
model's own.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def log_probabilities_(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """Log softmax in fp32, written over fp32 logits: a fresh tensor of this size costs more than the computation."""
    logits = logits.float()
    return torch.log_softmax(logits, dim=-1, out=logits)


def score(
    logits: Float[Tensor, "rows length vocab"],
    tokens: Int[Tensor, "rows length"],
    lengths: Int[Tensor, "rows"],
    length_penalty: float = 1.0,
) -> Float[Tensor, "rows"]:
    """The score that a search gives these outputs.

    Args:
        logits: at each position, of the token there (decoder input: start token and the tokens before).
        tokens: outputs, each with its end token, if it has one.
        lengths: how many of the tokens count, the end token included.
    """
    chosen = logits.float().log_softmax(dim=-1).gather(2, tokens[:, :, None])[:, :, 0]
    counts = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    return chosen.where(counts, 0.0).sum(dim=1) / lengths**length_penalty
