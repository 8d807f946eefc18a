"""Checkpoints of models that ranks share: each writes its shares, and any number of ranks, or one process, reads them.

    epoch_3.json                what is no tensor; names, sizes and SHA-256 of the files in
    epoch_3-1f0c3a9b.shares/    safetensors, by `torch.distributed.checkpoint`

There is no pickle. The shares lie on the disk before the index that names them is put in its place, as whole or absent as any checkpoint.
"""

import json
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from transformer_architectures.errors import CheckpointError, in_short, reason_of
from transformer_architectures.training.checkpointing.checked_files import (
    check_content,
    read_with_digest,
    write_with_digest,
)
from transformer_architectures.training.checkpointing.run_place import path_in_run
from transformer_architectures.training.distributed.ranks import CommunicationError, Ranks
from transformer_architectures.training.distributed.sharding import is_sharded
from transformer_architectures.utils.files import flush_to_disk, sha256_of

FORMAT = 1
INDEX, SHARES = ".json", ".shares"  # how names end
NAME_LENGTH = 8  # hexadecimal digits, by which the shares of one name are told apart
# What every index holds.
CONTENT: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "global_step": (int,),
    "run_id": (str,),
    "optimizer": (dict,),
    "scheduler": (dict,),
    "averaged": (int, NoneType),  # how many weights the moving average has seen
    "extra": (dict,),
    "shares": (dict,),
}


def save_shards(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    ema: AveragedModel | None,
    ranks: Ranks,
    extra_state: Mapping[str, Any],
    *,
    epoch: int,
    global_step: int,
    checkpoint_root: str | Path,
    model_name: str,
    filename: str,
) -> None:
    """Writes a checkpoint by all ranks together, into the folder of the MLflow run that is active on the first.

    Raises:
        CheckpointError: on all ranks, if one of them cannot write; an older checkpoint of that name is untouched.
    """
    path, run_id = ranks.agree(path_in_run(checkpoint_root, model_name, filename) if ranks.is_main else (Path(), ""))
    folder = ranks.agree(path.with_name(f"{path.stem}-{secrets.token_hex(NAME_LENGTH // 2)}{SHARES}"))
    try:
        save(
            named_shards(model, optimizer, ema),
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        )
        files = _on_all_ranks(path, ranks, lambda: _flushed(folder, ranks))
        index = {
            "format": FORMAT,
            "epoch": epoch,
            "global_step": global_step,
            "run_id": run_id,
            "scheduler": scheduler.state_dict(),
            "extra": dict(extra_state),
            "optimizer": _without_shards(model, optimizer),
            "averaged": None if ema is None else int(ema.n_averaged),
            "shares": {"folder": folder.name, "files": {name: entry for part in files for name, entry in part.items()}},
        }
        _on_all_ranks(path, ranks, lambda: _put(path, index) if ranks.is_main else None)
    except CheckpointException as error:
        raise CheckpointError(f"{path}: cannot be written ({_first_failure(error)})") from None
    finally:
        if ranks.is_main:
            remove_orphaned_shards(path.parent)


def read_index(path: Path) -> dict[str, Any]:
    """The content of an index whose files all are intact.

    Raises:
        CheckpointError: it, or one of its files, is missing or damaged; or it is none.
    """
    content = read_with_digest(path)
    try:
        index = json.loads(content, object_hook=_tensor_from_json)
    except (ValueError, RecursionError, TypeError, RuntimeError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({in_short(error)})") from None
    check_content(path, index, FORMAT, CONTENT)
    name, files = index["shares"].get("folder"), index["shares"].get("files")
    if not (isinstance(name, str) and name.startswith(path.stem) and "/" not in name and isinstance(files, dict)):
        raise CheckpointError(f"{path}: does not say which files hold its tensors")
    folder = path.with_name(name)
    _check_files(folder, files, path.name)
    return {**index, "shares": {**index["shares"], "folder": str(folder)}}


def load_shards(
    index: Mapping[str, Any], model: nn.Module, optimizer: Optimizer | None = None, ema: AveragedModel | None = None
) -> None:
    """Fills model, optimizer and moving average, in place, from a checkpoint that has been read; by all ranks that share them together.

    Raises:
        CheckpointError: what is saved is not what the model needs.
        CommunicationError: another rank has gone.
    """
    folder = index["shares"]["folder"]
    if ema is not None and index["averaged"] is None:
        raise CheckpointError(f"{folder}: holds no moving average of the weights")
    tensors = _weights(model, ema)
    state = {} if optimizer is None else _empty_state(index["optimizer"], model, optimizer)
    tensors |= dict(_moments(_names(model, optimizer), state))
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a process that loads alone
            load(tensors, storage_reader=HuggingFaceStorageReader(folder), no_dist=not is_sharded(model))
    except CheckpointException as error:
        raise CheckpointError(f"{folder}: does not fit ({_first_failure(error)})") from None
    except RuntimeError as error:
        if is_sharded(model):  # what a rank finds wrong itself is the exception above, on all of them
            raise CommunicationError(str(error)) from error
        raise
    if ema is not None:
        ema.n_averaged.fill_(index["averaged"])
    if optimizer is not None:
        groups = optimizer.state_dict()["param_groups"]
        saved_groups = index["optimizer"]["groups"]
        if len(groups) != len(saved_groups):
            raise CheckpointError(f"{folder}: is of {len(saved_groups)} groups of parameters instead of {len(groups)}")
        merged = [{**saved, "params": group["params"]} for saved, group in zip(saved_groups, groups, strict=True)]
        optimizer.load_state_dict({"state": state, "param_groups": merged})


def remove_orphaned_shards(folder: Path) -> None:
    """Removes the shares that no index names: of a checkpoint that was replaced, removed, or not finished."""
    named = set()
    for path in folder.glob(f"*{INDEX}"):
        try:
            named.add(json.loads(path.read_bytes())["shares"]["folder"])
        except (OSError, ValueError, RecursionError, TypeError, KeyError):  # if it is a damaged index, its shares stay
            named |= {shares.name for shares in folder.glob(f"{path.stem}-*{SHARES}")}
    for shares in folder.glob(f"*-{'[0-9a-f]' * NAME_LENGTH}{SHARES}"):  # a user's own folder may be called .shares too
        if shares.name not in named:
            shutil.rmtree(shares, ignore_errors=True)


def is_sharded_checkpoint(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint that has been read is an index, whose tensors are still to be read."""
    return "shares" in checkpoint


def named_shards(model: nn.Module, optimizer: Optimizer, ema: AveragedModel | None) -> dict[str, Tensor]:
    """All that grows with the model, by names that do not depend on the number of ranks. Buffers are constants, and left out."""
    return _weights(model, ema) | dict(_moments(_names(model, optimizer), optimizer.state_dict()["state"]))


def _weights(model: nn.Module, ema: AveragedModel | None) -> dict[str, Tensor]:
    """The model's parameters, and what is averaged of them."""
    kinds = {"model": model} if ema is None else {"model": model, "ema": ema.module}
    return {f"{kind}.{name}": p.detach() for kind, module in kinds.items() for name, p in module.named_parameters()}


def _moments(names: Sequence[str], state: Mapping[int, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """What an optimizer's state holds of a parameter's shape."""
    for number, values in state.items():
        for key, value in values.items():
            if value.dim():
                yield f"optimizer.{names[number]}.{key}", value


def _names(model: nn.Module, optimizer: Optimizer | None) -> list[str]:
    """The parameters' names in the order in which the optimizer numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [] if optimizer is None else optimizer.param_groups
    return [names[id(parameter)] for group in groups for parameter in group["params"]]


def _without_shards(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What the optimizer's state holds beside its shares (None in their places): counters, and the settings of the groups."""
    names, state = _names(model, optimizer), optimizer.state_dict()
    return {
        "state": {
            names[number]: {key: None if value.dim() else float(value) for key, value in values.items()}
            for number, values in state["state"].items()
        },
        "groups": [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]],
    }


def _empty_state(saved: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state as it was saved, its shares still zero, by parameter's number."""
    parameters = dict(model.named_parameters())
    return {
        number: {
            key: torch.zeros_like(parameters[name].detach()) if value is None else torch.tensor(value)
            for key, value in saved["state"][name].items()
        }
        for number, name in enumerate(_names(model, optimizer))
        if name in saved["state"]
    }


def _check_files(folder: Path, entries: Mapping[str, Any], index: str) -> None:
    """That there are these files and no others, each as the index says."""
    try:
        if {file.name for file in folder.iterdir()} != entries.keys():
            raise CheckpointError(f"{folder}: has not the files that {index} names")
        for name, entry in entries.items():
            if _entry(folder / name) != entry:
                raise CheckpointError(f"{folder / name}: damaged, its size or SHA-256 is not the one in {index}")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({reason_of(error)})") from None


def _flushed(folder: Path, ranks: Ranks) -> dict[str, dict[str, Any]]:
    """Sees that what was written lies on the disk; each rank looks after a part of the files and gives their sizes and digests."""
    entries = {}
    for path in sorted(folder.iterdir())[ranks.rank :: ranks.world_size]:
        flush_to_disk(path)
        entries[path.name] = _entry(path)
    if ranks.is_main:
        flush_to_disk(folder)
        flush_to_disk(folder.parent)
    return entries


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _put(path: Path, index: Mapping[str, Any]) -> None:
    text = json.dumps(index, default=_tensor_to_json)
    write_with_digest(path, lambda file: file.write(text.encode()))


def _on_all_ranks(path: Path, ranks: Ranks, work: Callable[[], Any]) -> list[Any]:
    """Does the work on each rank; what it gives on each, for all of them.

    Raises:
        CheckpointError: on all ranks, if it has failed on one.
    """
    result, failure = None, ""
    try:
        result = work()
    except OSError as error:
        failure = reason_of(error)
    outcomes = ranks.gather((result, failure))
    if failures := [failure for _, failure in outcomes if failure]:
        raise CheckpointError(f"{path}: cannot be written ({failures[0]})")
    return [result for result, _ in outcomes]


def _first_failure(error: CheckpointException) -> str:
    """Why it failed on the first of the ranks where it did."""
    cause, _ = error.failures[min(error.failures)]
    return in_short(cause) if isinstance(cause, Exception) else type(cause).__name__


def _tensor_to_json(value: Any) -> dict[str, Any]:
    """States of generators are small tensors of whole numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")
    return {"dtype": str(value.dtype).removeprefix("torch."), "values": value.tolist()}


def _tensor_from_json(value: dict[str, Any]) -> Any:
    if value.keys() != {"dtype", "values"}:
        return value
    return torch.tensor(value["values"], dtype={"uint8": torch.uint8, "int64": torch.int64}[value["dtype"]])
