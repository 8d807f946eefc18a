"""A gradient that is not finite."""

import math
import random
from typing import Any

import torch
from torch import Tensor


class Poison(torch.autograd.Function):
    """The identity, whose gradient has one bad number."""

    value = math.nan

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        bad = grads[0].clone()
        bad.view(-1)[random.randrange(bad.numel())] = Poison.value
        return bad
