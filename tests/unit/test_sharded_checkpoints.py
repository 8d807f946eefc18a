"""Checkpoints of shares, in a group of one process: from one form to the other, and damage to them."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors import safe_open
from tied_model import VOCABULARY, Batch, Tied, batches, group_of_one, loss_of
from torch import Tensor, nn
from toy_task import ToyData, ToyTask

from transformer_architectures.errors import CheckpointError
from transformer_architectures.training.checkpointing.checked_files import digest_path, write_with_digest
from transformer_architectures.training.checkpointing.checkpoints import load_checkpoint, read_checkpoint
from transformer_architectures.training.checkpointing.sharded_checkpoints import read_index
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import CommunicationError
from transformer_architectures.training.distributed.sharding import (
    full_tensor,
)
from transformer_architectures.training.loop import Trainer
from transformer_architectures.training.optimization import build_optimizer, build_scheduler
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.runs.finish import saved_weights
from transformer_architectures.training.runs.run_folder import RunFolder, Start
from transformer_architectures.training.runs.signals import StopRequest
from transformer_architectures.training.tracking.tracker import Tracker

CPU = torch.device("cpu")


__all__ = ["group_of_one"]  # the fixture
pytestmark = pytest.mark.usefixtures("seed")


class Data(ToyData):
    """The same batches in each epoch."""

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> list[Batch]:
        return batches(self.batches)[start_batch:]


class Echo(ToyTask):
    """Of the tokens that it is given."""

    def build_model(self) -> Tied:
        return Tied()

    def learning_rate_scale(self, model: Any, parameter: str) -> float:
        return 0.5 if "head" in parameter else 1.0  # several groups

    def loss(self, model: Any, batch: Any) -> Tensor:
        return loss_of(model, batch)

    def validate(self, model: Any, work: Any) -> dict[str, float]:
        with torch.no_grad():
            return {"score": -float(loss_of(model, batches(6)[-1]))}


MakeFit = Callable[..., Trainer]


def make_fit(root: Path, sharding: str, start: Start = Start(), **changes: Any) -> Trainer:
    """A run whose folder is `<root>/toy/run_000000`."""
    settings = {"max_steps": 8, "warmup_steps": 2, "ema_decay": 0.8, "accumulation_steps": 2, **changes}
    config = TrainingConfig(sharding=sharding, checkpoint_root=str(root), checkpoint_interval=2, **settings)
    return Trainer(Echo(), Data(), config, Precision(CPU, None), StopRequest(), start)


@pytest.fixture(scope="module", autouse=True)
def active_run() -> Iterator[None]:
    import mlflow

    run = SimpleNamespace(info=SimpleNamespace(run_id="0" * 32, run_name="run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow, "active_run", lambda: run)
        yield


@pytest.fixture
def fit(tmp_path: Path) -> MakeFit:
    return partial(make_fit, tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that has come to its end. To be copied, not changed."""
    root = tmp_path_factory.mktemp("finished")
    make_fit(root, "fsdp").run()
    return root


@pytest.fixture
def saved(finished: Path, tmp_path: Path) -> Path:
    """The last checkpoint of a copy of that run; the one before is `epoch_2.json`."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return folder(tmp_path).path / "step_8.json"


def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "toy" / "run_000000")


def newest(tmp_path: Path) -> Start:
    found = folder(tmp_path).newest_intact()
    assert found is not None
    return Start(folder(tmp_path), *found)


def numbers_of(trainer: Trainer) -> list[float]:
    """All weights, averages and moments."""
    assert trainer.ema is not None
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    tensors = [*trainer.model.parameters(), *trainer.ema.parameters(), *moments, *trainer.ema.buffers()]
    return torch.cat([full_tensor(tensor.detach()).flatten().double() for tensor in tensors]).tolist()


@pytest.mark.parametrize("forms", [["fsdp"], ["fsdp", "ddp"], ["ddp", "fsdp"]], ids=str)
def test_a_run_goes_on_in_the_same_or_the_other_form(
    fit: MakeFit, finished: Path, tmp_path: Path, forms: list[str]
) -> None:
    start = Start()
    for number, last in enumerate((*sorted(random.sample(range(1, 8), 2)), 8)):
        fit(forms[number % len(forms)], start, max_steps=last).run()
        start = newest(tmp_path)
    expected, found = make_fit(finished, "fsdp", newest(finished)), fit(forms[-1], start)
    if forms == ["fsdp"]:
        assert numbers_of(found) == numbers_of(expected)
    assert numbers_of(found) == pytest.approx(numbers_of(expected), rel=1e-4, abs=1e-5)
    for name in ("epoch", "batch_in_epoch", "global_step", "num_tokens"):
        assert getattr(found.state, name) == getattr(expected.state, name)


@pytest.mark.parametrize("forms", [("fsdp", "ddp"), ("ddp", "fsdp")], ids=str)
def test_a_checkpoint_is_not_written_again_in_another_form(
    fit: MakeFit, tmp_path: Path, forms: tuple[str, str]
) -> None:
    """It would count twice among those that are kept, and in their mean."""
    fit(forms[0], max_steps=2).run()
    run = fit(forms[1], newest(tmp_path), max_steps=4, keep_checkpoints=4)
    run.run()
    assert [Path(name).stem for name in run.state.scheduled] == ["step_2", "epoch_1", "step_4"]
    assert sorted(path.stem for path in folder(tmp_path).checkpoints()) == ["epoch_1", "step_2", "step_4"]


def test_what_lies_on_the_disk(fit: MakeFit, tmp_path: Path) -> None:
    """Safetensors and JSON, each under a digest, and nothing of a checkpoint that was removed."""
    run = fit("fsdp", keep_checkpoints=2)
    run.run(Mock(spec=Tracker, run_folder=folder(tmp_path).path))
    path = folder(tmp_path).path
    assert {file.name for file in folder(tmp_path).checkpoints()} == {"step_8.json", "epoch_2.json"}
    assert len(list(path.glob("*.shares"))) == 2 and len(list(path.glob("*.json.sha256"))) == 2
    (shares,) = path.glob("step_8-*.shares")
    (file,) = shares.iterdir()
    with safe_open(file, framework="pt") as tensors:
        names = set(tensors.keys())
    assert {"model.embedding.weight", "ema.embedding.weight", "optimizer.embedding.weight.exp_avg"} <= names
    assert json.loads((path / "step_8.json").read_text())["shares"]["folder"] == shares.name


def test_one_process_loads_the_model_from_python(fit: MakeFit, tmp_path: Path) -> None:
    run = fit("fsdp")
    run.run()
    path = folder(tmp_path).path / "step_8.json"
    model = Tied()
    optimizer = build_optimizer(model, run.config, lambda name: Echo().learning_rate_scale(model, name))
    assert load_checkpoint(path, model, optimizer, build_scheduler(optimizer, run.config)) == (2, 8, "0" * 32)
    for mine, shared in zip(model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(mine, full_tensor(shared))
        for key, value in optimizer.state[mine].items():
            assert torch.equal(value, full_tensor(run.optimizer.state[shared][key])), key
    weights = saved_weights(path, Tied())
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in weights.items())


def test_another_model_or_optimizer_is_refused(fit: MakeFit, tmp_path: Path) -> None:
    run = fit("fsdp", ema_decay=None)
    run.run()
    path = folder(tmp_path).path / "step_8.json"
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, nn.Linear(3, 3))
    model = Tied()
    model.head.bias = nn.Parameter(torch.zeros(VOCABULARY + 1))
    with pytest.raises(CheckpointError, match="does not fit.*head.bias"):
        load_checkpoint(path, model)
    with pytest.raises(CheckpointError, match="groups of parameters"):
        model = Tied()
        load_checkpoint(path, model, torch.optim.AdamW(model.parameters()))
    for sharding in ("fsdp", "ddp"):
        with pytest.raises(CheckpointError, match="no moving average"):
            fit(sharding, newest(tmp_path))


def test_a_rank_that_is_lost_meanwhile_is_no_damage(
    fit: MakeFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`process_group` names it: it must be told from what is wrong with the file."""
    fit("fsdp", max_steps=2).run()

    def closed(*unused: Any, **also: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("transformer_architectures.training.checkpointing.sharded_checkpoints.load", closed)
    with pytest.raises(CommunicationError, match="closed by peer"):
        fit("fsdp", newest(tmp_path))


def damaged(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    length = 64 if file.suffix == ".sha256" else len(content)  # what stands behind a digest is nothing to it
    if how == "flipped":
        content[random.randrange(length)] ^= 1 << random.randrange(8)
        file.write_bytes(content)
    elif how == "truncated":
        file.write_bytes(content[: random.randrange(length)])
    elif how == "removed":
        file.unlink()
    else:
        file.with_name("shard-9.safetensors").write_bytes(content)


WAYS_OF_DAMAGE = [(which, how) for which in ("share", "index", "digest") for how in ("flipped", "truncated", "removed")]


@pytest.mark.parametrize(("which", "how"), [*WAYS_OF_DAMAGE, ("share", "added")])
def test_damage_is_found_and_survived(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, which: str, how: str
) -> None:
    (share,) = next(saved.parent.glob("step_8-*.shares")).iterdir()
    damaged({"share": share, "index": saved, "digest": digest_path(saved)}[which], how)
    with pytest.raises(CheckpointError):
        read_checkpoint(saved)
    assert newest(tmp_path).path == saved.with_name("epoch_2.json")
    if saved.exists():
        assert "step_8.json" in caplog.text


def test_shares_of_another_checkpoint_are_found_out(saved: Path) -> None:
    (newer,), (older,) = (list(saved.parent.glob(f"{name}-*.shares")) for name in ("step_8", "epoch_2"))
    for file in older.iterdir():
        (newer / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(saved)


@pytest.mark.parametrize("name", ["..", ".", "", "../step_6.shares", "/etc", "step_8/../../x", None, 3])
def test_shares_lie_beside_their_index(saved: Path, name: Any) -> None:
    index = json.loads(saved.read_text())
    index["shares"]["folder"] = name
    write_with_digest(saved, lambda file: file.write(json.dumps(index).encode()))
    with pytest.raises(CheckpointError, match="which files"):
        read_index(saved)


def test_lost_shares_are_removed_and_those_of_a_damaged_index_stay(saved: Path, tmp_path: Path) -> None:
    saved.with_name("mine.shares").mkdir()  # not a checkpoint's
    before = set(saved.parent.glob("*.shares"))
    lost = saved.with_name("step_3-00000000.shares")
    lost.mkdir()
    (lost / "shard.safetensors").write_bytes(b"half")
    saved.write_bytes(b"{")
    assert folder(tmp_path).lock()
    assert set(saved.parent.glob("*.shares")) == before


@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_what_cannot_be_written_leaves_the_older_one(
    fit: MakeFit, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    run = fit("fsdp", newest(tmp_path))
    before = read_checkpoint(saved)

    def no_space(*unused: Any, **also: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if operation == "write":
            patch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", no_space)
        elif operation == "fsync":
            patch.setattr("os.fsync", no_space)
        else:
            patch.setattr(Path, "replace", no_space)
        with pytest.raises(CheckpointError, match="No space left"):
            run.save(saved.name)
    after = read_checkpoint(saved)
    assert after["shares"] == before["shares"]
    assert not list(saved.parent.glob("*.tmp")) and len(list(saved.parent.glob("step_8-*"))) == 1
    run.save(saved.name)
    replaced = read_checkpoint(saved)
    assert replaced["shares"]["folder"] != before["shares"]["folder"]
    assert len(list(saved.parent.glob("step_8-*"))) == 1
