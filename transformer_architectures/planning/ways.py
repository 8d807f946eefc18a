"""The ways to spread a training over devices, and what each costs on a given hardware."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from transformer_architectures.planning.block_costs import FP32
from transformer_architectures.planning.memory import Memory, memory_of, size_of_the_rest, sizes_of_blocks
from transformer_architectures.planning.workload import Workload

AS_SHORT = 1.05  # times the shortest step
Sharding = Literal["none", "ddp", "fsdp"]


@dataclass(frozen=True)
class Hardware:
    """What the training runs on; the command's options say where the defaults come from.

    Attributes:
        memory: bytes of a device; reserve: share of it that is left to what a plan does not see.
        flops: operations a second that a device is said to reach; utilisation: share of them that a training reaches.
        bandwidth: bytes a second that a device sends.
    """

    devices: int
    memory: int
    flops: float
    utilisation: float
    bandwidth: float
    reserve: float


@dataclass(frozen=True)
class Way:
    """``none`` is one process; ``ddp``: each device holds the whole model; ``fsdp``: each holds a share of it."""

    sharding: Sharding
    devices: int
    activation_checkpointing: bool

    @property
    def name(self) -> str:
        """For the reader."""
        sharded = "one process" if self.sharding == "none" else f"{self.sharding} × {self.devices}"
        return sharded + (", checkpointing" if self.activation_checkpointing else "")

    @property
    def settings(self) -> str:
        """What the config has to say for it."""
        found = ["Training.sharding=fsdp"] if self.sharding == "fsdp" else []
        found += ["Training.activation_checkpointing=true"] if self.activation_checkpointing else []
        return " ".join(f"--set {setting}" for setting in found)


@dataclass(frozen=True)
class Estimate:
    """What a way costs.

    Attributes:
        flops: operations of an optimizer step on the busiest device.
        bytes_sent: by each device in an optimizer step.
        seconds: of an optimizer step; computing and sending overlap.
    """

    way: Way
    memory: Memory
    flops: int
    bytes_sent: int
    seconds: float
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sharding": self.way.sharding,
            "devices": self.way.devices,
            "activation_checkpointing": self.way.activation_checkpointing,
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "fits": self.fits,
            "flops_per_device": self.flops,
            "bytes_sent_per_device": self.bytes_sent,
            "seconds_per_step": self.seconds,
        }


def ways(devices: int) -> list[Way]:
    """All that are possible with so many devices; with one, sharing is none."""
    shardings: list[tuple[Sharding, int]] = [("none", 1)]
    if devices > 1:
        shardings += [("ddp", devices), ("fsdp", devices)]
    return [Way(sharding, number, again) for sharding, number in shardings for again in (False, True)]


def estimate(workload: Workload, way: Way, hardware: Hardware) -> Estimate:
    """What a way costs; the busiest device has the most rows of each micro-batch."""
    num_rows = -(-workload.num_rows // way.devices)
    num_shards = way.devices if way.sharding == "fsdp" else 1
    memory = memory_of(workload, num_rows, num_shards, way.activation_checkpointing, way.sharding == "ddp")
    flops = workload.flops(num_rows)
    if way.activation_checkpointing:
        flops += workload.recomputed_flops(num_rows)
    flops *= workload.training.accumulation_steps
    sent = bytes_sent(way, workload)
    seconds = max(flops / (hardware.flops * hardware.utilisation), sent / hardware.bandwidth)
    return Estimate(way, memory, flops, sent, seconds, memory.total <= hardware.memory * (1 - hardware.reserve))


def bytes_sent(way: Way, workload: Workload) -> int:
    """By each device in an optimizer step of N devices, over rings.

    ``ddp``: one all-reduce of the fp32 gradients, 2 (N - 1) / N × 4 bytes a parameter. ``fsdp``: for each micro-batch, parameters are
    gathered in the type that products take, those of blocks forward and again backward, and gradients are summed and scattered in fp32:
    (N - 1) / N × (2 or 4, for blocks twice, + 4) bytes.
    """
    in_blocks, others = sum(sizes_of_blocks(workload.model)), size_of_the_rest(workload.model)
    if way.sharding == "none":
        return 0
    if way.sharding == "ddp":
        exchanged = 2 * FP32 * (in_blocks + others)
    else:
        gathered = workload.product_bytes * (2 * in_blocks + others)
        exchanged = workload.training.accumulation_steps * (gathered + FP32 * (in_blocks + others))
    return exchanged * (way.devices - 1) // way.devices


def cheapest(estimates: Sequence[Estimate]) -> Estimate | None:
    """Of those that fit, the simplest (the first) whose step is as short as any; what is within 5 % is equal, these are estimates."""
    fitting = [estimate for estimate in estimates if estimate.fits]
    shortest = min((each.seconds for each in fitting), default=0.0)
    return next((each for each in fitting if each.seconds <= AS_SHORT * shortest), None)
