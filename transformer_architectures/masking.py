"""Which query may attend to which key: one value with one meaning, rendered for the kernel that asks.

At every public boundary a mask is a tensor with 1 (True) = real token, 0 (False) = padding, of shape ``(batch, keys)``,
``(batch, queries, keys)`` or ``(batch, heads, queries, keys)``. Inside, it is an `AttentionMask`:

* True = may attend.
* Causality is by absolute position: query ``i`` stands at ``first_query + i``, so it is right with a cache.
* A query that may attend to nothing gives an all-zero output and zero gradient, never NaN.
"""

from dataclasses import dataclass, replace
from typing import Union

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from transformer_architectures.errors import UsageError


@dataclass(frozen=True)
class AttentionMask:
    """What may be attended to.

    Attributes:
        allowed: boolean, 4-dimensional and broadcastable to ``(batch, heads, queries, keys)``; None allows everything.
        causal: a query sees no key that stands after it.
        first_query: absolute position of the first query (the number of tokens that a cache already holds).
    """

    allowed: Bool[Tensor, "#batch #heads #queries keys"] | None = None
    causal: bool = False
    first_query: int = 0

    @classmethod
    def of(cls, mask: "AttentionMaskLike") -> "AttentionMask":
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

    def is_plain_causal(self, num_queries: int, num_keys: int) -> bool:
        """Whether the mask is the square lower triangle and nothing else (kernels have a fast path for it)."""
        return self.causal and self.allowed is None and self.first_query == 0 and num_queries == num_keys

    def render(
        self, num_queries: int, num_keys: int, device: torch.device
    ) -> Bool[Tensor, "#batch #heads #queries keys"] | None:
        """The smallest boolean tensor that broadcasts to ``(batch, heads, queries, keys)``; None allows everything."""
        hides_future = self.causal and self.first_query + 1 < num_keys
        if not hides_future:
            return self.allowed
        query_positions = torch.arange(self.first_query, self.first_query + num_queries, device=device)
        not_after = torch.arange(num_keys, device=device) <= query_positions[:, None]
        return not_after[None, None] if self.allowed is None else self.allowed & not_after


AttentionMaskLike = Union[AttentionMask, Shaped[Tensor, "..."], None]
