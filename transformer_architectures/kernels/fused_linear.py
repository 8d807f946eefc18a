"""Several projections of the same input as one matrix product; the checkpoint still shows them one by one."""

from typing import Any

import torch
from torch import Tensor, nn

from transformer_architectures.kernels.linear import Linear


class FusedLinear(Linear):
    """Linear layers named ``names``, of equal width, computed as one and returned concatenated."""

    def __init__(self, in_features: int, out_features: int, names: tuple[str, ...], bias: bool = True) -> None:
        super().__init__(in_features, out_features * len(names), bias=bias)
        self.names = names

    def parts(self, tensor: Tensor) -> dict[str, Tensor]:
        """The rows of the fused weight or bias (or of a gradient of it) that belong to each name, as views."""
        return dict(zip(self.names, tensor.chunk(len(self.names)), strict=True))


def show_parts_in_state_dict(owner: nn.Module) -> None:
    """Makes ``state_dict()`` of ``owner`` hold ``<name>.weight`` and ``<name>.bias`` for each part of its fused layers.

    As if the projections were separate: speed never changes the checkpoint format.
    """
    owner.register_state_dict_post_hook(_split)  # type: ignore[no-untyped-call]
    owner.register_load_state_dict_pre_hook(_join)  # type: ignore[no-untyped-call]


# Hooks get the module as an argument: a closure over it would still point to the original in a deep copy.
def _split(owner: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    for fused_name, layer in owner.named_children():
        if isinstance(layer, FusedLinear):
            for kind, _ in layer.named_parameters():
                for part_name, part in layer.parts(state_dict.pop(f"{prefix}{fused_name}.{kind}")).items():
                    state_dict[f"{prefix}{part_name}.{kind}"] = part


def _join(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    for fused_name, layer in owner.named_children():
        if isinstance(layer, FusedLinear):
            for kind, _ in layer.named_parameters():
                names = [f"{prefix}{name}.{kind}" for name in layer.names]
                if all(name in state_dict for name in names):
                    state_dict[f"{prefix}{fused_name}.{kind}"] = torch.cat([state_dict.pop(name) for name in names])
