"""A search in progress over a `Decoder`: one cache per layer, beams that never copy it."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from transformer_architectures.attention import KeyValueCache
from transformer_architectures.decoder import Decoder
from transformer_architectures.masking import AttentionMask


class BeamAncestry:
    """Which remembered tokens belong to which beam.

    The beams of a sentence stand in the cache as neighbours: step ``t`` fills the places ``t·beams`` to ``(t+1)·beams``.
    When a beam goes on from another one, nothing of the cache moves; only this table of who-descends-from-whom does. In
    exchange every beam scores the other beams' tokens too and masks them, which for a few beams costs far less than
    copying keys and values of all layers at every step.
    """

    def __init__(self, num_sentences: int, num_beams: int, max_length: int, device: torch.device) -> None:
        self.num_beams = num_beams
        self.table = torch.zeros(num_sentences, num_beams, max_length * num_beams, dtype=torch.bool, device=device)
        self.itself = torch.eye(num_beams, dtype=torch.bool, device=device)

    def mask(self, step: int) -> AttentionMask:
        """What the tokens of this step may attend to: their ancestors and themselves."""
        if self.num_beams == 1:
            return AttentionMask()
        start, end = step * self.num_beams, (step + 1) * self.num_beams
        self.table[:, :, start:end] = self.itself
        return AttentionMask(self.table[:, None, :, :end])

    def reorder(self, parents: Int[Tensor, "sentences beams"], length: int) -> None:
        """Beam ``i`` of a sentence becomes a child of beam ``parents[sentence, i]`` of the same sentence."""
        used = self.table[:, :, : length * self.num_beams]
        used.copy_(used.gather(1, parents[:, :, None].expand_as(used)))

    def select(self, sentences: Int[Tensor, "kept"]) -> None:
        """Keeps only these sentences."""
        self.table = self.table.index_select(0, sentences)


class DecodingState:
    """Next-token logits for ``sentences × beams`` rows, with everything remembered that later steps need.

    Args:
        embed: ``(tokens (sentences, beams), position)`` to hidden states ``(sentences, beams, embed_dim)``.
        decoder: the stack.
        output_logits: hidden states to logits.
        encoder_output: ``(sentences, source, embed_dim)``; None for a decoder without cross-attention.
        encoder_mask: 1 = real source token.
    """

    def __init__(
        self,
        embed: Callable[[Tensor, int], Tensor],
        decoder: Decoder,
        output_logits: Callable[[Tensor], Tensor],
        encoder_output: Float[Tensor, "sentences source embed_dim"],
        encoder_mask: Bool[Tensor, "sentences source"] | None,
        num_beams: int,
        max_length: int,
    ) -> None:
        self.embed, self.decoder, self.output_logits = embed, decoder, output_logits
        self.encoder_output, self.encoder_mask = encoder_output, encoder_mask
        self.num_beams = num_beams
        self.length = 0
        self.caches = [KeyValueCache(capacity=max_length * num_beams) for _ in decoder.blocks]
        self.ancestry = BeamAncestry(len(encoder_output), num_beams, max_length, encoder_output.device)

    def step(self, tokens: Int[Tensor, "rows"]) -> Float[Tensor, "rows vocab"]:
        """Feeds the latest token of each row (``rows = sentences × beams``, sentence by sentence)."""
        hidden_states = self.decoder(
            self.embed(tokens.view(-1, self.num_beams), self.length),
            self.ancestry.mask(self.length),
            self.encoder_output,
            self.encoder_mask,
            self.caches,
        )
        self.length += 1
        return self.output_logits(hidden_states.flatten(0, 1))

    def reorder(self, parents: Int[Tensor, "rows"]) -> None:
        """Row ``i`` goes on from row ``parents[i]``, which must belong to the same sentence."""
        self.ancestry.reorder(parents.view(-1, self.num_beams) % self.num_beams, self.length)

    def keep(self, sentences: Int[Tensor, "kept"]) -> None:
        """Only these sentences stay, with all their beams."""
        self.encoder_output = self.encoder_output.index_select(0, sentences)
        if self.encoder_mask is not None:
            self.encoder_mask = self.encoder_mask.index_select(0, sentences)
        self.ancestry.select(sentences)
        for cache in self.caches:
            cache.select(sentences)
