"""Finished models as folders: self-contained, free of pickle, every file under a digest.

    model.safetensors   weights: fixed order, a tied matrix once; nothing of run, time or machine
    config.json         task, architecture, library_version, and what the model class needs
    results.json        scores and cost of the run that made it
    manifest.json       size and SHA-256 of every other file, checked before any parser sees one

`load_model` gives the object that predicts and evaluates; the folder's task and architecture say which class that is.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from transformer_architectures.config import StrictModel
from transformer_architectures.errors import ModelFolderError, reason_of
from transformer_architectures.training.precision import PrecisionName, resolve_precision
from transformer_architectures.utils.console import tarch
from transformer_architectures.utils.files import flush_to_disk, replace_file, replace_json, sha256_of

if TYPE_CHECKING:
    from transformer_architectures.architectures.architecture import Architecture
    from transformer_architectures.pretrained.published_folder import PublishedFolder
    from transformer_architectures.tasks.predictor import Predictor
    from transformer_architectures.tasks.task import PredictorTask

MANIFEST, CONFIG, WEIGHTS, RESULTS = "manifest.json", "config.json", "model.safetensors", "results.json"


@runtime_checkable
class Saveable(Protocol):
    """A part of the model with files of its own, for example a tokenizer."""

    def save(self, folder: Path) -> None:
        """Writes its files into the folder."""
        ...


class FileEntry(StrictModel):
    """What the manifest knows of a file."""

    size: int
    sha256: str


class Manifest(StrictModel):
    """The content of ``manifest.json``; names are relative to the folder."""

    format: Literal[1]
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose files all are what its manifest says.

    Attributes:
        config: the content of ``config.json``.
    """

    path: Path
    manifest: Manifest
    config: Mapping[str, Any]

    @property
    def architecture(self) -> "Architecture":
        """The architecture that ``config.json`` names.

        Raises:
            ModelFolderError: it is not installed.
        """
        from transformer_architectures.architectures.registry import architecture_names, find_architecture

        name = str(self.config.get("architecture"))
        if (found := find_architecture(name)) is None:
            known = ", ".join(architecture_names())
            raise ModelFolderError(f"{self.path}: architecture {name} is not installed (known: {known})")
        return found

    @property
    def task_class(self) -> "type[PredictorTask]":
        """The task that ``config.json`` names.

        Raises:
            ModelFolderError: the architecture has no such task.
        """
        name, architecture = str(self.config.get("task")), self.architecture
        if (found := architecture.task_named(name)) is None:
            known = ", ".join(task.name for task in architecture.models)
            raise ModelFolderError(f"{self.path}: {architecture.name} has no task {name} (known: {known})")
        return found

    @property
    def predictor(self) -> "type[Predictor]":
        """The class that predicts."""
        return self.task_class.predictor

    def load(self, device: str = "auto", precision: PrecisionName = "fp32") -> "Predictor":
        """The model, ready to `predict` and `evaluate`; see `load_model`."""
        loaded = self.predictor.from_folder(self, device)
        loaded.precision = resolve_precision(precision, loaded.device)
        return loaded

    def file(self, name: str) -> Path:
        """A file's path, for a parser: only files that the manifest lists, so only files that were checked."""
        if name not in self.manifest.files:
            raise ModelFolderError(f"{self.path}: {name} is missing")
        return self.path / name

    def json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file."""
        return _read_json(self.file(name))

    def weights(self) -> dict[str, Tensor]:
        """The state dict, on the CPU; names that share a matrix share it here too.

        Raises:
            ModelFolderError: it cannot be read, or holds NaN or infinity: of a run that went wrong, or of an edit.
        """
        path = self.file(WEIGHTS)
        try:
            with safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}
                tied = json.loads((file.metadata() or {}).get("tied", "{}"))
            tied_weights = {name: weights[original] for name, original in tied.items()}
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise ModelFolderError(f"{path}: cannot be read as weights ({error})") from None
        for name, tensor in weights.items():
            if not _is_finite(tensor):
                raise ModelFolderError(f"{path}: {name} is not finite, so nothing that it predicts would mean anything")
        return weights | tied_weights


def load_model(folder: str | Path, device: str = "auto", precision: PrecisionName = "fp32") -> "Predictor":
    """The model of a finished run, or of a published folder, ready to `predict` and `evaluate`.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
        precision: ``fp32`` gives the same answers on every machine; ``bf16`` is faster where the processor has it, and its outputs
            differ in the third digit; ``auto`` is bf16 where the processor has it.

    Raises:
        ModelFolderError: the folder is incomplete, a file differs from the manifest, or a weight is not finite.
        UnknownModelError: a published model is none of ours.
        ConfigError: there is no such device here, or no such precision.
    """
    return open_folder(folder).load(device, precision)


def open_folder(folder: str | Path) -> "ModelFolder | PublishedFolder":
    """A model folder of this library, or a published one."""
    from transformer_architectures.pretrained.published_folder import find_published

    path = Path(folder)
    return (None if (path / MANIFEST).is_file() else find_published(path)) or open_model_folder(path)


def open_model_folder(folder: str | Path) -> ModelFolder:
    """Checks every file against the manifest and reads the config; no parser has seen a file before that."""
    path = Path(folder)
    if not (path / MANIFEST).is_file():
        hint = run_folder_hint(path)
        raise ModelFolderError(f"{path}: there is no {MANIFEST}, so this is no finished model folder{hint}")
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (ValidationError, OSError):
        raise ModelFolderError(f"{path / MANIFEST}: damaged ({_seal_hint(path)})") from None
    for name, entry in manifest.files.items():
        if _is_outside(name):
            raise ModelFolderError(f"{path / MANIFEST}: names a file outside of its folder: {name}")
        if not os.path.isfile(path / name):  # unlike pathlib's, it is no error where a name is too long
            raise ModelFolderError(f"{path}: {name} is missing")
        if not (path / name).resolve().is_relative_to(path.resolve()):
            raise ModelFolderError(f"{path / name}: a link that leads out of the folder")
        if _entry(path / name) != entry:
            raise ModelFolderError(f"{path / name}: differs from {MANIFEST}, damaged or edited ({_seal_hint(path)})")
    opened = ModelFolder(path, manifest, {})
    return ModelFolder(path, manifest, opened.json(CONFIG))


def run_folder_hint(path: Path) -> str:
    """What to say of a folder that is no model folder but holds one, as that of a finished run does; else nothing."""
    nested = path / "model"
    return f" (did you mean {nested}?)" if (nested / MANIFEST).is_file() else ""


def write_model_folder(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    parts: Iterable[Saveable] = (),
) -> None:
    """Writes a model folder: it is there whole or not at all, and replaces an older one.

    Args:
        weights: a state dict; names that share a matrix (tied weights) are saved as one.
        config: with ``task`` and ``architecture``; ``library_version`` is added.
        parts: whatever else belongs to the model, such as the tokenizer.

    Raises:
        ModelFolderError: it cannot be written; an older one is untouched.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _fill(unfinished, weights, config, results, parts)
        for path in [*unfinished.rglob("*"), unfinished]:
            flush_to_disk(path)
        _replace(unfinished, folder)
    except (OSError, SafetensorError) as error:
        raise ModelFolderError(f"{folder}: cannot be written ({' '.join(str(error).split())})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fill(
    unfinished: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    parts: Iterable[Saveable],
) -> None:
    """Writes the files of a model folder."""
    originals, tied = _split_tied(weights)
    # One key only: safetensors writes several in an order that varies.
    save_file(originals, unfinished / WEIGHTS, metadata={"tied": json.dumps(tied)})
    replace_json(unfinished / CONFIG, {**config, "library_version": version("transformer-architectures")})
    replace_json(unfinished / RESULTS, results)
    shutil.copymode(unfinished / CONFIG, unfinished / WEIGHTS)  # safetensors lets nobody but the owner read it
    for part in parts:
        part.save(unfinished)
    seal(unfinished)


def seal(folder: str | Path) -> list[str]:
    """Writes the manifest anew, after an intended edit; returns the names of the files that it covers.

    Raises:
        ModelFolderError: the folder holds no model.
    """
    path = Path(folder)
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise ModelFolderError(f"{path}: no model folder, {' and '.join(missing)} missing")
    _read_json(path / CONFIG)
    for left_over in path.glob(f".{MANIFEST}.*.tmp"):  # of a process that was killed in here
        left_over.unlink(missing_ok=True)
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
    names = [file.relative_to(path).as_posix() for file in files if file != path / MANIFEST]
    manifest = Manifest(format=1, files={name: _entry(path / name) for name in names})
    try:
        replace_file(path / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise ModelFolderError(f"{path}: the manifest cannot be written ({reason_of(error)})") from None
    return names


def _split_tied(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each matrix under its first name, in the order of names, and the other names with the first one of theirs."""
    first_names: dict[tuple[Any, ...], str] = {}
    originals, tied = {}, {}
    for name, tensor in sorted(weights.items()):
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        first = first_names.setdefault(memory, name) if tensor.numel() else name
        if first != name:
            tied[name] = first
        else:
            originals[name] = tensor.detach().cpu().contiguous().clone()
    return originals, tied


def _is_finite(tensor: Tensor) -> bool:
    """By its extremes, which NaN is one of: 30 times as fast as to ask each number."""
    return not tensor.numel() or all(extreme.isfinite() for extreme in torch.aminmax(tensor.float()))


def _entry(path: Path) -> FileEntry:
    try:
        return FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({reason_of(error)})") from None


def _is_outside(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _seal_hint(path: Path) -> str:
    return f"after an intended edit: {tarch('seal', path)}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({reason_of(error)})") from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def _replace(new: Path, old: Path) -> None:
    """A folder cannot be renamed over another; between two renames the new one stands whole under a hidden name."""
    outdated = old.with_name(f".{old.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if old.exists():
        old.rename(outdated)
    try:
        new.rename(old)
        flush_to_disk(old.parent)
    finally:
        if not old.exists() and outdated.exists():
            outdated.rename(old)
        shutil.rmtree(outdated, ignore_errors=True)
