"""Dropout (Srivastava et al. 2014). On a CPU, torch's own spends most of its time drawing one random number per element."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from transformer_architectures.errors import UsageError

BITS = 16  # of the random number that each element gets: four to one draw of 64


class Dropout(nn.Module):
    """`torch.nn.Dropout`, five times as fast on a CPU; off in `eval` mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, inputs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The inputs with some of their elements zeroed and the others scaled up."""
        return dropout(inputs, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropout(inputs: Float[Tensor, "*shape"], p: float, training: bool = True) -> Float[Tensor, "*shape"]:
    """Zeroes each element with probability ``p`` and scales the others to keep the mean; the identity unless ``training``.

    On a CPU the probability is rounded to a multiple of 2^-16, and the scale fits what it was rounded to.

    Raises:
        UsageError: ``p`` is no probability.
    """
    if not 0 <= p <= 1:
        raise UsageError(f"dropout needs a probability from 0 to 1, not {p}")
    threshold = round((1 - p) * 2**BITS)  # in 2^16 numbers: those below it keep their element
    if not training or p == 0.0 or threshold == 2**BITS:
        return inputs
    # The compiler knows no `random_`, and fuses its own random numbers with what stands around.
    if inputs.device.type != "cpu" or threshold == 0 or torch.compiler.is_compiling():
        return F.dropout(inputs, p)
    return _DropoutOnCPU.apply(inputs, threshold)


def draw_mask(like: Float[Tensor, "*shape"], threshold: int) -> Bool[Tensor, "*shape"]:
    """True with probability ``threshold / 2^BITS`` for each element, from torch's global generator."""
    words = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.int16)[: like.numel()]  # uniform over -2^15 ... 2^15 - 1
    return (drawn < threshold - 2 ** (BITS - 1)).view(like.shape)


class _DropoutOnCPU(torch.autograd.Function):
    """Keeps a byte per element for the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, inputs: Tensor, threshold: int) -> Tensor:
        mask = draw_mask(inputs, threshold)
        ctx.save_for_backward(mask)
        ctx.scale = 2**BITS / threshold  # type: ignore[attr-defined]
        return (inputs * mask).mul_(2**BITS / threshold)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (grad_outputs[0] * mask).mul_(ctx.scale), None
