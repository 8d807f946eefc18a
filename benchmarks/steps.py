"""What the compared systems have in common: precisions, and the optimizer step that everybody's loop takes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Batch = TypeVar("Batch")


def computing_in(dtype: torch.dtype) -> AbstractContextManager[object]:
    """True fp32, or autocast."""
    return torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()


def optimizer_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Batch], Tensor],
    batch: Batch,
    dtype: torch.dtype,
) -> float:
    """Forward, backward, clipping, update; the loss of before."""
    optimizer.zero_grad(set_to_none=True)
    with computing_in(dtype):
        value = loss(batch)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(value.detach())
