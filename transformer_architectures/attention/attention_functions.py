"""Attention functions: ``(q, k, v, mask) -> context``, the mathematics without projections.

One interface, several backends. ``auto`` is a fixed rule, derived from the measurement recorded in
``benchmarks/results/attention_backends.md``; it never times anything at run time, so a resumed run takes the same kernels.
"""

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from transformer_architectures.kernels.dropout import dropout
from transformer_architectures.masking import AttentionMask, AttentionMaskLike

Backend = Literal["auto", "math", "sdpa"]
Queries = Float[Tensor, "batch heads queries head_dim"]
Keys = Float[Tensor, "batch heads keys head_dim"]
Weights = Float[Tensor, "batch heads queries keys"]


@runtime_checkable
class AttentionFunction(Protocol):
    """What `MultiHeadAttention` needs. Queries that may attend to nothing get zeros."""

    def __call__(self, q: Queries, k: Keys, v: Keys, mask: AttentionMaskLike = None) -> Queries:
        """For each query the mean of the values, weighted by how well their keys fit it."""
        ...

    def weights(self, q: Queries, k: Keys, mask: AttentionMaskLike = None) -> Weights:
        """The attention weights alone, without dropout: computed only when somebody wants to look at them."""
        ...


def masked_softmax(scores: Weights, mask: AttentionMask) -> Weights:
    """Softmax over the allowed keys; all zeros, with zero gradient, where none is allowed. Overwrites the scores."""
    masked = mask.score_bias(scores.shape[-2], scores.shape[-1], scores.dtype, scores.device)
    if masked is None:
        return scores.softmax(dim=-1)
    # Added, not filled in: the backward pass has nothing to do.
    weights = scores.add_(masked.bias).softmax(dim=-1)
    return weights if masked.attends is None else weights * masked.attends


class ScaledDotProductAttention(nn.Module):
    """``softmax(q kᵀ / sqrt(head_dim)) v`` (Vaswani et al. 2017, section 3.2.1).

    Args:
        dropout: fraction of the attention weights dropped in training.
        backend: ``math`` (plain tensor operations), ``sdpa`` (torch's fused kernels) or ``auto`` (a fixed rule).
        scale: factor on the scores; None means ``head_dim ** -0.5``.
    """

    # On a CPU the fused kernel pays off only above so many scores per head: see the table named in the module's docstring. In
    # bf16 it is slow up to 512 positions, most of all backward.
    LARGEST_MATH_SCORES = {torch.float32: 96 * 96, torch.bfloat16: 512 * 512}

    def __init__(self, dropout: float = 0.0, backend: Backend = "auto", scale: float | None = None) -> None:
        super().__init__()
        self.dropout = dropout
        self.backend: Backend = backend
        self.scale = scale

    def forward(self, q: Queries, k: Keys, v: Keys, mask: AttentionMaskLike = None) -> Queries:
        """The context of each query, by the backend; dropout in training only."""
        mask = AttentionMask.from_any(mask)
        share = self.dropout if self.training else 0.0
        if self._uses_math(q, k, share):
            return dropout(self.weights(q, k, mask), share) @ v
        if mask.is_plain_causal(q.shape[-2], k.shape[-2]):
            return F.scaled_dot_product_attention(q, k, v, dropout_p=share, is_causal=True, scale=self.scale)
        allowed = mask.render(q.shape[-2], k.shape[-2], q.device)
        return F.scaled_dot_product_attention(q, k, v, allowed, dropout_p=share, scale=self.scale)

    def weights(self, q: Queries, k: Keys, mask: AttentionMaskLike = None) -> Weights:
        """The attention weights alone, without dropout."""
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        # As one batch of matrices: the product scales, and views of a fused projection are copied in one go.
        flat_q, flat_k = q.flatten(0, 1), k.flatten(0, 1)
        scores = torch.baddbmm(q.new_empty(()), flat_q, flat_k.transpose(1, 2), beta=0, alpha=scale)
        return masked_softmax(scores.view(*q.shape[:-1], -1), AttentionMask.from_any(mask))

    def _uses_math(self, q: Tensor, k: Tensor, dropout: float) -> bool:
        if self.backend != "auto":
            return self.backend == "math"
        # torch's CPU kernel has no dropout: it would fall back to a slower form of the same mathematics.
        num_scores = q.shape[-2] * k.shape[-2]
        return q.device.type == "cpu" and (
            dropout > 0 or num_scores <= self.LARGEST_MATH_SCORES.get(q.dtype, 128 * 128)
        )


class AdditiveAttention(nn.Module):
    """``softmax(wᵀ tanh(q + k)) v`` (Bahdanau et al. 2015, section 3.1), one vector ``w`` per head.

    The matrices of the paper are the query and key projections of `MultiHeadAttention`. The scores need a tensor of
    ``queries × keys × head_dim`` elements: it is made, and in training made again for the backward pass, in chunks of
    queries of at most ``max_chunk_elements``, so memory grows with ``queries × keys`` only.
    """

    def __init__(self, num_heads: int, head_dim: int, dropout: float = 0.0, max_chunk_elements: int = 2**22) -> None:
        super().__init__()
        self.dropout = dropout
        self.max_chunk_elements = max_chunk_elements
        self.score_vector = nn.Parameter(torch.empty(num_heads, head_dim))
        nn.init.normal_(self.score_vector, std=head_dim**-0.5)

    def forward(self, q: Queries, k: Keys, v: Keys, mask: AttentionMaskLike = None) -> Queries:
        """The context of each query; dropout in training only."""
        return dropout(self.weights(q, k, mask), self.dropout, self.training) @ v

    def weights(self, q: Queries, k: Keys, mask: AttentionMaskLike = None) -> Weights:
        """The attention weights alone, without dropout."""
        elements_per_query = max(1, k.numel())
        chunk_length = max(1, self.max_chunk_elements // elements_per_query)
        chunks = [self._chunk_scores(chunk, k) for chunk in torch.split(q, chunk_length, dim=-2)]
        scores = chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=-2)
        return masked_softmax(scores, AttentionMask.from_any(mask))

    def _chunk_scores(self, q: Tensor, k: Tensor) -> Tensor:
        def scores(q: Tensor, k: Tensor, score_vector: Tensor) -> Tensor:
            similarity = torch.tanh(q[..., :, None, :] + k[..., None, :, :])
            return torch.einsum("bhqkd,hd->bhqk", similarity, score_vector.to(similarity))

        if torch.is_grad_enabled():
            return checkpoint(scores, q, k, self.score_vector, use_reentrant=False)
        return scores(q, k, self.score_vector)
