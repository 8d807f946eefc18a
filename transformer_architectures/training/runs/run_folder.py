"""The folder of a run: who holds it, which configuration it belongs to, and which checkpoint a run can go on from."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from transformer_architectures.config import fingerprint, fingerprint_of
from transformer_architectures.errors import CheckpointError, ModelFolderError, UsageError, reason_of
from transformer_architectures.pretrained.model_folder import RESULTS, open_model_folder
from transformer_architectures.training.checkpointing.checkpoints import read_checkpoint
from transformer_architectures.training.checkpointing.sharded_checkpoints import remove_orphaned_shards
from transformer_architectures.training.state import RunState
from transformer_architectures.utils.files import replace_file

CONFIG, LOCK, MODEL, STOPPED = "config.json", "lock", "model", "stopped.json"
# What a run may remove: people put files of their own into its folder, or ask it to go on from a checkpoint that lies among others.
CHECKPOINT, BEST = re.compile(r"(epoch|step)_\d+\.(pt|json)"), re.compile(r"best_\d+\.pt")
HALF_WRITTEN = re.compile(r".+\.\d+\.tmp")  # with the number of the process that wrote

logger = logging.getLogger(__name__)


@dataclass
class RunFolder:
    """``<root>/<model_name>/<run_name>_<run_id[:6]>``."""

    path: Path
    held: FileLock | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "held": None}  # other ranks learn where the folder is; they do not hold it

    def lock(self) -> bool:
        """Takes the folder for this process; False while another living process holds it. A dead one holds nothing.

        What a dead one left half written is removed.
        """
        # Where the file system has no locks, a `SoftFileLock` would take its place. After a kill on another machine it stays for ever.
        lock = FileLock(self.path / LOCK, thread_local=False, fallback_to_soft=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written or locked ({reason_of(error)})") from None
        self.held = lock
        for path in list(self.path.iterdir()):
            of_checkpoint = path.with_suffix("")
            is_lost = path.suffix == ".sha256" and is_checkpoint(of_checkpoint) and not of_checkpoint.exists()
            if is_lost or HALF_WRITTEN.fullmatch(path.name):
                path.unlink(missing_ok=True)
        remove_orphaned_shards(self.path)
        return True

    def release(self) -> None:
        """Gives the folder back."""
        if self.held is not None:
            self.held.release()
            self.held = None

    def note_stop(self, exit_code: int | None) -> None:
        """Remembers that a signal has ended the run, or (None) that it is wanted again."""
        if exit_code is None:
            (self.path / STOPPED).unlink(missing_ok=True)
        else:
            self.keep(STOPPED, json.dumps({"exit_code": exit_code}).encode())

    @property
    def stop_noted(self) -> int | None:
        """The exit code that `note_stop` was given last."""
        try:
            code = json.loads((self.path / STOPPED).read_text(encoding="utf-8")).get("exit_code")
        except (OSError, ValueError, AttributeError):
            return None
        return code if isinstance(code, int) else None

    def write_config(self, sections: Mapping[str, BaseModel]) -> None:
        """Keeps the configuration, after interpolation and overrides, with its fingerprint."""
        content = {name: section.model_dump(mode="json") for name, section in sections.items()}
        text = json.dumps({"fingerprint": fingerprint(sections), **content}, indent=2, ensure_ascii=False) + "\n"
        self.keep(CONFIG, text.encode())

    def keep(self, name: str, content: bytes) -> None:
        """Puts a small file there, whole or not at all.

        Raises:
            CheckpointError: it cannot be written; an older one is untouched.
        """
        try:
            replace_file(self.path / name, content)
        except OSError as error:
            raise CheckpointError(f"{self.path / name}: cannot be written ({reason_of(error)})") from error

    @property
    def fingerprint(self) -> str | None:
        """Of the configuration that the run was started with; None where that is not known: the file is missing or damaged."""
        try:
            content = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
            found = content.pop("fingerprint")
            return str(found) if found == fingerprint_of(content) else None
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None

    @property
    def model_dir(self) -> Path:
        """Where the finished model lies."""
        return self.path / MODEL

    def has_model_of(self, global_step: int) -> bool:
        """Whether the model folder is whole, and that of a run which ended at this step."""
        try:
            return open_model_folder(self.model_dir).json(RESULTS).get("global_step") == global_step
        except ModelFolderError:
            return False

    def checkpoints(self) -> list[Path]:
        """All from which a training can go on, the newest first."""
        paths = [path for path in self.path.glob("*") if CHECKPOINT.fullmatch(path.name)]
        return sorted(paths, key=modified_at, reverse=True)

    def best_weights(self) -> list[Path]:
        """All that were the best so far when they were written."""
        return [path for path in self.path.glob("*") if BEST.fullmatch(path.name)]

    def newest_intact(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that passes its check, with its content; those that do not are named in a warning."""
        for path in self.checkpoints():
            try:
                return path, read_position(path)
            except CheckpointError as error:
                logger.warning("%s; an older checkpoint is tried", error)
        return None


def is_checkpoint(path: Path) -> bool:
    """Whether a file is called as a checkpoint of a run, or as its best weights."""
    return bool(CHECKPOINT.fullmatch(path.name) or BEST.fullmatch(path.name))


def read_position(path: Path) -> dict[str, Any]:
    """A checkpoint of the training loop.

    Raises:
        CheckpointError: it is none, not intact, or that of another run.
    """
    checkpoint = read_own(path)
    try:
        RunState.from_dict(checkpoint["extra"]["state"])
    except (KeyError, TypeError, IndexError):
        raise CheckpointError(f"{path}: does not say where its run stands, so no training can go on from it") from None
    return checkpoint


def read_own(path: Path) -> dict[str, Any]:
    """A checkpoint of the run in whose folder it lies.

    Raises:
        CheckpointError: it is not intact, or was brought here from another run.
    """
    checkpoint = read_checkpoint(path)
    if not path.parent.resolve().name.endswith(f"_{checkpoint['run_id'][:6]}"):
        raise CheckpointError(f"{path}: is a checkpoint of another run, {checkpoint['run_id']}")
    return checkpoint


def modified_at(path: Path) -> int:
    """In nanoseconds; 0 for a file that its run has removed meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@dataclass(frozen=True)
class Start:
    """What a run goes on from; all None for a new run. The folder, if any, is locked."""

    folder: RunFolder | None = None
    path: Path | None = None
    checkpoint: dict[str, Any] | None = None


def find_start(resume: str | None, root: Path, model_name: str, wanted_fingerprint: str) -> Start:
    """Where ``--resume`` says that a run goes on: ``auto``, a checkpoint, a run folder, or None for a new run.

    Raises:
        CheckpointError: the checkpoint or folder that was named cannot be used.
    """
    if resume is None:
        return Start()
    if not resume:
        raise UsageError("--resume is empty: give auto, a checkpoint or a run folder, or leave it out")
    if resume == "auto":
        return _newest_of_same_config(root / model_name, wanted_fingerprint)
    path = Path(resume)
    if not path.exists():
        raise CheckpointError(f"--resume {resume}: there is no such file or folder")
    folder = RunFolder(path if path.is_dir() else path.parent)
    if path.is_dir() and not folder.checkpoints():
        raise CheckpointError(f"--resume {resume}: there is no checkpoint in this folder")
    if not folder.lock():
        raise CheckpointError(f"--resume {resume}: another process is training in this folder")
    try:
        found = (path, read_position(path)) if path.is_file() else folder.newest_intact()
        if found is None:
            raise CheckpointError(f"--resume {resume}: no checkpoint in this folder is intact")
    except CheckpointError:
        folder.release()
        raise
    return Start(folder, *found)


def _newest_of_same_config(parent: Path, wanted_fingerprint: str) -> Start:
    for folder in _by_newest_checkpoint(parent):
        if folder.fingerprint is None:
            logger.warning(
                "%s: %s is missing or damaged, so the run is passed over; to go on with it: --resume %s",
                folder.path, CONFIG, folder.path,
            )  # fmt: skip
        if folder.fingerprint != wanted_fingerprint or not folder.lock():
            continue
        found = folder.newest_intact()
        if found is not None:
            return Start(folder, *found)
        folder.release()
    return Start()


def _by_newest_checkpoint(parent: Path) -> Iterator[RunFolder]:
    folders = [RunFolder(path) for path in parent.glob("*") if path.is_dir()]
    newest = {str(f.path): modified_at(paths[0]) for f in folders if (paths := f.checkpoints())}
    yield from sorted((f for f in folders if str(f.path) in newest), key=lambda f: -newest[str(f.path)])
