"""One optimizer step: the same computation for one large batch, for micro-batches and for several ranks."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from torch import nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from transformer_architectures.errors import NonFiniteError
from transformer_architectures.training.distributed.parallelism import BatchLoss, Parallelism
from transformer_architectures.training.optimization import gradients
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.task import Batch


@dataclass(frozen=True)
class StepReport:
    """Figures of one step, over all micro-batches and ranks.

    Attributes:
        loss: per label, in nats.
        grad_norm: L2 norm of the gradient of that loss, before clipping.
        num_tokens: not counting padding; num_positions: counting it.
    """

    loss: float
    grad_norm: float
    num_labels: int
    num_tokens: int
    num_positions: int


@dataclass
class TrainingStep:
    """Forward, backward, check, clip, update.

    The loss is normalised globally: summed over labels, divided by the number of labels of all micro-batches and ranks. So k
    accumulated micro-batches, or k ranks, take exactly the step of one large batch. A loss or gradient that is not finite never
    reaches the weights.

    Attributes:
        summed_loss: of a batch, as ``parallelism.wrap`` returns it.
    """

    model: nn.Module
    summed_loss: BatchLoss
    optimizer: Optimizer
    scheduler: LRScheduler
    precision: Precision
    clip_norm: float | None = None
    ema: AveragedModel | None = None
    parallelism: Parallelism = field(default_factory=Parallelism)

    def __call__(self, micro_batches: Sequence[Batch]) -> StepReport:
        """Takes one step.

        Raises:
            NonFiniteError: the loss or the gradient norm is NaN or infinite; the weights are unchanged.
        """
        parallelism, ranks = self.parallelism, self.parallelism.ranks
        # ---------------------------------------------------------------- sizes over all ranks
        sizes = [(batch.num_labels, batch.num_tokens, batch.num_positions) for batch in micro_batches]
        num_labels, num_tokens, num_positions = ranks.sum(*map(sum, zip(*sizes, strict=True)))

        # ---------------------------------------------------------------- forward and backward
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        local_loss = 0.0
        for number, batch in enumerate(micro_batches, start=1):
            with parallelism.without_sum(self.summed_loss) if number < len(micro_batches) else nullcontext():
                with self.precision.autocast():
                    loss = self.summed_loss(batch.to(self.precision.device))
                loss = loss * (batch.num_labels > 0) / num_labels  # a dummy batch contributes zero
                loss.backward()  # type: ignore[no-untyped-call]
            local_loss += float(loss.detach())

        # ---------------------------------------------------------------- check
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        (mean_loss,) = ranks.sum(local_loss)
        norm = parallelism.total_norm(gradients(parameters))
        grad_norm = float(norm)
        if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
            rows = ranks.gather([index for batch in micro_batches for index in batch.indices])
            raise NonFiniteError(
                f"loss {mean_loss}, gradient norm {grad_norm}: the weights were left as they were. "
                f"Rows of the batch: {[index for of_rank in rows for index in of_rank]}"
            )

        # ---------------------------------------------------------------- clip and update
        if self.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.optimizer.step()
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return StepReport(mean_loss, grad_norm, int(num_labels), int(num_tokens), int(num_positions))
