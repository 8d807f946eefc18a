"""Fully sharded data parallelism (FSDP2), from outside: each rank holds a shard of every weight, gradient and moment.

- A block is put together when it computes, and given back; what is no block (embeddings, heads) stays together for the whole step.
- The root is the loss, not the model: whatever methods of the model a task's loss calls, they find whole weights.
- Gradients are summed over ranks, not averaged: what is summed is divided by the number of labels already. Each micro-batch is summed by
  itself, so that no rank ever holds a whole gradient.
- Scoring and exporting take plain copies, made of all shards: decoding asks for weights at moments that differ from rank to rank.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from transformer_architectures.training.blocks import blocks_of
from transformer_architectures.training.distributed.ranks import SummedLoss
from transformer_architectures.training.precision import Precision


def fully_sharded(
    summed_loss: SummedLoss, precision: Precision, cpu_offload: bool = False, ema: AveragedModel | None = None
) -> SummedLoss:
    """Shards the parameters of a loss's model, and of its moving average, in place; the same loss, after whose backward pass each rank
    holds its shard of the gradients' sums.

    With bf16 products parameters are put together in bf16; shards, sums and moments stay in fp32.

    Args:
        cpu_offload: shards, their gradients and moments are in the host's memory, and are updated there.
    """
    device = precision.device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    dtype = precision.autocast_dtype
    numbers = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32, cast_forward_inputs=False
    )
    offload = CPUOffloadPolicy(pin_memory=device == "cuda") if cpu_offload else OffloadPolicy()
    for root in [summed_loss] if ema is None else [summed_loss, ema.module]:
        for module in [*blocks_of(root), root]:
            sharded = fully_shard(module, mesh=mesh, mp_policy=numbers, offload_policy=offload)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
    return summed_loss


class FullModel:
    """Plain copies of a model whose parameters will be sharded.

    Made before that, it remembers how the model is built, and none of its weights.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(model.parameters())
        self.skeleton = self._copy(model, (torch.empty_like(parameter, device="meta") for parameter in parameters))

    def from_shards(self, model: nn.Module, device: torch.device) -> nn.Module:
        """A copy with the weights of the sharded ``model``, on each rank; all ranks make it together."""
        weights = (full_tensor(parameter.detach()).to(device) for parameter in model.parameters())
        return self._copy(self.skeleton, weights).to(device)  # buffers too

    def shards(self, weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """This rank's shards of a plain state dict, as in the sharded ``model``, and the buffers in it."""
        # Names of parameters: a plain copy knows which of a state dict's names those are.
        plain = self._copy(self.skeleton, (torch.empty_like(p, device="cpu") for p in self.skeleton.parameters()))
        plain.load_state_dict(weights)
        shared = dict(model.named_parameters())
        shares = {id(p): local_shard_of(p.detach(), shared[name]) for name, p in plain.named_parameters()}
        saved = plain.state_dict()
        buffers = {name: buffer for name, buffer in plain.named_buffers(remove_duplicate=False) if name in saved}
        tied_too = plain.named_parameters(remove_duplicate=False)
        return buffers | {name: shares[id(parameter)] for name, parameter in tied_too}

    @staticmethod
    def _copy(model: nn.Module, weights: Iterable[Tensor]) -> nn.Module:
        """A copy with other weights; those that were tied are tied in it."""
        replaced = {
            id(parameter): nn.Parameter(weight, requires_grad=parameter.requires_grad)
            for parameter, weight in zip(model.parameters(), weights, strict=True)
        }
        return copy.deepcopy(model, replaced)


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks hold a shard each of the model's parameters."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local_shard(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; a plain one it holds as a whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """All shards of a tensor put together; all ranks ask for it together. A plain tensor is whole."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a tensor that all ranks have, cut as ``like`` is."""
    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
