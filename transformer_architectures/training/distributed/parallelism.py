"""How the processes of a run work together. The training loop asks one object for everything that depends on it.

- `Parallelism`: a single process. What its methods do is what the loop would do without them.
- `DataParallel` (DDP): each process holds the full model; gradients are summed over ranks once per step.
- `FullySharded` (FSDP2): each process holds a shard of every parameter, gradient and moment, see `sharding.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from transformer_architectures.training.checkpointing.checkpoints import restore, save_checkpoint
from transformer_architectures.training.checkpointing.resharding import reshard
from transformer_architectures.training.checkpointing.sharded_checkpoints import (
    INDEX,
    is_sharded_checkpoint,
    save_shards,
)
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import Ranks, SummedLoss, data_parallel, process_group
from transformer_architectures.training.distributed.sharding import (
    FullModel,
    full_tensor,
    fully_sharded,
    local_shard,
)
from transformer_architectures.training.grad_logging import GradientLogger, count
from transformer_architectures.training.precision import Precision

Loss = Callable[[Any, Any], Tensor]
BatchLoss = Callable[[Any], Tensor]


class Parallelism:
    """A single process.

    Attributes:
        checkpoint_suffix: how the names of checkpoints end.
    """

    checkpoint_suffix = ".pt"

    def __init__(self, ranks: Ranks = Ranks(), precision: Precision = Precision(torch.device("cpu"), None)) -> None:
        self.ranks, self.precision = ranks, precision

    # ---------------------------------------------------------------- the model
    def place(self, model: nn.Module) -> None:
        """Moves a new model to the device. Called before anything else is made of it: copies, compiled blocks."""
        model.to(self.precision.device)

    def wrap(self, model: nn.Module, loss: Loss, ema: AveragedModel | None) -> BatchLoss:
        """Returns the loss of the model as a function of a batch, after whose backward pass the gradients are summed over all ranks.

        Args:
            loss: ``(model, batch)`` to the loss, summed over the labels of the batch.
            ema: the moving average of the model, if there is one.
        """
        return partial(loss, model)

    def full_model(self, model: nn.Module) -> nn.Module:
        """Returns the model as a single process would hold it, for scoring and exporting. All ranks call it together."""
        return model

    # ---------------------------------------------------------------- a step
    def without_sum(self, summed_loss: BatchLoss) -> AbstractContextManager[None]:
        """In this context gradients are only accumulated in this process: for all micro-batches but the last."""
        return nullcontext()

    def total_norm(self, gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
        """The L2 norm over all gradients."""
        return get_total_norm(gradients)

    def log_histograms(self, logger: GradientLogger | None, model: nn.Module, step: int) -> None:
        """Counts the values of all parameters and gradients, and leaves the drawing to the logger.

        Args:
            logger: None on all ranks but the first.
        """
        if logger is not None:
            logger.async_log(model, step)

    # ---------------------------------------------------------------- checkpoints
    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        ema: AveragedModel | None,
        extra: Mapping[str, Any],
        place: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint. All ranks call it together.

        Args:
            extra: what else the run needs to go on.
            place: the keyword arguments of `save_checkpoint` that say where it goes.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self.ranks.is_main:
            content = {**extra, "ema": None if ema is None else ema.state_dict()}
            save_checkpoint(model, optimizer, scheduler, extra_state=content, **place)

    def load(
        self,
        checkpoint: Mapping[str, Any],
        origin: str,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        ema: AveragedModel | None,
    ) -> None:
        """Restores a checkpoint of either form, in place. All ranks call it together.

        Raises:
            CheckpointError: it does not fit.
        """
        restore(checkpoint, origin, model, optimizer, scheduler, ema)


class DataParallel(Parallelism):
    """Several processes, each with the full model (DDP)."""

    def wrap(self, model: nn.Module, loss: Loss, ema: AveragedModel | None) -> BatchLoss:
        return data_parallel(SummedLoss(model, loss), self.ranks)

    def without_sum(self, summed_loss: BatchLoss) -> AbstractContextManager[None]:
        assert isinstance(summed_loss, DistributedDataParallel)
        return summed_loss.no_sync()


class FullySharded(Parallelism):
    """One or more processes, each with a shard of the model (FSDP2).

    Gradients of each micro-batch are summed separately: accumulating full gradients would cost the memory that sharding saves.

    Args:
        cpu_offload: shards, their gradients and moments are kept in the host's memory, and updated there.
    """

    checkpoint_suffix = INDEX

    def __init__(self, ranks: Ranks, precision: Precision, cpu_offload: bool = False) -> None:
        super().__init__(ranks, precision)
        self.cpu_offload = cpu_offload

    def place(self, model: nn.Module) -> None:
        """Remembers how the model is built. Shards are moved one by one: the full model may not fit on the device."""
        self.copies = FullModel(model)

    def wrap(self, model: nn.Module, loss: Loss, ema: AveragedModel | None) -> BatchLoss:
        return fully_sharded(SummedLoss(model, loss), self.precision, self.cpu_offload, ema)

    def full_model(self, model: nn.Module) -> nn.Module:
        return self.copies.from_shards(model, self.precision.device)

    def total_norm(self, gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
        return full_tensor(get_total_norm(gradients))

    def log_histograms(self, logger: GradientLogger | None, model: nn.Module, step: int) -> None:
        counted = count(model, step, local_shard, self.ranks.sum_tensor)
        if logger is not None:
            logger.draw(lambda: counted)

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        ema: AveragedModel | None,
        extra: Mapping[str, Any],
        place: Mapping[str, Any],
    ) -> None:
        save_shards(model, optimizer, scheduler, ema, self.ranks, extra, **place)

    def load(
        self,
        checkpoint: Mapping[str, Any],
        origin: str,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        ema: AveragedModel | None,
    ) -> None:
        if not is_sharded_checkpoint(checkpoint):
            checkpoint = reshard(checkpoint, self.copies, model, optimizer, ema)
        super().load(checkpoint, origin, model, optimizer, scheduler, ema)


def build_parallelism(config: TrainingConfig, precision: Precision, ranks: Ranks) -> Parallelism:
    """What the config's ``sharding`` and the number of processes ask for."""
    if config.sharding == "fsdp":
        return FullySharded(ranks, precision, config.cpu_offload)
    return Parallelism(ranks, precision) if ranks.world_size == 1 else DataParallel(ranks, precision)


@contextmanager
def join_processes(config: TrainingConfig, device: torch.device) -> Iterator[Ranks]:
    """Joins the processes that ``torchrun`` started (see `process_group`). A sharded model needs a group even in a single process."""
    with process_group(device, config.hang_timeout, needs_group=config.sharding == "fsdp") as ranks:
        yield ranks
