"""Normalisation layers by declaration: which kind, which epsilon, and whether there is a bias."""

from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class NormConfig:
    """``layer``: Ba et al. 2016. ``rms``: Zhang & Sennrich 2019. Libraries differ in ``eps``: it is part of the weights' meaning."""

    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-5
    bias: bool = True

    def build(self, dim: int) -> nn.Module:
        """A fresh layer over the last dimension, of size ``dim``."""
        if self.kind == "rms":
            return nn.RMSNorm(dim, eps=self.eps)
        return nn.LayerNorm(dim, eps=self.eps, bias=self.bias)
