"""What ranks that share a model do with a checkpoint that holds it whole, of a run that did not share it."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from transformer_architectures.training.distributed.sharding import FullModel, local_shard_of

AVERAGED = "module."  # how names of averaged weights begin


def reshard(
    checkpoint: Mapping[str, Any],
    copies: FullModel,
    model: nn.Module,
    optimizer: Optimizer,
    ema: AveragedModel | None,
) -> dict[str, Any]:
    """The checkpoint with each tensor of the model's, the optimizer's and the average's replaced by this rank's share of it.

    Args:
        model, optimizer, ema: which share that is.
    """
    extra = dict(checkpoint["extra"])
    if ema is not None and extra["ema"] is not None:
        weights = {name.removeprefix(AVERAGED): value for name, value in extra["ema"].items()}
        counted = {"n_averaged": weights.pop("n_averaged")}
        shares = copies.shards(weights, ema.module)
        extra["ema"] = counted | {f"{AVERAGED}{name}": share for name, share in shares.items()}
    return {
        **checkpoint,
        "model": copies.shards(checkpoint["model"], model),
        "optimizer": None if checkpoint["optimizer"] is None else _moments(checkpoint["optimizer"], optimizer),
        "extra": extra,
    }


def _moments(saved: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state: what has a parameter's shape is shared as the parameter is; counters stay."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            key: local_shard_of(value, parameters[number]) if value.dim() else value for key, value in values.items()
        }
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}
