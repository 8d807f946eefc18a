"""From the hidden states of a sequence to one vector."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from transformer_architectures.errors import UsageError
from transformer_architectures.masking import AttentionMask, AttentionMaskLike

Pooling = Literal["cls", "mean", "max"]


def pool(
    hidden_states: Float[Tensor, "batch length embed_dim"], pooling: Pooling, attention_mask: AttentionMaskLike = None
) -> Float[Tensor, "sequences embed_dim"]:
    """The first token's vector (``cls``), or the mean or the largest value over all real tokens; zeros where there is none.

    Args:
        attention_mask: ``(batch, length)``, 1 = real token, sequences beginning at the left; None = all are; or one with segments,
            each of which is a sequence of the packed rows.

    Raises:
        UsageError: the mask does not say which tokens are real, but who may attend to whom.
    """
    if isinstance(attention_mask, AttentionMask) and attention_mask.segments is not None:
        segments = attention_mask.segments
        if pooling == "cls":
            return hidden_states[0, segments.starts(hidden_states.device)]
        is_real = segments.unpack(torch.ones_like(hidden_states[..., 0], dtype=torch.bool))
        return _pool_real(segments.unpack(hidden_states), pooling, is_real)
    if pooling == "cls":
        return hidden_states[:, 0]
    if attention_mask is None:
        attention_mask = torch.ones_like(hidden_states[..., 0], dtype=torch.bool)
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        raise UsageError(f"pooling: {pooling} needs an attention_mask of shape (batch, length): 1 = real token")
    return _pool_real(hidden_states, pooling, attention_mask != 0)


def _pool_real(
    hidden_states: Float[Tensor, "batch length embed_dim"], pooling: Pooling, is_real: Shaped[Tensor, "batch length"]
) -> Float[Tensor, "batch embed_dim"]:
    is_real = is_real[:, :, None]
    match pooling:
        case "mean":
            return (hidden_states * is_real).sum(dim=1) / is_real.sum(dim=1).clamp(min=1)
        case "max":
            largest = hidden_states.masked_fill(~is_real, torch.finfo(hidden_states.dtype).min).amax(dim=1)
            return largest * is_real.any(dim=1)
        case _:
            raise UsageError(f"pooling: {pooling}: not one of the known kinds")
