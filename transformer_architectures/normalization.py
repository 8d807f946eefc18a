"""Normalisation layers by declaration: which kind, which epsilon, and whether there is a bias."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.errors import UsageError


@dataclass(frozen=True)
class NormConfig:
    """``layer``: Ba et al. 2016. ``rms``: Zhang & Sennrich 2019. Libraries differ in ``eps``: it is part of the weights' meaning.

    ``bias`` is for layer norm, which has one unless it is False.
    """

    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-5
    bias: bool | None = None

    def __post_init__(self) -> None:
        if self.kind == "rms" and self.bias:
            raise UsageError("an RMS norm has no bias: leave it out, or take kind='layer'")

    def build(self, dim: int) -> nn.Module:
        """A fresh layer over the last dimension, of size ``dim``."""
        if self.kind == "rms":
            return nn.RMSNorm(dim, eps=self.eps)
        return LayerNorm(dim, eps=self.eps, bias=self.bias is not False)


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` that also takes fp32 where its weights are bf16, as FSDP casts them: on the CPU torch's own refuses that."""

    def forward(self, input: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The normalised input, in its own type."""
        if input.dtype != torch.float32 or self.weight.dtype == torch.float32:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(input, self.normalized_shape, self.weight.float(), bias, self.eps)
