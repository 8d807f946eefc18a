"""The encoder: N blocks and, where the norm stands before each sub-layer, a final norm."""

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

    def forward(self, hidden_states: Hidden, mask: AttentionMaskLike = None) -> Hidden:
        """Hidden states after the last block and the final norm; ``mask``: see `masking` (1 = real token)."""
        mask = AttentionMask.of(mask)
        for block in self.blocks:
            hidden_states = block(hidden_states, mask)
        return self.final_norm(hidden_states)  # type: ignore[no-any-return]
