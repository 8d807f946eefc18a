"""Looking at attention weights without making training pay for it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.attention.multihead_attention import MultiHeadAttention
from transformer_architectures.errors import UsageError

AttentionRecord = dict[str, list[Float[Tensor, "batch heads queries keys"]]]


@contextmanager
def record_attention(model: nn.Module, layers: Collection[str] | None = None) -> Iterator[AttentionRecord]:
    """Collects attention weights of every forward pass inside the ``with`` block.

    The weights are computed a second time, beside the kernel that the model uses, only for the layers asked for.

    Args:
        layers: names of attention modules as in ``model.named_modules()``; None records all of them.

    Yields:
        module name to a list with one detached ``(batch, heads, queries, keys)`` tensor per call, without dropout.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)}
    unknown = set(layers or ()) - set(modules)
    if unknown:
        raise UsageError(f"no attention layer is called {sorted(unknown)}; there are {sorted(modules)}")
    record: AttentionRecord = {name: [] for name in (modules if layers is None else layers)}
    try:
        for name, calls in record.items():
            modules[name].recorder = calls.append
        yield record
    finally:
        for name in record:
            modules[name].recorder = None
