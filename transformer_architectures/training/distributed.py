"""Data parallelism from outside: the model knows no ranks.

A run started by ``torchrun`` has one process per device. Each computes gradients of its own micro-batches, already divided by
the number of labels of *all* ranks; their sum is the gradient of the one large batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from transformer_architectures.errors import UsageError

T = TypeVar("T")

TORCHRUN_NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """The one that writes: checkpoints, metrics, the model folder."""
        return self.rank == 0

    def sum(self, *values: float | int) -> list[float]:
        """Sums of plain numbers over all ranks."""
        if self.world_size == 1:
            return [float(value) for value in values]
        totals = torch.tensor(values, dtype=torch.float64, device=_communication_device())
        dist.all_reduce(totals)
        return [float(total) for total in totals]

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        return self.sum(float(flag))[0] > 0

    def sum_gradients(self, gradients: list[Tensor]) -> None:
        """Adds up the gradients of all ranks, in place, as one message."""
        if self.world_size == 1:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, summed in zip(gradients, parts, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def agree(self, value: T) -> T:
        """Rank 0's value on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Joins the processes that ``torchrun`` started; a single process outside of it is its own world."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks()
        return
    missing = [name for name in TORCHRUN_NUMBERS if not os.environ.get(name, "").isdecimal()]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set, but {', '.join(missing)} is no number: start several processes by torchrun"
        )
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The other ranks wait while the first one decodes the validation part: that may take longer than the default.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=4))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _communication_device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
