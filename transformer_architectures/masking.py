"""Which query may attend to which key: one value with one meaning, rendered for the kernel that asks.

At every public boundary a mask is a tensor with 1 (True) = real token, 0 (False) = padding, of shape ``(batch, keys)``,
``(batch, queries, keys)`` or ``(batch, heads, queries, keys)``. Inside, it is an `AttentionMask`:

* True = may attend.
* Causality is by absolute position: query ``i`` is at ``first_query + i``, so it is right with a cache.
* A query that may attend to nothing gives an all-zero output and zero gradient, never NaN.
* Of packed rows (see `Segments`), each sees those of its own segment.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Union

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from transformer_architectures.errors import UsageError

Device = Union[torch.device, str, None]


@dataclass(frozen=True)
class Segments:
    """The lengths of packed sequences, in their order.

    The sequences of a batch one behind the other, as hidden states of shape ``(1, rows, embed_dim)``. Nothing is padded, so linear
    layers, norms and the feed-forward compute real tokens only; as part of an `AttentionMask` the lengths keep sequences apart.

    Attributes:
        lengths: how many rows each sequence takes.
        rows_multiple: the number of rows is rounded up to a multiple of it, because kernels prepare every new shape. The rows
            behind the last segment belong to none: attention gives them zeros, and no loss may count them.

    Raises:
        UsageError: no segment, or one without rows.
    """

    lengths: tuple[int, ...]
    rows_multiple: int = 1

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise UsageError(f"packed rows need at least one segment, and a row in each, not lengths {self.lengths}")
        if self.rows_multiple < 1:
            raise UsageError(f"rows_multiple must be at least 1, not {self.rows_multiple}")

    @classmethod
    def from_mask(cls, mask: Shaped[Tensor, "segments length"], rows_multiple: int = 1) -> "Segments":
        """The lengths that a padding mask (1 = real token) shows.

        Raises:
            UsageError: a sequence does not begin at the left, or has a gap.
        """
        real = mask != 0
        if bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise UsageError("only sequences that are padded on the right, without gaps, can be packed")
        return cls(tuple(real.sum(dim=1).tolist()), rows_multiple)

    @property
    def num_tokens(self) -> int:
        """Rows that belong to a segment."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Length of the longest segment."""
        return max(self.lengths)

    @property
    def num_rows(self) -> int:
        """All rows."""
        return -(-self.num_tokens // self.rows_multiple) * self.rows_multiple

    def starts(self, device: Device = None) -> Int[Tensor, "segments"]:
        """The first row of each segment."""
        lengths = torch.tensor(self.lengths)
        return (lengths.cumsum(0) - lengths).to(device)

    def numbers(self, device: Device = None) -> Int[Tensor, "rows"]:
        """Which segment each row belongs to; -1 behind the last one."""
        numbers = torch.full((self.num_rows,), -1)
        numbers[: self.num_tokens] = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))
        return numbers.to(device)

    def positions(self, device: Device = None) -> Int[Tensor, "rows"]:
        """The position of each row in its segment, from 0; 0 behind the last segment."""
        positions = torch.zeros(self.num_rows, dtype=torch.int64)
        starts = self.starts().repeat_interleave(torch.tensor(self.lengths))
        positions[: self.num_tokens] = torch.arange(self.num_tokens) - starts
        return positions.to(device)

    def same(self, device: Device = None) -> Bool[Tensor, "1 1 rows rows"]:
        """Whether two rows belong to the same segment: what packed rows mean to attention, written out."""
        numbers = self.numbers(device)
        return ((numbers[:, None] == numbers) & (numbers >= 0))[None, None]

    def pack(self, padded: Shaped[Tensor, "segments length *rest"]) -> Shaped[Tensor, "1 rows *rest"]:
        """Padded sequences as packed rows, zeros behind the last one."""
        packed = padded.new_zeros(self.num_rows, *padded.shape[2:])
        packed[: self.num_tokens] = padded[self._real(padded.shape[1], padded.device)]
        return packed[None]

    def unpack(self, packed: Shaped[Tensor, "1 rows *rest"]) -> Shaped[Tensor, "segments longest *rest"]:
        """Packed rows as one padded sequence for each segment, zeros behind its end."""
        padded = packed.new_zeros(len(self.lengths), self.longest, *packed.shape[2:])
        padded[self._real(self.longest, packed.device)] = packed[0, : self.num_tokens]
        return padded

    def _real(self, length: int, device: torch.device) -> Bool[Tensor, "segments length"]:
        return (torch.arange(length) < torch.tensor(self.lengths)[:, None]).to(device)


class ScoreBias(NamedTuple):
    """A mask as a softmax wants it.

    Attributes:
        bias: added to the scores: 0 where allowed, else the lowest finite number (-inf would make NaN of a row without any key).
        attends: False for queries that may attend to nothing, whose weights are to be zeroed; None where there is none.
    """

    bias: Float[Tensor, "#batch #heads #queries keys"]
    attends: Bool[Tensor, "#batch #heads #queries 1"] | None


@dataclass(frozen=True)
class AttentionMask:
    """What may be attended to.

    Attributes:
        allowed: boolean, 4-dimensional and broadcastable to ``(batch, heads, queries, keys)``; None allows everything.
        causal: a query sees no key that comes after it.
        first_query: absolute position of the first query (the number of tokens that a cache already holds).
        segments: the batch is packed rows, and no row sees one of another segment. `MultiHeadAttention` computes nothing else.

    Raises:
        UsageError: segments together with ``allowed`` or ``first_query``: they say who is there, and begin at 0.
    """

    allowed: Bool[Tensor, "#batch #heads #queries keys"] | None = None
    causal: bool = False
    first_query: int = 0
    segments: Segments | None = None
    # All layers of a stack share their mask: its bias is made once for them.
    _biases: dict[tuple[int, int, torch.dtype, torch.device], ScoreBias] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.segments is not None and (self.allowed is not None or self.first_query):
            raise UsageError(
                "the mask of packed rows is their segments, causal or not: nothing else can be combined with it"
            )

    @classmethod
    def from_any(cls, mask: "AttentionMaskLike") -> "AttentionMask":
        """Reads any public form of a mask: None, a tensor (see the module's docstring) or an `AttentionMask`."""
        if isinstance(mask, AttentionMask):
            return mask
        if mask is None:
            return cls()
        match mask.dim():
            case 2:
                mask = mask[:, None, None, :]
            case 3:
                mask = mask[:, None, :, :]
            case 4:
                pass
            case _:
                raise UsageError(
                    "an attention mask is (batch, keys), (batch, queries, keys) or (batch, heads, queries, keys), "
                    f"not {tuple(mask.shape)}"
                )
        return cls(mask if mask.dtype == torch.bool else mask != 0)

    def with_causality(self, first_query: int = 0) -> "AttentionMask":
        """The same mask, and no query sees what comes after it."""
        return replace(self, causal=True, first_query=first_query)

    def of_first_queries(self, num_queries: int) -> "AttentionMask":
        """The rows of the mask that belong to the first queries."""
        return self if self.allowed is None else replace(self, allowed=self.allowed[:, :, :num_queries])

    def is_plain_causal(self, num_queries: int, num_keys: int) -> bool:
        """Whether the mask is the square lower triangle and nothing else (kernels have a fast path for it)."""
        only_causal = self.causal and self.allowed is None and self.segments is None
        return only_causal and self.first_query == 0 and num_queries == num_keys

    def render(
        self, num_queries: int, num_keys: int, device: torch.device
    ) -> Bool[Tensor, "#batch #heads #queries keys"] | None:
        """The smallest boolean tensor that broadcasts to ``(batch, heads, queries, keys)``; None allows everything."""
        hides_future = self.causal and self.first_query + 1 < num_keys
        allowed = self.allowed if self.segments is None else self.segments.same(device)
        if not hides_future:
            return allowed
        query_positions = torch.arange(self.first_query, self.first_query + num_queries, device=device)
        not_after = torch.arange(num_keys, device=device) <= query_positions[:, None]
        return not_after[None, None] if allowed is None else allowed & not_after

    def score_bias(self, num_queries: int, num_keys: int, dtype: torch.dtype, device: torch.device) -> ScoreBias | None:
        """The mask for scores of this shape and type; None allows everything."""
        if torch.compiler.is_compiling():  # the compiler finds what is computed twice
            return self._score_bias(num_queries, num_keys, dtype, device)
        key = (num_queries, num_keys, dtype, device)
        if key not in self._biases:
            bias = self._score_bias(num_queries, num_keys, dtype, device)
            if bias is None:
                return None
            self._biases[key] = bias
        return self._biases[key]

    def _score_bias(
        self, num_queries: int, num_keys: int, dtype: torch.dtype, device: torch.device
    ) -> ScoreBias | None:
        allowed = self.render(num_queries, num_keys, device)
        if allowed is None:
            return None
        bias = torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
        if self.allowed is None and self.segments is None:
            return ScoreBias(bias, None)  # causality alone leaves every query itself
        attends = allowed.any(dim=-1, keepdim=True)
        # Looking is cheap on a CPU only: elsewhere it would wait for the device.
        may_be_empty = device.type != "cpu" or torch.compiler.is_compiling() or not bool(attends.all())
        return ScoreBias(bias, attends if may_be_empty else None)


AttentionMaskLike = Union[AttentionMask, Shaped[Tensor, "..."], None]
