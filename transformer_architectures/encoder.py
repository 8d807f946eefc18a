"""The encoder: N blocks and, where the norm stands before each sub-layer, a final norm."""

from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.masking import AttentionMask, AttentionMaskLike
from transformer_architectures.transformer_blocks import TransformerBlock, TransformerBlockConfig

Hidden = Float[Tensor, "batch length embed_dim"]


def final_norm(config: TransformerBlockConfig) -> nn.Module:
    """Pre-norm leaves the sum of all residuals un-normalised, so the stack ends with a norm; a post-norm stack has none."""
    residual = config.residual
    return residual.norm.build(config.embed_dim) if residual.pre_layernorm else nn.Identity()


class Encoder(nn.Module):
    """``num_layers`` blocks over one sequence, every token seeing all real tokens."""

    def __init__(self, config: TransformerBlockConfig, num_layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(num_layers))
        self.final_norm = final_norm(config)

    def forward(self, hidden_states: Hidden, mask: AttentionMaskLike = None) -> Hidden:
        mask = AttentionMask.of(mask)
        for block in self.blocks:
            hidden_states = block(hidden_states, mask)
        return self.final_norm(hidden_states)  # type: ignore[no-any-return]
