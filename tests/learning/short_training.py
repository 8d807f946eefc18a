"""A training as users run it, without files."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import SummedLoss
from transformer_architectures.training.optimization import build_optimizer, build_scheduler
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.step import TrainingStep


def train(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], batches: Iterator[Any], steps: int, learning_rate: float
) -> list[float]:
    """The losses of all steps: AdamW, warm-up, clipping."""
    config = TrainingConfig(max_steps=steps, schedule="cosine", warmup_steps=steps // 10, learning_rate=learning_rate)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config)
    step = TrainingStep(
        model, SummedLoss(model, loss), optimizer, scheduler, Precision(torch.device("cpu"), None), clip_norm=1.0
    )
    return [step([next(batches)]).loss for _ in range(steps)]
