"""What lies in a device's memory during a training step."""

from dataclasses import dataclass, fields

from torch import nn

from transformer_architectures.planning.block_costs import FP32
from transformer_architectures.planning.workload import Workload
from transformer_architectures.transformer_blocks import TransformerBlock

ADAM_MOMENTS = 2
COUNTER, LONG_COUNTER = 4, 8  # bytes of AdamW's step (one for each parameter) and of the number of averaged weights


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device, by what they are for.

    Attributes:
        cast_weights: bf16 copies that autocast makes of weights.
        loss: logits, and what the loss keeps.
        exchange: of a sharded model, whole parameters and gradients of the parts that are at work; else, among several devices, the
            buckets that gradients are copied to before they are summed.
    """

    weights: int
    cast_weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    loss: int
    exchange: int

    @property
    def total(self) -> int:
        """Of all."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory_of(
    workload: Workload, num_rows: int, num_shards: int, activation_checkpointing: bool, has_buckets: bool = False
) -> Memory:
    """Of a device that computes so many rows of each micro-batch.

    Args:
        num_shards: devices that share weights, gradients and optimizer; 1 where each has all.
        has_buckets: whether each has all, and they sum their gradients.
    """
    parameters = [parameter for parameter in workload.model.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in parameters)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in workload.model.buffers())
    is_sharded = num_shards > 1
    loss = workload.loss_bytes(num_rows)
    return Memory(
        weights=_share(FP32 * count, num_shards) + buffers,
        cast_weights=0 if is_sharded else workload.cast_weights(),  # what is gathered is bf16 already
        gradients=_share(FP32 * count, num_shards),
        optimizer=_share(ADAM_MOMENTS * FP32 * count, num_shards) + COUNTER * len(parameters),
        ema=0 if workload.training.ema_decay is None else _share(FP32 * count, num_shards) + buffers + LONG_COUNTER,
        activations=workload.activations(num_rows, activation_checkpointing) if num_rows else 0,
        loss=sum(loss.values()) if num_rows else 0,
        exchange=_gathered(workload) if is_sharded else FP32 * count * has_buckets,
    )


def _gathered(workload: Workload) -> int:
    """Parameters of all that is no block and of two blocks (one is fetched while the other computes); gradients of one."""
    blocks = [_count(module) for module in workload.model.modules() if isinstance(module, TransformerBlock)]
    rest = _count(workload.model) - sum(blocks)
    ahead = min(2, len(blocks))
    return workload.product_bytes * (2 * rest + (ahead + 1) * max(blocks))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _share(number: int, num_shards: int) -> int:
    return -(-number // num_shards)


__all__ = ["Memory", "memory_of"]
