"""Optimizer, learning-rate schedules and averaged weights: what torch has, declared."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.utils.initialization import decayed_parameters


def build_optimizer(
    model: nn.Module, config: TrainingConfig, learning_rate_scale: Callable[[str], float] = lambda name: 1.0
) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019), decaying matrices only (see `decayed_parameters`).

    Args:
        learning_rate_scale: of a parameter's name; the learning rate of the config is multiplied by it.
    """
    decayed = decayed_parameters(model)
    scaled = [(learning_rate_scale(name), name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for scale in sorted({scale for scale, _, _ in scaled}, reverse=True):  # the first group's learning rate is logged
        parameters = [(name, parameter) for own_scale, name, parameter in scaled if own_scale == scale]
        of_both = {"lr": config.learning_rate * scale}
        groups += [
            {
                "params": [p for name, p in parameters if name in decayed],
                "weight_decay": config.weight_decay,
                **of_both,
            },
            {"params": [p for name, p in parameters if name not in decayed], "weight_decay": 0.0, **of_both},
        ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_eps,
        fused=True,
    )


def schedule_factor(config: TrainingConfig) -> Callable[[int], float]:
    """The learning rate's factor as a closed form of the optimizer step: linear warm-up to 1, then the schedule.

    ``inverse_sqrt``: ``sqrt(warmup / step)`` (Vaswani et al. 2017, scaled to a peak of 1). ``linear`` and ``cosine`` fall
    to zero at ``max_steps``.
    """
    warmup = config.warmup

    def factor(step: int) -> float:
        step = step + 1  # LambdaLR asks for the factor of the step to come, counted from zero
        if step <= warmup:
            return step / warmup
        if config.schedule == "inverse_sqrt":
            return math.sqrt(max(warmup, 1) / step)
        if config.schedule == "constant":
            return 1.0
        assert config.max_steps is not None  # the config refuses these schedules without it
        progress = min(1.0, (step - warmup) / max(1, config.max_steps - warmup))
        return 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def build_scheduler(optimizer: AdamW, config: TrainingConfig) -> LambdaLR:
    """Steps once per optimizer step."""
    return LambdaLR(optimizer, schedule_factor(config))


def build_ema(model: nn.Module, config: TrainingConfig) -> AveragedModel | None:
    """Exponential moving average of the weights (Polyak & Juditsky 1992); None unless the config asks for one."""
    if config.ema_decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))  # type: ignore[no-untyped-call]


def mean_of_weights(state_dicts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The element-wise mean of several checkpoints' weights (Vaswani et al. 2017, section 6.1), accumulated in double."""
    return {
        name: torch.stack([weights[name].double() for weights in state_dicts]).mean(dim=0).to(first)
        for name, first in state_dicts[0].items()
    }


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients that exist, in the parameters' order."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
