"""Toy trainings that are stopped or killed, and what must be the same afterwards: a corpus, a config and the command for each task."""

import atexit
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from transformer_architectures.training.checkpointing.checkpoints import read_checkpoint
from transformer_architectures.training.checkpointing.sharded_checkpoints import is_sharded_checkpoint
from transformer_architectures.training.runs.run_folder import RunFolder
from transformer_architectures.training.tracking import destination as tracking_destination
from transformer_architectures.training.tracking import tracker as tracking

MODULE = "transformer_architectures.architectures.vanilla.training"
SYLLABLES = ["ba", "lo", "mi", "tu", "ké", "sa", "ro", "ne"]
CONFIG = """
Model: {vocab_size: 200, embed_dim: 16, num_heads: 2, ff_dim: 32, num_layers: 1, dropout: 0.1, max_length: 32}
Training:
  seed: 5
  num_threads: 1
  max_steps: 60
  batch_tokens: 200
  accumulation_steps: 2
  learning_rate: 0.01
  warmup_steps: 10
  weight_decay: 0.01
  clip_norm: 0.5
  ema_decay: 0.9
  average_last: 2
  validation_interval: 9
  validation_sentences: 4
  num_beams: 2
  checkpoint_interval: 7
  log_interval: 5
  checkpoint_root: ${CHECKPOINT_ROOT}
Data: {train: {file: TSV}, num_workers: 2, validation_fraction: 0.1, max_length: 31, cache_dir: CACHE}
"""


class Process(Protocol):
    """What is used of a started process: a `Popen`, or what stands for one."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def kill(self) -> None: ...

    def communicate(self) -> tuple[str, str]: ...


def new_interpreter(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Process:
    """Starts Python, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=dict(environment),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@cache
def empty_store() -> Path:
    """An MLflow database: MLflow takes seconds to make one."""
    folder = Path(tempfile.mkdtemp(prefix="empty_store_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tracking.prepare_mlflow()
    tracking_destination.LocalStore(folder).client()
    return folder / "mlflow.db"


class Runs:
    """A tiny corpus, a config, and the command that trains on it.

    Args:
        options: of the command, for every start.
        launch: starts the process.
    """

    architecture = "vanilla"

    def __init__(
        self,
        folder: Path,
        config: str,
        options: tuple[str, ...] = (),
        launch: Callable[[Sequence[str], Mapping[str, str], Path], Process] = new_interpreter,
    ) -> None:
        self.folder, self.options, self.launch = folder, options, launch
        self.write_data(folder)
        for word, path in (("TSV", "pairs.tsv"), ("DOCUMENTS", "documents.txt"), ("CACHE", "cache")):
            config = config.replace(word, str(folder / path))
        (folder / "config.yaml").write_text(config)

    def write_data(self, folder: Path) -> None:
        draw = random.Random(folder.name)
        words = ["".join(draw.choices(SYLLABLES, k=2)) for _ in range(40)]
        lines = [draw.choices(words, k=draw.randint(1, 5)) for _ in range(120)]
        rows = [f"{' '.join(line)} {index}\t{' '.join(reversed(line))} {index}\n" for index, line in enumerate(lines)]
        (folder / "pairs.tsv").write_text("".join(rows))

    def root(self, name: str) -> Path:
        root = self.folder / name
        if not root.exists():
            root.mkdir()
            shutil.copy(empty_store(), root)
        return root

    def forget(self, name: str) -> None:
        """Removes all that was there of a name."""
        shutil.rmtree(self.root(name))

    def start(self, name: str, *prefix: str, options: tuple[str, ...] = ()) -> Process:
        """The command, going on with what there is; ``prefix`` takes the place of `-m MODULE`."""
        program = prefix or ("-m", MODULE.replace("vanilla", self.architecture))
        environment = {**os.environ, "CHECKPOINT_ROOT": str(self.root(name))}
        environment.pop("MLFLOW_TRACKING_URI", None)
        arguments = [*program, "--config", str(self.folder / "config.yaml"), "--resume", "auto"]
        return self.launch([*arguments, *self.options, *options], environment, self.folder)

    def finish(self, name: str) -> str:
        """Runs the command to its end; what it wrote."""
        process = self.start(name)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out + err

    def run_folder(self, name: str) -> Path:
        """The only one to go on from: a run that was killed before its first checkpoint was begun anew."""
        folders = (self.root(name) / self.architecture).iterdir()
        (folder,) = (path for path in folders if RunFolder(path).checkpoints())
        return folder

    def run_id(self, name: str) -> str:
        """Of that run."""
        return str(json.loads((self.run_folder(name) / "tracking" / "run.json").read_text())["run_id"])

    def newest_change(self, name: str) -> int:
        folders = self.root(name).glob(f"{self.architecture}/*/")
        return max((path.stat().st_mtime_ns for folder in folders for path in saved(folder)), default=0)

    def wait_for_checkpoint(self, name: str, process: Process, before: int) -> None:
        """Until there is a newer one than that of before, or the run has come to its end without another."""
        while self.newest_change(name) <= before and process.poll() != 0:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.002)

    def stop(self, name: str, number: signal.Signals, longest_wait: float = 0.0) -> Process:
        """Goes on with the run and sends a signal to its whole group, some time after its next checkpoint."""
        before = self.newest_change(name)
        process = self.start(name)
        self.wait_for_checkpoint(name, process, before)
        time.sleep(random.uniform(0, longest_wait))
        if number is signal.SIGKILL:  # the workers of its loader outlive it for some seconds
            process.kill()
        else:
            os.killpg(process.pid, number)
        return process

    def status(self, name: str) -> str:
        """What the local store says of the run."""
        with sqlite3.connect(self.root(name) / "mlflow.db") as connection:
            query = "SELECT status FROM runs WHERE run_uuid = ?"
            ((status,),) = connection.execute(query, (self.run_id(name),)).fetchall()
        return str(status)

    def points(self, name: str) -> list[tuple[str, int, float]]:
        """All that the local store has of the run; of what depends on the machine, name and step."""
        return stored_points(self.root(name) / "mlflow.db", self.run_id(name))


def stored_points(database: Path, run_id: str) -> list[tuple[str, int, float]]:
    """Name, step and value of each point of a run; without a value for speeds, without what was measured of the machine."""
    with sqlite3.connect(database) as connection:
        query = """SELECT key, step, CASE WHEN key LIKE '%_per_second' OR key LIKE '%wait_share' THEN 0 ELSE value END
            FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'system/%' ORDER BY key, step"""
        return connection.execute(query, (run_id,)).fetchall()


class ImageRuns(Runs):
    """The same with a few images of digits: augmented and mixed by two processes."""

    architecture = "vit"

    def write_data(self, folder: Path) -> None:
        """None: the digits are made by the first run."""


IMAGES = """
Model: {image_size: 32, patch_size: 8, embed_dim: 16, num_heads: 2, ff_dim: 16, num_layers: 2, dropout: 0.1, stochastic_depth: 0.2}
Training:
  seed: 5
  num_threads: 1
  max_steps: 40
  batch_size: 8
  accumulation_steps: 2
  learning_rate: 0.01
  warmup_steps: 10
  weight_decay: 0.01
  layer_decay: 0.7
  ema_decay: 0.9
  validation_interval: 9
  checkpoint_interval: 7
  keep_checkpoints: 5
  log_interval: 5
  loss: {kind: asymmetric, unknown: selective, prior_threshold: 0.4, top_k: 1}
  checkpoint_root: ${CHECKPOINT_ROOT}
Data:
  train: {digits: {train: 100, validation: 30, test: 30, size: 32}}
  num_workers: 2
  cache_dir: CACHE
  augmentation: {crop: random_resized, crop_scale: [0.5, 1.0], auto_augment: trivial, erasing: 0.3, mixup: 0.4, cutmix: 1.0, mixed: 0.7}
"""


class TextRuns(Runs):
    """The same with a few documents: packed and masked by two processes."""

    architecture = "bert"

    def write_data(self, folder: Path) -> None:
        draw = random.Random(folder.name)
        words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(60)]
        lines = [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(200)]
        (folder / "documents.txt").write_text("".join(f"{line}.\n" + "\n" * (draw.random() < 0.3) for line in lines))


TEXTS = """
Model: {vocab_size: 120, embed_dim: 16, num_heads: 2, ff_dim: 32, num_layers: 2, max_positions: 32}
Training:
  seed: 5
  num_threads: 1
  max_steps: 40
  batch_tokens: 150
  accumulation_steps: 2
  learning_rate: 0.01
  schedule: linear
  warmup_steps: 10
  weight_decay: 0.01
  ema_decay: 0.9
  validation_interval: 9
  checkpoint_interval: 7
  keep_checkpoints: 5
  log_interval: 5
  checkpoint_root: ${CHECKPOINT_ROOT}
Data:
  train: {documents: {files: [DOCUMENTS]}}
  validation_fraction: 0.2
  max_length: 24
  masking: {rate: 0.2, whole_words: true}
  num_workers: 2
  cache_dir: CACHE
"""


def saved(folder: Path) -> list[Path]:
    """All checkpoints, also those of the best weights."""
    return [*RunFolder(folder).checkpoints(), *folder.glob("best_*.pt")]


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two checkpoints differ, leaving out what may: the run's id and how long it took."""
    if place == ".run_id" or place.startswith(".extra.state.") and place.endswith("seconds"):
        return
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield place
    elif isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        for key in one:
            yield from differences(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}.{index}")
    elif type(one) is not type(other) or one != other:
        yield place


def content_of(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds; shares of one rank by name. safetensors writes what it notes beside them in an order that varies."""
    content = read_checkpoint(path)
    if is_sharded_checkpoint(content):
        (file,) = Path(content["shares"]["folder"]).iterdir()
        content["shares"] = load_file(file)
    return content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_equal(runs: Runs, name: str) -> None:
    """The bytes of the model, every tensor, generator and counter of the checkpoints, every point of the metrics."""
    expected, folder = runs.run_folder("undisturbed"), runs.run_folder(name)
    assert sha256(folder / "model" / "model.safetensors") == sha256(expected / "model" / "model.safetensors")
    names = {path.name for path in saved(expected)}
    assert len(names) >= 3 and names <= {path.name for path in saved(folder)}
    for checkpoint in names:
        found = list(differences(content_of(expected / checkpoint), content_of(folder / checkpoint)))
        assert found == [], checkpoint
    results = [json.loads((run / "model" / "results.json").read_text()) for run in (expected, folder)]
    for result in results:
        del result["cost"]
    assert results[0] == results[1]
    assert runs.points(name) == runs.points("undisturbed")
    assert runs.status(name) == "FINISHED"
