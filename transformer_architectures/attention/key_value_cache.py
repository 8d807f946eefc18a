"""What a decoder layer remembers while it decodes: keys and values, at absolute positions."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Projected = Float[Tensor, "batch heads length head_dim"]
Remembered = Float[Tensor, "batch heads remembered head_dim"]


class KeyValueCache:
    """Keys and values of one layer.

    Self-attention: appended at the next absolute positions of a preallocated buffer (it doubles where ``capacity`` was too
    small). Cross-attention: computed once per source sentence; beams are queries of their sentence and share them.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._cross: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Projected, values: Projected) -> tuple[Remembered, Remembered]:
        """Adds positions ``length`` to ``length + n`` and returns everything remembered so far (views of the buffer)."""
        end = self.length + keys.shape[2]
        if self._keys is None or self._values is None or end > self._keys.shape[2]:
            self._grow(max(end, self.capacity, 2 * self.length), keys, values)
        assert self._keys is not None and self._values is not None
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def cross(self, project: Callable[[], tuple[Projected, Projected]]) -> tuple[Projected, Projected]:
        """Keys and values of the encoder's output: projected on the first call, remembered for all later ones."""
        if self._cross is None:
            keys, values = project()
            # The heads of a projection lie side by side: every product of every step would copy them apart.
            self._cross = keys.contiguous(), values.contiguous()
        return self._cross

    def select(self, sentences: Int[Tensor, "kept"]) -> None:
        """Keeps only these rows of the batch, in this order."""
        if self._keys is not None and self._values is not None:
            self._keys = self._keys.index_select(0, sentences)
            self._values = self._values.index_select(0, sentences)
        if self._cross is not None:
            keys, values = self._cross
            self._cross = keys.index_select(0, sentences), values.index_select(0, sentences)

    def select_places(self, places: Int[Tensor, "batch kept"]) -> None:
        """Keeps only these places of each row of self-attention's memory, in this order."""
        if self._keys is not None and self._values is not None:
            self.length = places.shape[1]
            for buffer in (self._keys, self._values):
                batch, heads, capacity, head_dim = buffer.shape
                rows = torch.arange(batch * heads, device=places.device).view(batch, heads, 1) * capacity
                # Whole rows move: an element-wise gather would take ten times as long.
                kept = buffer.view(-1, head_dim).index_select(0, (rows + places[:, None]).flatten())
                buffer[:, :, : self.length] = kept.view(batch, heads, -1, head_dim)

    def _grow(self, capacity: int, keys: Tensor, values: Tensor) -> None:
        batch, heads, _, head_dim = keys.shape
        old_keys, old_values = self._keys, self._values
        self._keys = keys.new_empty(batch, heads, capacity, head_dim)
        self._values = values.new_empty(batch, heads, capacity, head_dim)
        if old_keys is not None and old_values is not None:
            self._keys[:, :, : self.length] = old_keys[:, :, : self.length]
            self._values[:, :, : self.length] = old_values[:, :, : self.length]
