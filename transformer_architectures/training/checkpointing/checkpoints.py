"""Checkpoints that are whole or absent, checked before they are parsed, and read without executing anything.

One file for a model that each process holds as a whole; where ranks share it, see `sharded_checkpoints`.
"""

import io
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from transformer_architectures.errors import (
    CheckpointError,
    TransformerArchitecturesError,
    in_short,
)
from transformer_architectures.training.checkpointing.checked_files import (
    check_content,
    digest_path,
    read_with_digest,
    write_with_digest,
)
from transformer_architectures.training.checkpointing.run_place import path_in_run
from transformer_architectures.training.checkpointing.sharded_checkpoints import (
    INDEX,
    is_sharded_checkpoint,
    load_shards,
    read_index,
    remove_orphaned_shards,
)
from transformer_architectures.training.distributed.ranks import CommunicationError

FORMAT = 1
# What every checkpoint holds.
CONTENT: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "global_step": (int,),
    "run_id": (str,),
    "model": (dict,),
    "optimizer": (dict, NoneType),
    "scheduler": (dict, NoneType),
    "extra": (dict,),
}


def save_checkpoint(
    model: nn.Module,
    optimizer: Optimizer | None,
    scheduler: LRScheduler | None,
    *,
    epoch: int,
    global_step: int,
    checkpoint_root: str | Path,
    model_name: str,
    filename: str | None = None,
    extra_state: Mapping[str, Any] | None = None,
) -> Path:
    """Writes ``<root>/<model_name>/<run_name>_<run_id[:6]>/epoch_<n>.pt`` for the active MLflow run; returns its path.

    Args:
        epoch: number of finished epochs; names the file unless ``filename`` does.
        extra_state: whatever else the run needs to go on: tensors, numbers, texts, and lists, tuples and dicts of them.

    Raises:
        TrackingError: no MLflow run is active.
        CheckpointError: the file cannot be written; an older one of that name is untouched.
    """
    path, run_id = path_in_run(checkpoint_root, model_name, filename or f"epoch_{epoch}.pt")
    content = {
        "format": FORMAT,
        "epoch": epoch,
        "global_step": global_step,
        "run_id": run_id,
        "model": model.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "extra": dict(extra_state or {}),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checked(path, content)
    except (OSError, RuntimeError) as error:  # torch turns what a file refuses into a RuntimeError
        raise CheckpointError(f"{path}: cannot be written ({in_short(error)})") from error
    return path


def write_checked(path: Path, content: Mapping[str, Any]) -> None:
    """Puts the content and its digest in place; see `write_with_digest`."""
    write_with_digest(path, lambda file: torch.save(dict(content), file))


def read_checkpoint(checkpoint_path: str | Path) -> dict[str, Any]:
    """The content of an intact checkpoint, on the CPU; of one that ranks have shared (``.json``) all but its tensors.

    Raises:
        CheckpointError: it is missing, damaged, without its digest, or no checkpoint of this library.
    """
    path = Path(checkpoint_path)
    if path.suffix == INDEX:
        return read_index(path)
    content = read_with_digest(path)
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler lets out whatever it trips over
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({in_short(error)})") from None
    check_content(path, checkpoint, FORMAT, CONTENT)
    return cast(dict[str, Any], checkpoint)


def load_checkpoint(
    checkpoint_path: str | Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
) -> tuple[int, int, str]:
    """Restores what is given, in place; returns ``(epoch, global_step, run_id)``.

    Raises:
        CheckpointError: it is missing or damaged, holds no optimizer though one is to be restored, or does not fit.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    restore(checkpoint, checkpoint_path, model, optimizer, scheduler)
    return checkpoint["epoch"], checkpoint["global_step"], checkpoint["run_id"]


def restore(
    checkpoint: Mapping[str, Any],
    origin: str | Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    ema: AveragedModel | None = None,
) -> None:
    """Copies a checkpoint that has been read into model, optimizer, schedule and moving average."""
    parts: list[tuple[str, Any, Any]] = [("scheduler", scheduler, checkpoint["scheduler"])]
    if not is_sharded_checkpoint(checkpoint):
        parts = [
            ("model", model, checkpoint["model"]),
            ("optimizer", optimizer, checkpoint["optimizer"]),
            *parts,
            ("moving average of the weights", ema, checkpoint["extra"].get("ema")),
        ]
    for name, part, saved in parts:
        if part is None:
            continue
        if saved is None:
            raise CheckpointError(f"{origin}: holds no {name}, so no training can go on from it")
        try:
            part.load_state_dict(saved)
        except Exception as error:  # torch looks at shapes and names, and lets out what anything else leads to
            raise CheckpointError(f"{origin}: its {name} does not fit ({in_short(error)})") from None
    if is_sharded_checkpoint(checkpoint):
        with restoring(origin):
            load_shards(checkpoint, model, optimizer, ema)


def weights_of(checkpoint: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict in a checkpoint that has been read, of either form. ``model`` may hold it afterwards."""
    if not is_sharded_checkpoint(checkpoint):
        return cast(dict[str, Tensor], checkpoint["model"])
    load_shards(checkpoint, model)
    return copy_of_weights(model)


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def remove_checkpoints(folder: Path, paths: Iterable[Path]) -> None:
    """Removes checkpoints of a folder with their digests, and the shards that no checkpoint names any more."""
    for path in paths:
        path.unlink()
        digest_path(path).unlink(missing_ok=True)
    remove_orphaned_shards(folder)


def resume_mlflow_run(run_id: str, epoch: int, global_step: int) -> Any:
    """Makes an earlier run the active one of MLflow again, tags it with where it goes on, and returns it."""
    import mlflow

    run = mlflow.start_run(run_id=run_id, log_system_metrics=False)
    mlflow.set_tags({"resumed_from_epoch": epoch, "resumed_from_step": global_step})
    return run


def seed_generators(seed: int) -> None:
    """Starts all global generators: what `random_state` keeps is then a function of the seed and of what was drawn."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of all global generators, in types that the restricted unpickler reads."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)),
        "python": random.getstate(),
    }


@contextmanager
def restoring(origin: str | Path) -> Iterator[None]:
    """Inside the block the content of a checkpoint is put to use.

    Raises:
        CheckpointError: something in it is missing, or is not what it should be.
    """
    try:
        yield
    except (TransformerArchitecturesError, CommunicationError):
        raise
    except Exception as error:  # whoever is given the wrong thing trips over it in his own way
        raise CheckpointError(f"{origin}: does not fit ({type(error).__name__}: {in_short(error)})") from None


def set_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`; generators of GPUs that are not here are left alone."""
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
