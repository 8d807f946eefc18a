"""Multi-head attention and the two sub-layers that a block is made of (Vaswani et al. 2017, section 3.2.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from transformer_architectures.attention.attention_functions import (
    AdditiveAttention,
    AttentionFunction,
    Backend,
    ScaledDotProductAttention,
)
from transformer_architectures.attention.key_value_cache import KeyValueCache
from transformer_architectures.attention.packed import PackedHeads
from transformer_architectures.errors import UsageError
from transformer_architectures.kernels.fused_linear import FusedLinear, show_parts_in_state_dict
from transformer_architectures.kernels.linear import Linear
from transformer_architectures.masking import AttentionMask, AttentionMaskLike
from transformer_architectures.residual import Residual, ResidualConfig

Hidden = Float[Tensor, "batch length embed_dim"]
Recorder = Callable[[Tensor], None]


@dataclass(frozen=True)
class AttentionConfig:
    """Heads, the function that scores them, dropout on the attention weights, and whether projections have biases."""

    num_heads: int
    function: Literal["dot_product", "additive"] = "dot_product"
    backend: Backend = "auto"
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        if self.function == "additive" and self.backend != "auto":
            raise UsageError(f"backend {self.backend!r} computes dot products: additive attention has no choice of it")

    def build_function(self, head_dim: int) -> AttentionFunction:
        """The attention function for heads of this size."""
        if self.function == "additive":
            return AdditiveAttention(self.num_heads, head_dim, dropout=self.dropout)
        return ScaledDotProductAttention(dropout=self.dropout, backend=self.backend)


class MultiHeadAttention(nn.Module):
    """Projects to heads, attends, projects back.

    Args:
        embed_dim: width of the hidden states; ``num_heads`` must divide it.
        cross: queries come from one sequence, keys and values from another (otherwise all three from one, as one product).
    """

    def __init__(self, embed_dim: int, config: AttentionConfig, cross: bool = False) -> None:
        super().__init__()
        if embed_dim % config.num_heads:
            raise UsageError(f"embed_dim {embed_dim} is not divisible by num_heads {config.num_heads}")
        self.num_heads = config.num_heads
        self.head_dim = embed_dim // config.num_heads
        if cross:
            self.query = Linear(embed_dim, embed_dim, bias=config.bias)
            self.key_value = FusedLinear(embed_dim, embed_dim, ("key", "value"), bias=config.bias)
        else:
            self.query_key_value = FusedLinear(embed_dim, embed_dim, ("query", "key", "value"), bias=config.bias)
        show_parts_in_state_dict(self)
        self.attention_function = config.build_function(self.head_dim)
        self.output = Linear(embed_dim, embed_dim, bias=config.bias)
        self.recorder: Recorder | None = None  # set by `record_attention`

    def attend_to_self(
        self,
        hidden_states: Hidden,
        mask: AttentionMask,
        cache: KeyValueCache | None = None,
        num_queries: int | None = None,
    ) -> Float[Tensor, "batch queries embed_dim"]:
        """Self-attention: of all positions, or of the first ``num_queries`` to all. With a cache, the given states stand after
        all that it holds.

        Raises:
            UsageError: the mask has segments, and there is a cache or ``num_queries``, or the states are not their packed rows.
        """
        projected = self.query_key_value(hidden_states)
        if mask.segments is not None:
            if cache is not None:
                raise UsageError("packed rows cannot be decoded with a key-value cache: pad them")
            if num_queries is not None:
                raise UsageError("num_queries counts the positions of padded sequences: packed rows have no first ones")
            return self._attend_in_segments(projected, mask)
        q, k, v = self.split_heads(projected, 3)
        if cache is not None:
            mask = mask.with_causality(cache.length) if mask.causal else mask
            k, v = cache.append(k, v)
        return self._attend(q, k, v, mask, num_queries)

    def attend_to_other(
        self,
        hidden_states: Hidden,
        other: Float[Tensor, "batch keys embed_dim"],
        mask: AttentionMask,
        cache: KeyValueCache | None = None,
    ) -> Hidden:
        """Cross-attention from ``hidden_states`` to ``other``, whose projections are computed once where there is a cache.

        Raises:
            UsageError: the mask has segments: it says nothing about which queries belong to them.
        """
        if mask.segments is not None:
            raise UsageError("cross-attention to packed rows is not possible: segments are for self-attention")

        def project() -> tuple[Tensor, Tensor]:
            k, v = self.split_heads(self.key_value(other), 2)
            return k, v

        (q,) = self.split_heads(self.query(hidden_states), 1)
        k, v = project() if cache is None else cache.cross(project)
        return self._attend(q, k, v, mask)

    def broadcast_mask(
        self, mask: AttentionMaskLike, batch: int, num_queries: int, num_keys: int
    ) -> Bool[Tensor, "batch heads queries keys"] | None:
        """The mask, expanded (as a view) to every head and query; None where everything may be attended to."""
        reference = self.output.weight
        allowed = AttentionMask.from_any(mask).render(num_queries, num_keys, reference.device)
        return None if allowed is None else allowed.expand(batch, self.num_heads, num_queries, num_keys)

    def split_heads(
        self, projected: Float[Tensor, "batch length all_projections"], num_projections: int
    ) -> tuple[Float[Tensor, "batch heads length head_dim"], ...]:
        """``(batch, length, projections × heads × head_dim)`` to one ``(batch, heads, length, head_dim)`` per projection."""
        batch, length, _ = projected.shape
        heads = projected.view(batch, length, num_projections, self.num_heads, self.head_dim)
        return heads.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, num_queries: int | None = None) -> Tensor:
        if self.recorder is not None:
            self.recorder(self.attention_function.weights(q, k, mask).detach())
        if num_queries is not None:
            q, mask = q[:, :, :num_queries], mask.of_first_queries(num_queries)
        context = self.attention_function(q, k, v, mask)
        return self.output(context.transpose(1, 2).flatten(2))

    def _attend_in_segments(self, projected: Tensor, mask: AttentionMask) -> Tensor:
        assert mask.segments is not None
        if projected.shape[:2] != (1, mask.segments.num_rows):
            raise UsageError(
                f"segments of {mask.segments.num_rows} rows in all need packed rows (1, rows, embed_dim), "
                f"not {tuple(projected.shape[:2])} of them"
            )
        packed = PackedHeads.from_mask(mask, self.num_heads, projected.device)
        heads = list(zip(packed.split(projected), packed.rectangles, strict=True))
        if self.recorder is not None:
            weights = [self.attention_function.weights(q, k, rectangle.mask) for (q, k, _), rectangle in heads]
            self.recorder(packed.unpack_weights(weights).detach())
        contexts = [self.attention_function(q, k, v, rectangle.mask) for (q, k, v), rectangle in heads]
        return self.output(packed.merge(contexts))


class SelfAttentionSubLayer(nn.Module):
    """Self-attention inside the residual rule."""

    def __init__(self, embed_dim: int, config: AttentionConfig, residual: ResidualConfig) -> None:
        super().__init__()
        self.residual = Residual(embed_dim, residual)
        self.attention = MultiHeadAttention(embed_dim, config)

    def forward(
        self,
        hidden_states: Hidden,
        mask: AttentionMaskLike = None,
        cache: KeyValueCache | None = None,
        num_queries: int | None = None,
    ) -> Float[Tensor, "batch queries embed_dim"]:
        """Every position looks at those of its sequence that ``mask`` allows, and at those that the cache remembers.

        With ``num_queries`` only the first so many look, and only they come out.

        Raises:
            UsageError: stochastic depth is to leave out sequences of packed rows, which are one sample to it.
        """
        mask = AttentionMask.from_any(mask)
        if mask.segments is not None and self.training and self.residual.stochastic_depth:
            raise UsageError("stochastic depth would leave out all packed rows at once: pad them, or set it to 0")
        return self.residual(
            hidden_states,
            lambda states: self.attention.attend_to_self(states, mask, cache, num_queries),
            num_queries,
        )


class CrossAttentionSubLayer(nn.Module):
    """Attention from the decoder to the encoder's output, inside the residual rule."""

    def __init__(self, embed_dim: int, config: AttentionConfig, residual: ResidualConfig) -> None:
        super().__init__()
        self.residual = Residual(embed_dim, residual)
        self.attention = MultiHeadAttention(embed_dim, config, cross=True)

    def forward(
        self,
        hidden_states: Hidden,
        encoder_output: Float[Tensor, "batch keys embed_dim"],
        encoder_mask: AttentionMaskLike = None,
        cache: KeyValueCache | None = None,
    ) -> Hidden:
        """Every position looks at the encoder's output, where ``encoder_mask`` (1 = real token) allows it."""
        mask = AttentionMask.from_any(encoder_mask)
        return self.residual(
            hidden_states, lambda states: self.attention.attend_to_other(states, encoder_output, mask, cache)
        )
