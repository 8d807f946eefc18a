"""The one block that every architecture is declared from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.attention import (
    AttentionConfig,
    CrossAttentionSubLayer,
    KeyValueCache,
    SelfAttentionSubLayer,
)
from transformer_architectures.errors import UsageError
from transformer_architectures.feedforward import FeedForwardConfig, FeedForwardSubLayer
from transformer_architectures.masking import AttentionMaskLike
from transformer_architectures.residual import ResidualConfig

Hidden = Float[Tensor, "batch length embed_dim"]


@dataclass(frozen=True)
class TransformerBlockConfig:
    """A block, declared from its parts. ``is_decoder`` adds the cross-attention."""

    embed_dim: int
    attention: AttentionConfig
    feedforward: FeedForwardConfig
    residual: ResidualConfig = field(default_factory=ResidualConfig)
    is_decoder: bool = False

    def with_stochastic_depth(self, last: float, num_layers: int) -> list["TransformerBlockConfig"]:
        """The declarations of ``num_layers`` blocks, alike but for their stochastic depth.

        It grows linearly from 0 at the first block to ``last`` at the last (Huang et al. 2016, section 3; from 0, as in timm).
        """
        return [
            replace(self, residual=replace(self.residual, stochastic_depth=last * index / max(1, num_layers - 1)))
            for index in range(num_layers)
        ]


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention where it is a decoder's, feed-forward.

    Declared by ``config``, or by the keyword form
    ``TransformerBlock(embed_dim=, num_heads=, ff_dim=, dropout=, is_decoder=, pre_layernorm=)``, which builds one.
    """

    def __init__(
        self,
        config: TransformerBlockConfig | None = None,
        *,
        embed_dim: int | None = None,
        num_heads: int | None = None,
        ff_dim: int | None = None,
        dropout: float = 0.0,
        is_decoder: bool = False,
        pre_layernorm: bool = True,
    ) -> None:
        super().__init__()
        keywords = (embed_dim, num_heads, ff_dim, dropout, is_decoder, pre_layernorm)
        if config is not None and keywords != (None, None, None, 0.0, False, True):
            raise UsageError("TransformerBlock takes a config or keywords, not both: the config says it all")
        if config is None:
            if embed_dim is None or num_heads is None or ff_dim is None:
                raise UsageError("TransformerBlock needs a config, or embed_dim, num_heads and ff_dim")
            config = TransformerBlockConfig(
                embed_dim=embed_dim,
                attention=AttentionConfig(num_heads=num_heads),
                feedforward=FeedForwardConfig(ff_dim=ff_dim),
                residual=ResidualConfig(pre_layernorm=pre_layernorm, dropout=dropout),
                is_decoder=is_decoder,
            )
        self.self_attention = SelfAttentionSubLayer(config.embed_dim, config.attention, config.residual)
        self.cross_attention = (
            CrossAttentionSubLayer(config.embed_dim, config.attention, config.residual) if config.is_decoder else None
        )
        self.feedforward = FeedForwardSubLayer(config.embed_dim, config.feedforward, config.residual)

    def forward(
        self,
        hidden_states: Hidden,
        mask: AttentionMaskLike = None,
        encoder_output: Float[Tensor, "batch keys embed_dim"] | None = None,
        encoder_mask: AttentionMaskLike = None,
        cache: KeyValueCache | None = None,
        num_queries: int | None = None,
    ) -> Float[Tensor, "batch queries embed_dim"]:
        """The block's output for every position, or for the first ``num_queries``.

        Args:
            mask: who may attend to whom: see `masking`. None: everyone to everyone.
            encoder_output: what the cross-attention of a decoder's block looks at; encoder_mask: 1 = real token of it.
            cache: keys and values of earlier positions; the given ones are added to it.
            num_queries: the other positions are attended to, and that is all they are good for.

        Raises:
            UsageError: ``encoder_output`` is missing in a decoder's block, or given to another.
        """
        if (encoder_output is None) != (self.cross_attention is None):
            raise UsageError(
                "a block has cross-attention (is_decoder=True) exactly if it gets encoder_output: "
                f"cross-attention {self.cross_attention is not None}, encoder_output {encoder_output is not None}"
            )
        hidden_states = self.self_attention(hidden_states, mask, cache, num_queries)
        if self.cross_attention is not None:
            hidden_states = self.cross_attention(hidden_states, encoder_output, encoder_mask, cache)
        return self.feedforward(hidden_states)


def build_blocks(
    config: TransformerBlockConfig | Sequence[TransformerBlockConfig], num_layers: int | None
) -> tuple[nn.ModuleList, nn.Module]:
    """The blocks of a stack, and the norm after them.

    Pre-norm leaves the sum of all residuals un-normalised, so the stack ends with a norm; a post-norm stack has none.

    Args:
        config: one declaration for all ``num_layers`` blocks, or one for each (``num_layers`` may be left out then).
    """
    if isinstance(config, TransformerBlockConfig):
        if num_layers is None:
            raise UsageError("a stack of equal blocks needs num_layers")
        configs = [config] * num_layers
    else:
        configs = list(config)
        if num_layers not in (None, len(configs)):
            raise UsageError(f"num_layers is {num_layers}, but {len(configs)} blocks are declared")
    if not configs:
        raise UsageError("a stack needs at least one block")
    residual, embed_dim = configs[-1].residual, configs[-1].embed_dim
    final_norm = residual.norm.build(embed_dim) if residual.pre_layernorm else nn.Identity()
    return nn.ModuleList(TransformerBlock(block) for block in configs), final_norm
