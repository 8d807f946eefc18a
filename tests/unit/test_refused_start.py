"""A start that is refused leaves nothing behind: no run folder, no run in MLflow's store, no change to the folder of a resumed run."""

import hashlib
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from spawned_ranks import be_rank, free_port
from torch import Tensor, nn
from toy_task import ToyData, ToyTask

from transformer_architectures.architectures.train import train
from transformer_architectures.architectures.vanilla.training import VANILLA
from transformer_architectures.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FailedRankError,
    TransformerArchitecturesError,
)
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.run import RunContext, run_training
from transformer_architectures.training.runs.signals import Stopped


class Batch:
    """Two random rows."""

    num_labels = num_tokens = num_positions = 2
    indices = (0, 1)

    def to(self, device: torch.device) -> "Batch":
        return self


class Data(ToyData):
    """Rejects a row each time that it is set up; then does what it is told."""

    def __init__(self, rejected_path: Path | None, during_setup: Callable[[], None], digest: str) -> None:
        self.rejected_path, self.during_setup, self.digest = rejected_path, during_setup, digest

    def setup(self) -> None:
        if self.rejected_path is not None:
            self.rejected_path.write_text('{"file": "a.tsv", "line": 3, "reason": "empty"}\n')
        self.during_setup()

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> list[Batch]:
        return [Batch()] * (self.batches - start_batch)


class Task(ToyTask):
    """A linear model of some width."""

    def __init__(self, width: int) -> None:
        self.width = width

    def build_model(self) -> nn.Module:
        if self.width == 0:
            raise ConfigError("Model: width 0 does not fit the data")
        return nn.Linear(self.width, 1)

    def loss(self, model: Any, batch: Any) -> Tensor:
        return model(torch.ones(2, self.width)).square().sum()

    def validate(self, model: Any, work: Any) -> dict[str, float]:
        return {"score": 0.0}


def start(
    root: Path,
    resume: str | None = None,
    *,
    width: int = 3,
    digest: str = "data",
    during_setup: Callable[[], None] = lambda: None,
    **changes: Any,
) -> FinishedRun:
    settings = {"max_steps": 2, "device": "cpu", "precision": "fp32", "checkpoint_interval": 1, **changes}
    config = TrainingConfig(checkpoint_root=str(root), **settings)

    def build(context: RunContext) -> tuple[Task, Data]:
        return Task(width), Data(context.rejected_path, during_setup, digest)

    return run_training("toy", {"Training": config}, config, build, resume)


def fail(error: Exception) -> Callable[[], None]:
    def during_setup() -> None:
        raise error

    return during_setup


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "outputs"


def left_in(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder; the empty lock file has none worth it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -------------------------------------------------------------------- a new run
@pytest.mark.parametrize(
    ("error", "settings"),
    [
        (FileNotFoundError, {"during_setup": fail(FileNotFoundError("a.tsv"))}),
        (ConfigError, {"width": 0}),
        (ConfigError, {"run_name": "../elsewhere"}),
    ],
    ids=["setup", "model", "name"],
)
def test_a_new_run_that_is_refused_writes_nothing(root: Path, error: type[Exception], settings: dict[str, Any]) -> None:
    with pytest.raises(error):
        start(root, **settings)
    assert not root.exists() and not list((root.parent / "temporary").iterdir())


def test_without_a_batch_there_is_no_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyData, "batches", 0)
    with pytest.raises(DataError, match="no batch to train on"):
        start(root)
    assert not [path for path in (root / "toy").iterdir() if path.is_dir()]


def test_a_missing_data_file(root: Path, tmp_path: Path) -> None:
    """Through the training of an architecture."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "Model: {architecture: vanilla}\nTraining: {max_steps: 1}\n"
        f"Data: {{train: {{file: {tmp_path / 'nothing.tsv'}}}, cache_dir: {tmp_path / 'cache'}}}\n"
    )
    with pytest.raises(DataError, match="nothing.tsv"):
        train(VANILLA, str(config), [f"Training.checkpoint_root={root}"], None)
    assert not root.exists()


def test_the_rejected_rows_of_refused_data_are_kept(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """They say why, and the message names them; but they are no run."""
    with pytest.raises(DataError):
        start(root, during_setup=fail(DataError("20 % of the rows were rejected; see rejected.jsonl")))
    assert list(left_in(root)) == ["toy/rejected.jsonl"]
    assert str(root / "toy" / "rejected.jsonl") in capfd.readouterr().err
    assert not list((root.parent / "temporary").iterdir())


def test_a_signal_before_the_first_step_leaves_no_run(root: Path) -> None:
    with pytest.raises(Stopped) as stopped:
        start(root, during_setup=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stopped.value.code == 143 and not root.exists()


# -------------------------------------------------------------------- a run that goes on
def test_a_checkpoint_that_does_not_fit_leaves_its_folder_as_it_was(root: Path) -> None:
    finished = start(root)
    folder = finished.model_folder.parent
    assert (folder / "rejected.jsonl").read_text() and not list((root.parent / "temporary").iterdir())
    before = left_in(root)
    refused: list[dict[str, Any]] = [
        {"width": 4},
        {"width": 0},
        {"digest": "other data"},
        {"during_setup": fail(DataError("a.tsv: is missing"))},
    ]
    for resume in (str(folder), str(folder / "step_2.pt")):
        for settings in refused:
            with pytest.raises(TransformerArchitecturesError):
                start(root, resume, max_steps=4, **settings)
            kept = {"toy/rejected.jsonl": left_in(root)["toy/rejected.jsonl"]} if "during_setup" in settings else {}
            assert left_in(root) == before | kept, settings
            (root / "toy" / "rejected.jsonl").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="does not fit"):
        start(root, str(folder), width=4, max_steps=4)
    with sqlite3.connect(root / "mlflow.db") as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
    assert start(root, str(folder), max_steps=4).results["global_step"] == 4  # nobody holds its lock


# -------------------------------------------------------------------- several ranks
def refuse(rank: int, world_size: int, port: int, folder: str) -> None:
    be_rank(rank, world_size, port)
    for number, sharding in enumerate(("ddp", "fsdp")):
        root = Path(folder) / sharding
        with pytest.raises(DataError, match="a.tsv"):
            start(root, during_setup=fail(DataError("a.tsv: is missing")), sharding=sharding)
        only_here = fail(DataError("a.tsv: is missing")) if rank == number else lambda: None
        with pytest.raises(DataError if rank == number else FailedRankError, match="a.tsv"):
            start(root, during_setup=only_here, sharding=sharding)


def test_ranks_that_refuse_a_start_write_nothing(tmp_path: Path) -> None:
    """All of them, or one of them: the first with DDP, another with FSDP."""
    multiprocessing.spawn(refuse, (2, free_port(), str(tmp_path)), nprocs=2)
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.parent.name == "toy"]
    assert not list(tmp_path.rglob("mlflow.db"))
