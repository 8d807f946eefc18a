"""The decoder: N blocks that see the past only and, where they have cross-attention, the encoder's output."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.attention import KeyValueCache
from transformer_architectures.masking import AttentionMask, AttentionMaskLike
from transformer_architectures.transformer_blocks import TransformerBlockConfig, build_blocks

Hidden = Float[Tensor, "batch length embed_dim"]


class Decoder(nn.Module):
    """``num_layers`` equal blocks, or one for each declaration. The caller's ``mask`` says what is hidden, causality included."""

    def __init__(
        self, config: TransformerBlockConfig | Sequence[TransformerBlockConfig], num_layers: int | None = None
    ) -> None:
        super().__init__()
        self.blocks, self.final_norm = build_blocks(config, num_layers)

    def forward(
        self,
        hidden_states: Hidden,
        mask: AttentionMaskLike = None,
        encoder_output: Float[Tensor, "batch keys embed_dim"] | None = None,
        encoder_mask: AttentionMaskLike = None,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Hidden:
        """Hidden states after the last block and the final norm.

        Args:
            mask: see `masking`; causality is the caller's to ask for.
            encoder_output: for decoders with cross-attention, and only for them; encoder_mask: 1 = real token of it.
            caches: one for each block; the given positions come after all that they hold.
        """
        mask, encoder_mask = AttentionMask.from_any(mask), AttentionMask.from_any(encoder_mask)
        for index, block in enumerate(self.blocks):
            cache = None if caches is None else caches[index]
            hidden_states = block(hidden_states, mask, encoder_output, encoder_mask, cache)
        return self.final_norm(hidden_states)
