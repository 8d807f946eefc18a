"""A search in progress over a `Decoder`: one cache per layer, beams that never copy it."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from transformer_architectures.attention import KeyValueCache
from transformer_architectures.decoder import Decoder
from transformer_architectures.masking import AttentionMask

# A CPU's cache holds so many; a larger tensor would be new memory from the system at every step, page by page.
LOGITS_AT_ONCE = {"cpu": 2**20}
# Dropping copies what stays: seldom enough to cost little, often enough to keep the cache short.
STEPS_BETWEEN_DROPS = 8


class BeamAncestry:
    """Which remembered tokens belong to which beam.

    The beams of a sentence stand in the cache as neighbours: each step fills one more place for each of them. When a beam
    goes on from another one, nothing of the cache moves; only this table of who-descends-from-whom does. In exchange every
    beam scores the other beams' tokens too and masks them, which for a few beams costs far less than copying keys and
    values of all layers at every step. Beams soon have most of their past in common, so now and then the tokens that no
    beam descends from any more are dropped.

    Attributes:
        length: places in use.
    """

    def __init__(self, num_sentences: int, num_beams: int, max_length: int, device: torch.device) -> None:
        self.num_beams, self.length, self.length_kept = num_beams, 0, 0
        self.table = torch.zeros(num_sentences, num_beams, max_length * num_beams, dtype=torch.bool, device=device)
        self.itself = torch.eye(num_beams, dtype=torch.bool, device=device)

    def add_step(self) -> AttentionMask:
        """What the tokens of one more step may attend to: their ancestors and themselves."""
        start, self.length = self.length, self.length + self.num_beams
        if self.num_beams == 1:
            return AttentionMask()
        self.table[:, :, start : self.length] = self.itself
        return AttentionMask(self.table[:, None, :, : self.length])

    def reorder(self, parents: Int[Tensor, "sentences beams"]) -> None:
        """Beam ``i`` of a sentence becomes a child of beam ``parents[sentence, i]`` of the same sentence."""
        rows = parents + torch.arange(len(parents), device=parents.device)[:, None] * self.num_beams
        self.table = self.table.flatten(0, 1).index_select(0, rows.flatten()).view_as(self.table)

    def select(self, sentences: Int[Tensor, "kept"]) -> None:
        """Keeps only these sentences."""
        self.table = self.table.index_select(0, sentences)

    def prune_unreachable(self) -> Int[Tensor, "sentences living"] | None:
        """Moves the living tokens of each sentence to the front, in order; returns the places that they come from.

        Where a sentence has fewer of them than another, dead ones fill up. None where it is not time yet.
        """
        if self.num_beams == 1 or self.length - self.length_kept < STEPS_BETWEEN_DROPS * self.num_beams:
            return None
        is_living = self.table[:, :, : self.length].any(dim=1)
        self.length = self.length_kept = int(is_living.sum(dim=1).max())
        places = is_living.int().argsort(dim=1, descending=True, stable=True)[:, : self.length]
        kept = self.table.gather(2, places[:, None].expand(-1, self.num_beams, -1))
        self.table.zero_()[:, :, : self.length] = kept
        return places


class DecodingState:
    """Next-token logits for ``sentences × beams`` rows, with everything remembered that later steps need.

    Args:
        embed: ``(tokens (sentences, beams), position)`` to hidden states ``(sentences, beams, embed_dim)``.
        decoder: the stack.
        output_logits: hidden states to logits, ``vocab_size`` for each.
        num_sentences: of the batch, each with ``num_beams`` rows.
        max_length: tokens of the longest output; more cost a copy of the caches.
        encoder_output: None for a decoder without cross-attention.
        encoder_mask: 1 = real source token.
    """

    def __init__(
        self,
        embed: Callable[[Tensor, int], Tensor],
        decoder: Decoder,
        output_logits: Callable[[Tensor], Tensor],
        vocab_size: int,
        num_sentences: int,
        num_beams: int,
        max_length: int,
        device: torch.device,
        encoder_output: Float[Tensor, "sentences source embed_dim"] | None = None,
        encoder_mask: Bool[Tensor, "sentences source"] | None = None,
    ) -> None:
        self.embed, self.decoder = embed, decoder
        self.output_logits, self.vocab_size = output_logits, vocab_size
        self.encoder_output, self.encoder_mask = encoder_output, AttentionMask.from_any(encoder_mask)
        self.num_beams = num_beams
        self.position = 0
        self.caches = [KeyValueCache(capacity=max_length * num_beams) for _ in decoder.blocks]
        self.ancestry = BeamAncestry(num_sentences, num_beams, max_length, device)

    def step(self, tokens: Int[Tensor, "rows"]) -> Iterator[Float[Tensor, "some_rows vocab"]]:
        """Feeds the latest token of each row (``rows = sentences × beams``, sentence by sentence); logits in groups of rows."""
        if (places := self.ancestry.prune_unreachable()) is not None:
            for cache in self.caches:
                cache.select_places(places)
        hidden_states = self.decoder(
            self.embed(tokens.view(-1, self.num_beams), self.position),
            self.ancestry.add_step(),
            self.encoder_output,
            self.encoder_mask,
            self.caches,
        )
        self.position += 1
        rows_at_once = max(1, LOGITS_AT_ONCE.get(hidden_states.device.type, 2**26) // self.vocab_size)
        return map(self.output_logits, hidden_states.flatten(0, 1).split(rows_at_once))

    def reorder(self, parents: Int[Tensor, "rows"]) -> None:
        """Row ``i`` goes on from row ``parents[i]``, which must belong to the same sentence."""
        self.ancestry.reorder(parents.view(-1, self.num_beams) % self.num_beams)

    def keep(self, sentences: Int[Tensor, "kept"]) -> None:
        """Only these sentences stay, with all their beams."""
        if self.encoder_output is not None:
            self.encoder_output = self.encoder_output.index_select(0, sentences)
        if self.encoder_mask.allowed is not None:
            self.encoder_mask = AttentionMask(self.encoder_mask.allowed.index_select(0, sentences))
        self.ancestry.select(sentences)
        for cache in self.caches:
            cache.select(sentences)
