"""The encoder: N blocks and, where the norm is before each sub-layer, a final norm."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.masking import AttentionMask, AttentionMaskLike
from transformer_architectures.transformer_blocks import TransformerBlockConfig, build_blocks

Hidden = Float[Tensor, "batch length embed_dim"]


class Encoder(nn.Module):
    """Blocks over one sequence, every token seeing all real tokens.

    Args:
        config: one declaration for all ``num_layers`` blocks, or one for each.
        has_final_norm: whether a pre-norm stack ends with its norm; False where the architecture puts that elsewhere.
    """

    def __init__(
        self,
        config: TransformerBlockConfig | Sequence[TransformerBlockConfig],
        num_layers: int | None = None,
        has_final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.blocks, final_norm = build_blocks(config, num_layers)
        self.final_norm = final_norm if has_final_norm else nn.Identity()

    def forward(
        self, hidden_states: Hidden, mask: AttentionMaskLike = None, num_queries: int | None = None
    ) -> Float[Tensor, "batch queries embed_dim"]:
        """Hidden states after the last block and the final norm.

        Args:
            mask: see `masking` (1 = real token).
            num_queries: only the first so many positions are wanted. The last block computes no others, which is most of its work
                where one token stands for all.
        """
        mask = AttentionMask.from_any(mask)
        *lower_blocks, last_block = self.blocks
        for block in lower_blocks:
            hidden_states = block(hidden_states, mask)
        hidden_states = last_block(hidden_states, mask, num_queries=num_queries)
        return self.final_norm(hidden_states)
