"""A run that is killed, at whatever moment, and started again by the same command ends as if nothing had been.

The slow ones: `pytest -m slow tests/learning/test_exact_resume.py` (some minutes, most of it imports and compilation).
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from transformer_architectures.training import tracking, tracking_destination
from transformer_architectures.training.checkpointing import read_checkpoint
from transformer_architectures.training.state import RunState

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
# Runs the module, and kills itself just before its n-th flush of a checkpoint: the temporary file is written, not yet renamed.
KILLED_IN_SAVE = f"""if True:
    import os, runpy, signal, sys
    left, fsync = int(sys.argv.pop(1)), os.fsync
    def counted(descriptor):
        global left
        if os.readlink(f"/proc/self/fd/{{descriptor}}").endswith(".tmp") and ".pt." in os.readlink(f"/proc/self/fd/{{descriptor}}"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return fsync(descriptor)
    os.fsync = counted
    runpy.run_module("{MODULE}", run_name="__main__", alter_sys=True)
"""


# The program, with the plug pulled when the model folder is there and nothing after it is.
KILLED_AFTER_MODEL = f"""if True:
    import os, runpy, signal
    from transformer_architectures.architectures.vanilla.translator import Translator
    export = Translator.export
    def export_and_die(*arguments):
        export(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    Translator.export = export_and_die
    runpy.run_module("{MODULE}", run_name="__main__", alter_sys=True)
"""


class Runs:
    """A tiny corpus, a config, and the command that trains on it."""

    architecture = "vanilla"

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.write_data(folder)
        text = config.replace("TSV", str(folder / "pairs.tsv")).replace("CACHE", str(folder / "cache"))
        (folder / "config.yaml").write_text(text)
        tracking.prepare_mlflow()
        tracking_destination.LocalStore(folder / "store").client()  # MLflow takes seconds to make one

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
            shutil.copy(self.folder / "store" / "mlflow.db", root)
        return root

    def start(self, name: str, *prefix: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            *(prefix or ("-m", MODULE.replace("vanilla", self.architecture))),
            "--config",
            str(self.folder / "config.yaml"),
        ]
        environment = {**os.environ, "CHECKPOINT_ROOT": str(self.root(name))}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.Popen(
            [*command, "--resume", "auto", *options],
            env=environment,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self, name: str) -> str:
        """Runs the command to its end; what it wrote."""
        process = self.start(name)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out + err

    def run_folder(self, name: str) -> Path:
        """The only one: every start went on with the same run."""
        (folder,) = (self.root(name) / self.architecture).iterdir()
        return folder

    def newest_change(self, name: str) -> int:
        return max(
            (path.stat().st_mtime_ns for path in self.root(name).glob(f"{self.architecture}/*/*_*.pt")), default=0
        )

    def wait_for_checkpoint(self, name: str, process: subprocess.Popen[str], before: int) -> None:
        """Until there is a newer one than that of before, or the run has come to its end without another."""
        while self.newest_change(name) <= before and process.poll() != 0:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.002)

    def stop(self, name: str, number: signal.Signals, longest_wait: float = 0.0) -> subprocess.Popen[str]:
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

    def status(self, name: str) -> list[str]:
        with sqlite3.connect(self.root(name) / "mlflow.db") as connection:
            return [status for (status,) in connection.execute("SELECT status FROM runs")]

    def points(self, name: str) -> list[tuple[str, int]]:
        with sqlite3.connect(self.root(name) / "mlflow.db") as connection:
            query = "SELECT key, step FROM metrics WHERE key NOT LIKE 'system/%' ORDER BY key, step"
            return connection.execute(query).fetchall()


class PictureRuns(Runs):
    """The same with a few pictures of digits: augmented and mixed by two processes."""

    architecture = "vit"

    def write_data(self, folder: Path) -> None:
        """None: the digits are made by the first run."""


PICTURES = """
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


@pytest.fixture(scope="module")
def picture_runs(tmp_path_factory: pytest.TempPathFactory) -> PictureRuns:
    pytest.importorskip("sklearn")
    runs = PictureRuns(tmp_path_factory.mktemp("pictures"), PICTURES)
    runs.finish("undisturbed")
    return runs


def test_pictures_stopped_by_a_signal(seed: int, picture_runs: PictureRuns) -> None:
    check_stopped(picture_runs)


@pytest.mark.slow
def test_pictures_killed_at_random_moments(seed: int, picture_runs: PictureRuns) -> None:
    check_killed(picture_runs, times=3, longest_wait=0.3)


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


@pytest.fixture(scope="module")
def text_runs(tmp_path_factory: pytest.TempPathFactory) -> TextRuns:
    folder = tmp_path_factory.mktemp("texts")
    runs = TextRuns(folder, TEXTS.replace("DOCUMENTS", str(folder / "documents.txt")))
    runs.finish("undisturbed")
    return runs


def test_texts_stopped_by_a_signal(seed: int, text_runs: TextRuns) -> None:
    check_stopped(text_runs)


@pytest.mark.slow
def test_texts_killed_at_random_moments(seed: int, text_runs: TextRuns) -> None:
    check_killed(text_runs, times=3, longest_wait=0.3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("resume"), CONFIG)
    runs.finish("undisturbed")
    return runs


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


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_equal(runs: Runs, name: str) -> None:
    """The bytes of the model, every tensor, generator and counter of the checkpoints, every point of the metrics."""
    expected, folder = runs.run_folder("undisturbed"), runs.run_folder(name)
    assert sha256(folder / "model" / "model.safetensors") == sha256(expected / "model" / "model.safetensors")
    names = {path.name for path in expected.glob("*.pt")}
    assert len(names) >= 3 and names <= {path.name for path in folder.glob("*.pt")}
    for checkpoint in names:
        found = list(differences(read_checkpoint(expected / checkpoint), read_checkpoint(folder / checkpoint)))
        assert found == [], checkpoint
    results = [json.loads((run / "model" / "results.json").read_text()) for run in (expected, folder)]
    for result in results:
        del result["cost"]
    assert results[0] == results[1]
    assert runs.points(name) == runs.points("undisturbed")
    assert runs.status(name) == ["FINISHED"]


def check_stopped(runs: Runs) -> None:
    """By the system, once."""
    process = runs.stop("stopped", signal.SIGTERM)
    assert process.wait() == 143
    runs.finish("stopped")
    check_equal(runs, "stopped")


def check_killed(runs: Runs, times: int, longest_wait: float) -> None:
    """At random moments; fewer times where the run was at its end before."""
    codes: list[int] = []
    while len(codes) < times and 0 not in codes:
        codes.append(runs.stop("killed", signal.SIGKILL, longest_wait).wait())
    assert codes[0] == -signal.SIGKILL and set(codes) <= {0, -signal.SIGKILL}
    runs.finish("killed")
    check_equal(runs, "killed")


def test_killed_inside_a_save(seed: int, runs: Runs) -> None:
    flush = random.randint(4, 12)
    process = runs.start("in_save", "-c", KILLED_IN_SAVE, str(flush))
    assert process.wait() == -signal.SIGKILL
    assert runs.newest_change("in_save") > 0 and list(runs.run_folder("in_save").glob(".*.tmp"))
    assert "going on from" in runs.finish("in_save")
    check_equal(runs, "in_save")
    assert not list(runs.run_folder("in_save").glob(".*.tmp"))


def test_killed_after_the_model_folder(seed: int, runs: Runs) -> None:
    process = runs.start("at_end", "-c", KILLED_AFTER_MODEL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and runs.status("at_end") == ["RUNNING"]
    assert "nothing left to train" in runs.finish("at_end")
    assert runs.status("at_end") == ["FINISHED"]
    check_equal(runs, "at_end")
    assert "nothing left to train" in runs.finish("at_end")
    assert runs.status("at_end") == ["FINISHED"]


def test_a_finished_run_trains_nothing(seed: int, runs: Runs) -> None:
    folder = runs.run_folder("undisturbed")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    said = runs.finish("undisturbed")
    assert "nothing left to train" in said and str(folder / "model") in said
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert before == after and runs.status("undisturbed") == ["FINISHED"]


@pytest.mark.slow
def test_killed_at_random_moments(seed: int, runs: Runs) -> None:
    check_killed(runs, times=5, longest_wait=0.5)


@pytest.mark.slow
def test_stopped_by_signals(seed: int, runs: Runs) -> None:
    for number, exit_code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)):
        there = {path.name for path in runs.root("stopped").glob("vanilla/*/*.pt")}
        process = runs.stop("stopped", number)
        _, errors = process.communicate()
        assert process.returncode == exit_code, errors
        assert "Traceback" not in errors
        assert runs.status("stopped") == ["KILLED"]
        folder = runs.run_folder("stopped")
        newest = max(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
        state = read_checkpoint(newest)["extra"]["state"]
        due = RunState.from_dict(state).files_to_keep()
        assert newest.name == f"step_{state['global_step']}.pt"
        assert {path.name for path in folder.glob("*.pt")} - there - due == {newest.name}
    runs.finish("stopped")
    check_equal(runs, "stopped")


@pytest.mark.slow
def test_the_newest_checkpoint_is_damaged(seed: int, runs: Runs) -> None:
    process = runs.stop("damaged", signal.SIGTERM)
    assert process.wait() == 143
    newest = max(runs.run_folder("damaged").glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[random.randrange(len(content))] ^= 1
    newest.write_bytes(content)
    said = runs.finish("damaged")
    assert f"{newest.name}: damaged" in said and "an older checkpoint is tried" in said
    check_equal(runs, "damaged")


@pytest.mark.slow
def test_compiled(seed: int, tmp_path: Path) -> None:
    """Killed twice. What has been compiled before, and for which shapes, must not matter."""
    shorter = CONFIG.replace("max_steps: 60", "max_steps: 14").replace("_interval: 7", "_interval: 4")
    compiled = shorter.replace("num_threads: 1", "num_threads: 1\n  compile: true")
    runs = Runs(tmp_path, compiled)
    runs.finish("undisturbed")
    for _ in range(2):
        assert runs.stop("killed", signal.SIGKILL).wait() == -signal.SIGKILL
    runs.finish("killed")
    check_equal(runs, "killed")
