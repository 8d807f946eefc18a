"""A disk that is really full: the run ends with an error of the library, loses nothing, and goes on exactly where there is room again."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from golden_models import RUN_ID, TRAINED, training

from transformer_architectures.errors import CheckpointError
from transformer_architectures.training.loop import Trainer
from transformer_architectures.training.runs.run_folder import RunFolder, Start, read_position

NAME = "image_classification"
STEPS, KEPT = 10, 2
OFTEN: dict[str, Any] = {"max_steps": STEPS, "checkpoint_interval": 1, "keep_checkpoints": KEPT}


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"

    def fill(self, leave: int) -> None:
        """Takes all of it but for so many bytes."""
        status = os.statvfs(self.folder)
        with self.filler.open("ab") as file:
            file.write(bytes(max(0, status.f_bavail * status.f_frsize - leave)))

    def empty(self) -> None:
        """Makes room again."""
        self.filler.unlink()


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    """Of a megabyte unless the test says otherwise."""
    size = getattr(request, "param", "1m")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small file system can be mounted here: {error}")
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def active_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    run = SimpleNamespace(info=SimpleNamespace(run_id=RUN_ID, run_name=NAME))
    monkeypatch.setattr(mlflow, "active_run", lambda: run)


def run_folder(root: Path) -> RunFolder:
    return RunFolder(root / TRAINED[NAME] / f"{NAME}_{RUN_ID[:6]}")


def intact(folder: RunFolder) -> list[str]:
    """The checkpoints that a run could go on from."""
    found = []
    for path in folder.checkpoints():
        try:
            read_position(path)
            found.append(path.name)
        except CheckpointError:
            pass
    return found


def weights(trainer: Trainer) -> torch.Tensor:
    assert trainer.ema is not None
    return torch.cat([weight.detach().flatten() for weight in (*trainer.model.parameters(), *trainer.ema.parameters())])


def run_until_full(trainer: Trainer, disk: Disk, at: int, leave: int) -> None:
    """The disk fills while the run is going on; how many checkpoints are intact is looked at before every step."""
    step, folder = trainer.step, run_folder(disk.folder)

    def watched(micro_batches: Any) -> Any:
        done = trainer.state.global_step
        assert len(intact(folder)) >= min(done, KEPT)
        if done == at:
            disk.fill(leave)
        return step(micro_batches)

    trainer.step = watched  # type: ignore[assignment]
    trainer.run()


def test_a_run_on_a_full_disk_loses_nothing(seed: int, disk: Disk, active_run: None, tmp_path: Path) -> None:
    undisturbed = training(NAME, tmp_path / "whole", **OFTEN)
    undisturbed.run()
    at, leave = random.randint(3, STEPS - 2), random.randrange(40_000)
    print(f"full after step {at}, but for {leave} bytes")
    with pytest.raises(CheckpointError, match="No space left") as caught:
        run_until_full(training(NAME, disk.folder, **OFTEN), disk, at, leave)
    assert "\n" not in str(caught.value)
    folder = run_folder(disk.folder)
    assert len(intact(folder)) >= KEPT and not list(folder.path.glob("*.tmp")) + list(folder.path.glob(".*.tmp"))

    disk.empty()
    found = folder.newest_intact()
    assert found is not None and found[1]["global_step"] == at
    again = training(NAME, disk.folder, Start(folder, *found), **OFTEN)
    again.run()
    assert torch.equal(weights(again), weights(undisturbed))


# -------------------------------------------------------------------- the whole program
MODULE = "transformer_architectures.architectures.vanilla.training"
CONFIG = """
Model: {vocab_size: 200, embed_dim: 16, num_heads: 2, ff_dim: 32, num_layers: 1, dropout: 0.1, max_length: 32}
Training:
  seed: 5
  num_threads: 1
  max_steps: 20
  batch_tokens: 200
  ema_decay: 0.9
  validation_interval: 6
  validation_sentences: 4
  num_beams: 2
  checkpoint_interval: 3
  log_interval: 5
  checkpoint_root: ${CHECKPOINT_ROOT}
Data: {train: {file: TSV}, num_workers: 0, validation_fraction: 0.1, max_length: 31, cache_dir: "${CHECKPOINT_ROOT}/cache"}
"""


def start(folder: Path, root: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "CHECKPOINT_ROOT": str(root)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", MODULE, "--config", str(folder / "config.yaml"), "--resume", "auto"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def model_digest(root: Path) -> str:
    (path,) = root.glob("vanilla/*/model/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.faults
@pytest.mark.parametrize("disk", ["16m"], indirect=True)
def test_the_program_on_a_full_disk(seed: int, disk: Disk, tmp_path: Path) -> None:
    """It is started again and again with too little room: it says so each time in one line, and ends as if nothing had been."""
    words = [f"{'ba' * (n % 3 + 1)} lo{n} mi{n % 7}" for n in range(150)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{text} {n}\t{text[::-1]}\n" for n, text in enumerate(words)))
    (tmp_path / "config.yaml").write_text(CONFIG.replace("TSV", str(tmp_path / "pairs.tsv")))
    undisturbed = start(tmp_path, tmp_path / "whole")
    assert undisturbed.returncode == 0, undisturbed.stderr
    codes = []
    for leave in (0, 1_000_000, 20_000, 130_000, 300_000, 450_000):  # the store alone takes 900,000
        disk.fill(leave)
        done = start(tmp_path, disk.folder)
        codes.append(done.returncode)
        disk.empty()
        print(f"{leave:,} bytes left: exit code {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}")
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
        for folder in disk.folder.glob("vanilla/*"):
            checkpoints = RunFolder(folder).checkpoints()
            assert len(intact(RunFolder(folder))) == len(checkpoints), "a checkpoint is half written"
    assert codes[0] == 1
    done = start(tmp_path, disk.folder)
    assert done.returncode == 0, done.stderr
    whole = [path for path in disk.folder.glob("vanilla/*/model") if (path / "manifest.json").exists()]
    assert len(whole) == 1 and model_digest(disk.folder) == model_digest(tmp_path / "whole")
