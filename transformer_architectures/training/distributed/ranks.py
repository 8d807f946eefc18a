"""Several processes from outside: the model knows no ranks.

A run started by ``torchrun`` has one process per device. Each computes gradients of its share of every micro-batch, already divided by
the number of labels of *all* ranks; their sum is the gradient of the whole batch.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count, islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from transformer_architectures.datasets.loading import every_nth, iterate_with_timeout
from transformer_architectures.errors import (
    FailedRankError,
    LostRankError,
    TransformerArchitecturesError,
    UsageError,
    in_short,
    release_frames,
)
from transformer_architectures.training.distributed.heartbeat import STOPPED, Heartbeat
from transformer_architectures.training.distributed.torchrun import end_agent_that_hangs
from transformer_architectures.training.runs.signals import Stopped

T = TypeVar("T")
B = TypeVar("B")
R = TypeVar("R")

_stores: list[Any] = []  # of this process: none or one
_groups = count()  # that this process has joined, one after the other: of several seeds, of a suite
TORCHRUN_NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")


class CommunicationError(RuntimeError):
    """What torch's communication raised, where its bare `RuntimeError` would be taken for another one."""


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

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape."""
        if self.world_size == 1:
            return tensor
        total = tensor.to(_communication_device())
        dist.all_reduce(total)
        return total.to(tensor.device)

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        return self.sum(float(flag))[0] > 0

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

    def copy_weights(self, model: nn.Module) -> None:
        """Gives every rank the weights of rank 0."""
        if self.world_size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, src=0)


class SummedLoss(nn.Module):
    """A model's loss as a module of its own: what data parallelism wraps."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        """Summed over the labels of one micro-batch."""
        return self.loss(self.model, batch)


def data_parallel(summed_loss: SummedLoss, ranks: Ranks) -> nn.Module:
    """The same loss, after whose backward pass every rank holds the gradients' sums."""
    if ranks.world_size == 1:
        return summed_loss
    # torch would arrange its buckets anew after the first step if it were told that every weight is used: the order in which
    # gradients are summed would depend on where a run was resumed.
    parallel = DistributedDataParallel(summed_loss, find_unused_parameters=True)
    parallel.broadcast_buffers = False  # they are constants (the argument of this name goes away in torch 2.15)
    parallel.register_comm_hook(None, _sum_gradients)
    return parallel


def _sum_gradients(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Instead of torch's mean: what is summed is divided by the number of labels already."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])


@dataclass(frozen=True)
class DistributedMapBatches:
    """Works through batches in turns, a batch for each rank, and gives every rank all results: `MapBatches`.

    Batches are those that a single process would compute, so results are equal to the last bit.

    Args:
        between_turns: called on every rank after each turn; what it raises ends the work.
        timeout: seconds that a batch is waited for where others load it.
    """

    ranks: Ranks
    between_turns: Callable[[], None]
    timeout: float = 0.0

    def __call__(self, batches: Iterable[B], compute: Callable[[B], R]) -> list[R]:
        rank, world_size = self.ranks.rank, self.ranks.world_size
        if world_size == 1:
            own: Iterable[B] = batches
        elif isinstance(batches, DataLoader):
            own = every_nth(batches, rank, world_size)
        else:
            own = islice(batches, rank, None, world_size)
        results = []
        remaining = iterate_with_timeout(own, self.timeout)
        while True:
            batch = list(islice(remaining, 1))
            if not self.ranks.any(bool(batch)):
                break
            results += [compute(item) for item in batch]
            self.between_turns()
        of_ranks = self.ranks.gather(results)
        return [of_ranks[turn % world_size][turn // world_size] for turn in range(sum(map(len, of_ranks)))]


@contextmanager
def process_group(device: torch.device, hang_timeout: float = 600.0, needs_group: bool = False) -> Iterator[Ranks]:
    """Joins the processes that ``torchrun`` started; a single process outside of it is its own world.

    Args:
        hang_timeout: seconds that a rank waits for the others.
        needs_group: whether a single process, too, needs a group, of its own: for a sharded model.

    Raises:
        LostRankError: another rank was killed, stopped or cut off, or has not come.
        FailedRankError: another rank has ended with an error.
        Stopped: a signal has ended another rank where there was nothing to agree on yet.
    """
    backend = "gloo" if device.type == "cpu" else "nccl"
    if needs_group and device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"  # shards may be in the host's memory
    if os.environ.get("WORLD_SIZE", "1") == "1":
        with _group_of_one(backend) if needs_group else nullcontext():
            yield Ranks()
        return
    missing = [name for name in TORCHRUN_NUMBERS if not os.environ.get(name, "").isdecimal()]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set, but {', '.join(missing)} is no number: start several processes by torchrun"
        )
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    heartbeat = _join(ranks, backend, timedelta(seconds=hang_timeout))
    try:
        yield ranks
    except Stopped as stop:
        heartbeat.publish_failure(f"{STOPPED} {stop.code}")
        raise
    except RuntimeError as error:  # what torch's communication raises
        if code := heartbeat.stopped():
            raise Stopped(code) from error
        if failed := heartbeat.failed():
            raise FailedRankError(f"rank {ranks.rank}: {failed}") from error
        if lost := heartbeat.lost():
            end_agent_that_hangs()
            raise LostRankError(f"rank {ranks.rank}: {lost} ({in_short(error)})") from error
        heartbeat.publish_failure(f"{type(error).__name__}: {error}")
        raise
    except Exception as error:
        heartbeat.publish_failure(str(error) if isinstance(error, TransformerArchitecturesError) else repr(error))
        raise
    finally:
        heartbeat.stop()
        # Connections are closed when nobody holds them any more, and that is what tells the ranks that wait.
        release_frames(sys.exception())
        dist.destroy_process_group()


def _join(ranks: Ranks, backend: str, timeout: timedelta) -> Heartbeat:
    """Waits until all ranks are there, and makes their group."""
    gc.collect()  # an earlier group that is held by a cycle of objects still has its connections, and some rank waits for their end
    store, name = None, f"group/{next(_groups)}"
    try:
        store = dist.PrefixStore(name, _meeting_place(timeout))  # type: ignore[attr-defined]
        store.set(f"here/{ranks.rank}", "")
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=timeout)
        return Heartbeat.start(ranks.rank, ranks.gather)
    except RuntimeError as error:  # what torch's communication raises
        reason = f"{_who_is_missing(store, ranks.world_size)} ({in_short(error)})"
        if dist.is_initialized():
            dist.destroy_process_group()
        raise LostRankError(f"rank {ranks.rank}: after {timeout.total_seconds():g} seconds {reason}") from error


def _who_is_missing(store: Any, world_size: int) -> str:
    """Which ranks have not come to the place where a group meets, in a sentence."""
    missing: list[int] = []
    with suppress(RuntimeError):  # the store may be gone, or have never been there
        missing = [] if store is None else [rank for rank in range(world_size) if not store.check([f"here/{rank}"])]
    if not missing:
        return f"the {world_size} processes are not all there"
    return f"{', '.join(f'rank {rank}' for rank in missing)} did not come"


@contextmanager
def _group_of_one(backend: str) -> Iterator[None]:
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meeting_place(timeout: timedelta) -> Any:
    """The store where the ranks find each other. One for all groups: rank 0 may keep it, and could not open its port again at once."""
    if not _stores:
        _stores.append(next(rendezvous("env://", timeout=timeout))[0])
    (store,) = _stores
    store.set_timeout(timeout)
    return store


def _communication_device() -> torch.device:
    return torch.device("cuda" if "nccl" in str(dist.get_backend_config()) else "cpu")
