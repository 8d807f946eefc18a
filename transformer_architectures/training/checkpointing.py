"""Checkpoints that are whole or absent, checked before they are parsed, and read without executing anything.

A checkpoint is written to a temporary name, flushed, renamed. Beside it stands the SHA-256 of the whole file: the checks that
a zip brings along cover neither its headers nor its padding, and torch does not look at them when it reads.
"""

import hashlib
import io
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import IO, Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from transformer_architectures.durable_files import flush_to_disk, replace_file, temporary_name
from transformer_architectures.errors import (
    CheckpointError,
    TrackingError,
    TransformerArchitecturesError,
    reason_of,
)

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


MAX_ERROR = 300  # characters of somebody else's message


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
    import mlflow

    run = mlflow.active_run()
    if run is None:
        raise TrackingError("no MLflow run is active: a checkpoint lies in the folder of its run")
    folder = Path(checkpoint_root) / model_name / f"{run.info.run_name}_{run.info.run_id[:6]}"
    path = folder / (filename or f"epoch_{epoch}.pt")
    content = {
        "format": FORMAT,
        "epoch": epoch,
        "global_step": global_step,
        "run_id": run.info.run_id,
        "model": model.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "extra": dict(extra_state or {}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_checked(path, content)
    except (OSError, RuntimeError) as error:  # torch turns what a file refuses into a RuntimeError
        raise CheckpointError(f"{path}: cannot be written ({_in_short(error)})") from error
    return path


def write_checked(path: Path, content: Mapping[str, Any]) -> None:
    """Puts a file and its digest in place; whatever interrupts it, an older file of that name stays intact until then.

    Two files cannot be renamed at once: in between, the digest file names the older content as well as the newer one.
    """
    temporary, digest_file = temporary_name(path), digest_path(path)
    try:
        with temporary.open("wb") as file:
            writer = _HashingWriter(file)
            try:
                torch.save(dict(content), cast(IO[bytes], writer))
            except RuntimeError:
                if writer.failure is not None:  # torch's own message does not tell why
                    raise writer.failure from None
                raise
            file.flush()
            os.fsync(file.fileno())
        digest = f"{writer.digest.hexdigest()}  {path.name}\n"
        older = digest_file.read_bytes() if path.exists() and digest_file.exists() else b""
        replace_file(digest_file, digest.encode() + older)
        temporary.replace(path)
        flush_to_disk(path.parent)
        if older:
            with suppress(OSError):  # both are in place: a line too many does no harm
                replace_file(digest_file, digest.encode())
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(checkpoint_path: str | Path) -> dict[str, Any]:
    """The content of an intact checkpoint, on the CPU.

    Raises:
        CheckpointError: it is missing, damaged, without its digest, or no checkpoint of this library.
    """
    path = Path(checkpoint_path)
    try:
        expected = digest_path(path).read_text().split()
        content = path.read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({reason_of(error)})") from None
    # The digest is taken of the very bytes that are parsed.
    if hashlib.sha256(content).hexdigest() not in expected:
        raise CheckpointError(f"{path}: damaged, its SHA-256 is not the one in {digest_path(path).name}")
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler lets out whatever it trips over
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({_in_short(error)})") from None
    is_ours = (
        isinstance(checkpoint, dict) and checkpoint.get("format") == FORMAT and CONTENT.keys() <= checkpoint.keys()
    )
    if not is_ours or not all(isinstance(checkpoint[name], types) for name, types in CONTENT.items()):
        raise CheckpointError(f"{path}: no checkpoint of this library, or of another version of it")
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
) -> None:
    """Copies a checkpoint that has been read into model, optimizer and schedule."""
    parts: list[tuple[str, Any]] = [("model", model), ("optimizer", optimizer), ("scheduler", scheduler)]
    for name, part in parts:
        if part is None:
            continue
        if checkpoint[name] is None:
            raise CheckpointError(f"{origin}: holds no {name}, so no training can go on from it")
        try:
            part.load_state_dict(checkpoint[name])
        except Exception as error:  # torch looks at shapes and names, and lets out what anything else leads to
            raise CheckpointError(f"{origin}: its {name} does not fit ({_in_short(error)})") from None


def resume_mlflow_run(run_id: str, epoch: int, global_step: int) -> Any:
    """Makes an earlier run the active one of MLflow again, tags it with where it goes on, and returns it."""
    import mlflow

    run = mlflow.start_run(run_id=run_id, log_system_metrics=False)
    mlflow.set_tags({"resumed_from_epoch": epoch, "resumed_from_step": global_step})
    return run


def digest_path(path: Path) -> Path:
    """Where a checkpoint's digest lies; the form is that of ``sha256sum --check``."""
    return path.with_name(f"{path.name}.sha256")


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
    except TransformerArchitecturesError:
        raise
    except Exception as error:  # whoever is given the wrong thing trips over it in his own way
        raise CheckpointError(f"{origin}: does not fit ({type(error).__name__}: {_in_short(error)})") from None


def set_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`; generators of GPUs that are not here are left alone."""
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


class _HashingWriter(io.RawIOBase):
    """Hashes what passes through to a file."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise


def _in_short(error: Exception) -> str:
    """An error of somebody else's code in one line, and not all of a long list."""
    line = reason_of(error)
    return line if len(line) <= MAX_ERROR else f"{line[:MAX_ERROR]} ..."


__all__ = [
    "load_checkpoint",
    "random_state",
    "read_checkpoint",
    "restoring",
    "resume_mlflow_run",
    "save_checkpoint",
    "seed_generators",
    "set_random_state",
]
