"""What is in a device's memory during a training step."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from transformer_architectures.planning.block_costs import FP32
from transformer_architectures.planning.workload import Workload
from transformer_architectures.training.blocks import blocks_of

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
        scoring: the plain copy of a sharded model that it is scored with, when nothing else of a step is there.
    """

    weights: int
    cast_weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    loss: int
    exchange: int
    scoring: int

    @property
    def total(self) -> int:
        """At the fullest moment."""
        kept = self.weights + self.gradients + self.optimizer + self.ema
        of_a_step = self.cast_weights + self.activations + self.loss + self.exchange
        return kept + max(of_a_step, self.scoring)


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
    share = largest_shard(parameters, num_shards)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in workload.model.buffers())
    is_sharded = num_shards > 1
    loss = workload.loss_bytes(num_rows)
    return Memory(
        weights=FP32 * share + buffers,
        cast_weights=0 if is_sharded else workload.cast_weights(),  # what is gathered is bf16 already
        gradients=FP32 * share,
        optimizer=ADAM_MOMENTS * FP32 * share + COUNTER * len(parameters),
        ema=0 if workload.training.ema_decay is None else FP32 * share + buffers + LONG_COUNTER,
        activations=workload.activations(num_rows, activation_checkpointing) if num_rows else 0,
        loss=sum(loss.values()) if num_rows else 0,
        exchange=_gathered(workload) if is_sharded else FP32 * count * has_buckets,
        scoring=FP32 * count + buffers if is_sharded else 0,
    )


def largest_shard(parameters: Iterable[Tensor], num_shards: int) -> int:
    """Numbers on the device that holds most: each parameter is cut along its first dimension (as FSDP does), of which the first devices
    may have a row more."""
    return sum(-(-p.shape[0] // num_shards) * (p.numel() // p.shape[0]) for p in parameters)


def _gathered(workload: Workload) -> int:
    """Parameters and gradients of all that is no block, parameters of two blocks (one is fetched while the other computes), gradients of
    one; and the buffer, in fp32, from which the gradients of a part are sent."""
    blocks, rest = sizes_of_blocks(workload.model), size_of_the_rest(workload.model)
    ahead = min(2, len(blocks))
    return workload.product_bytes * (2 * rest + (ahead + 1) * max(blocks)) + FP32 * max(rest, *blocks)


def sizes_of_blocks(model: nn.Module) -> list[int]:
    """Parameters of each block."""
    return [_size(block) for block in blocks_of(model)]


def size_of_the_rest(model: nn.Module) -> int:
    """Parameters of all that is no block."""
    return _size(model) - sum(sizes_of_blocks(model))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
