"""From the hidden states of a sequence to one vector."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from transformer_architectures.architectures.bert.config import Pooling
from transformer_architectures.errors import UsageError
from transformer_architectures.masking import AttentionMaskLike


def pool(
    hidden_states: Float[Tensor, "batch length embed_dim"], pooling: Pooling, attention_mask: AttentionMaskLike = None
) -> Float[Tensor, "batch embed_dim"]:
    """The first token's vector (``cls``), or the mean or the largest value over all real tokens; zeros where there is none.

    Args:
        attention_mask: ``(batch, length)``, 1 = real token; None = all are. Sequences begin at the left.

    Raises:
        UsageError: the mask does not say which tokens are real, but who may attend to whom.
    """
    if pooling == "cls":
        return hidden_states[:, 0]
    if attention_mask is None:
        return hidden_states.mean(dim=1) if pooling == "mean" else hidden_states.amax(dim=1)
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        raise UsageError(f"pooling: {pooling} needs an attention_mask of shape (batch, length): 1 = real token")
    return _pool_real(hidden_states, pooling, attention_mask != 0)


def _pool_real(
    hidden_states: Float[Tensor, "batch length embed_dim"], pooling: Pooling, real: Shaped[Tensor, "batch length"]
) -> Float[Tensor, "batch embed_dim"]:
    real = real[:, :, None]
    if pooling == "mean":
        return (hidden_states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    largest = hidden_states.masked_fill(~real, torch.finfo(hidden_states.dtype).min).amax(dim=1)
    return largest * real.any(dim=1)


__all__ = ["pool"]
