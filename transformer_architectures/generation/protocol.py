"""What a search needs of a decoder, and what it gives back."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from transformer_architectures.errors import UsageError


@runtime_checkable
class DecoderState(Protocol):
    """A decoder in the middle of its work. It has ``rows = sentences × beams`` rows, sentence by sentence."""

    def step(self, tokens: Int[Tensor, "rows"]) -> Iterable[Float[Tensor, "some_rows vocab"]]:
        """Feeds the latest token of each row; gives the logits of the next, as tensors to be overwritten.

        They come as one tensor, or in several for one group of rows after the other: what is made of a group's logits is then
        made while they lie in the processor's cache, and all of them never exist at once.
        """
        ...

    def reorder(self, parents: Int[Tensor, "rows"]) -> None:
        """Row ``i`` goes on from row ``parents[i]``, which belongs to the same sentence."""
        ...

    def keep(self, sentences: Int[Tensor, "kept"]) -> None:
        """Only these sentences stay, with all their rows, in this order."""
        ...


@dataclass(frozen=True)
class Hypotheses:
    """What a search found for each sentence: what is finished, best first, then what the limit cut.

    Attributes:
        tokens: without the start token; end tokens fill up what is shorter. One that its limit cut has no end token.
        lengths: number of tokens, the end token included: what the scores are normalised by.
        scores: log probability over ``length ** length_penalty``; -inf where there are fewer than were asked for.
    """

    tokens: Int[Tensor, "sentences n_best length"]
    lengths: Int[Tensor, "sentences n_best"]
    scores: Float[Tensor, "sentences n_best"]
    end_token: int

    def to_lists(self) -> list[list[list[int]]]:
        """Token ids for each sentence and rank, without the end token."""
        lengths = (self.tokens != self.end_token).sum(dim=-1).tolist()
        return [
            [tokens[:length] for tokens, length in zip(*ranked, strict=True)]
            for ranked in zip(self.tokens.tolist(), lengths, strict=True)
        ]


def distinct_limits(max_lengths: Int[Tensor, "sentences"]) -> set[int]:
    """The length limits that occur.

    Raises:
        UsageError: one of them leaves no room for a token.
    """
    limits = set(max_lengths.tolist())
    if limits and min(limits) < 1:
        raise UsageError(f"an output has at least 1 token, its limit cannot be {min(limits)}")
    return limits
