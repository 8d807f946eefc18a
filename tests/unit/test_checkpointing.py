"""Checkpoints: whole or absent, checked before they are parsed, and nothing but a `CheckpointError` when they are not."""

import errno
import hashlib
import io
import os
import pickle
import random
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from transformer_architectures.errors import CheckpointError, TrackingError
from transformer_architectures.training.checkpointing import checked_files
from transformer_architectures.training.checkpointing import checkpoints as checkpointing
from transformer_architectures.training.checkpointing.checked_files import digest_path
from transformer_architectures.training.checkpointing.checkpoints import (
    load_checkpoint,
    random_state,
    read_checkpoint,
    resume_mlflow_run,
    save_checkpoint,
    set_random_state,
)

RUN_ID = "0123456789abcdef0123456789abcdef"


class Training:
    """A model, its optimizer and its schedule, some steps old."""

    def __init__(self, steps: int = 3, width: int = 5) -> None:
        self.model = nn.Sequential(nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, width))
        self.optimizer = AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 / (step + 1))
        for _ in range(steps):
            self.step(torch.randn(4, width))

    def step(self, inputs: Tensor) -> None:
        self.optimizer.zero_grad()
        self.model(inputs).square().sum().backward()
        self.optimizer.step()
        self.scheduler.step()

    def save(self, root: Path, **options: Any) -> Path:
        position = {"epoch": 2, "global_step": 17, "checkpoint_root": root, "model_name": "vanilla", **options}
        return save_checkpoint(self.model, self.optimizer, self.scheduler, **position)

    def weights(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


pytestmark = pytest.mark.filterwarnings(
    "ignore:Detected pickle protocol:UserWarning"
)  # of files that are no checkpoints


@pytest.fixture
def active_run(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What `mlflow.active_run()` gives; a store of its own has the tests of tracking."""
    import mlflow

    run = SimpleNamespace(info=SimpleNamespace(run_id=RUN_ID, run_name="blue-hen-7"))
    monkeypatch.setattr(mlflow, "active_run", lambda: run)
    return run


@pytest.fixture
def saved(seed: int, active_run: SimpleNamespace, tmp_path: Path) -> Path:
    return Training().save(tmp_path)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(path: Path) -> str:
    """That a file is refused, in one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, Training(0).model)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def reseal(path: Path) -> None:
    """Gives a file the digest that fits it: what an attacker would do, or somebody who brings a file of his own."""
    digest_path(path).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


# -------------------------------------------------------------------- what is saved comes back
def test_round_trip(seed: int, active_run: SimpleNamespace, tmp_path: Path) -> None:
    training = Training()
    path = training.save(tmp_path, extra_state={"best": 1.5, "names": ["a", "b"], "ema": {"w": torch.ones(2)}})
    assert path == tmp_path / "vanilla" / f"blue-hen-7_{RUN_ID[:6]}" / "epoch_2.pt"
    assert files(path.parent) == {"epoch_2.pt", "epoch_2.pt.sha256"}

    other = Training(0)
    assert load_checkpoint(path, other.model, other.optimizer, other.scheduler) == (2, 17, RUN_ID)
    assert torch.equal(other.weights(), training.weights())
    assert other.scheduler.get_last_lr() == training.scheduler.get_last_lr()
    inputs = torch.randn(4, 5)
    training.step(inputs)
    other.step(inputs)  # takes the same step only if the optimizer's moments and its step count came back too
    assert torch.equal(other.weights(), training.weights())
    extra = read_checkpoint(path)["extra"]
    assert (extra["best"], extra["names"], extra["ema"]["w"].tolist()) == (1.5, ["a", "b"], [1.0, 1.0])


def test_the_digest_is_that_of_sha256sum(saved: Path) -> None:
    assert digest_path(saved).read_text() == f"{hashlib.sha256(saved.read_bytes()).hexdigest()}  epoch_2.pt\n"


def test_a_model_alone_can_be_read_but_no_training_goes_on_from_it(
    seed: int, active_run: SimpleNamespace, tmp_path: Path
) -> None:
    model = Training().model
    options: dict[str, Any] = {"epoch": 1, "global_step": 4, "checkpoint_root": str(tmp_path), "model_name": "vanilla"}
    path = save_checkpoint(model, None, None, filename="best_4.pt", **options)
    assert path.name == "best_4.pt" and load_checkpoint(path, model) == (1, 4, RUN_ID)
    training = Training(0)
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        load_checkpoint(path, training.model, training.optimizer)


def test_another_shape_or_another_model_does_not_fit(saved: Path) -> None:
    for model in (Training(0, width=6).model, nn.Linear(5, 7)):
        with pytest.raises(CheckpointError, match="its model does not fit") as caught:
            load_checkpoint(saved, model)
        assert "\n" not in str(caught.value)
    training = Training(0)
    optimizer = AdamW([*training.model.parameters(), nn.Parameter(torch.ones(1))])
    with pytest.raises(CheckpointError, match="its optimizer does not fit"):
        load_checkpoint(saved, training.model, optimizer)


def test_without_an_active_run_there_is_no_folder(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "active_run", lambda: None)
    with pytest.raises(TrackingError) as caught:
        Training(0).save(tmp_path)
    assert "no MLflow run is active" in str(caught.value) and "\n" not in str(caught.value)
    assert files(tmp_path) == set()


def test_random_states_of_all_generators_come_back(seed: int, active_run: SimpleNamespace, tmp_path: Path) -> None:
    numpy.random.normal()  # leaves a second value for later in numpy's and Python's state
    random.gauss(0, 1)
    path = Training(0).save(tmp_path, extra_state={"random": random_state()})

    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), numpy.random.normal(), numpy.random.rand(), float(torch.rand(()))]

    first = draw()
    assert draw() != first
    set_random_state(read_checkpoint(path)["extra"]["random"])
    assert draw() == first


# -------------------------------------------------------------------- damage
def test_one_flipped_bit_anywhere_is_found(saved: Path) -> None:
    """In a header, in a tensor, in padding, in the directory at the end: torch itself would load most of them."""
    content = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        starts = [info.header_offset for info in archive.infolist()]
        directory = archive.start_dir
    places = [0, *starts, *(start + 30 for start in starts), directory, len(content) - 1]
    places += random.sample(range(len(content)), 40)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.randrange(8)
        saved.write_bytes(damaged)
        assert "damaged" in refused(saved), place
    saved.write_bytes(content)
    load_checkpoint(saved, Training(0).model)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    assert "damaged" in refused(saved)


def test_a_longer_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    assert "damaged" in refused(saved)


@pytest.mark.parametrize("digest", [b"", b"\n \n", b"\xff\xfe\x00", b"0" * 64, b"epoch_2.pt"])
def test_a_damaged_digest_is_refused(saved: Path, digest: bytes) -> None:
    digest_path(saved).write_bytes(digest)
    refused(saved)


def test_what_is_missing_is_said(saved: Path, tmp_path: Path) -> None:
    digest_path(saved).unlink()
    refused(saved)
    refused(tmp_path / "nothing.pt")
    refused(saved.parent)
    reseal(saved)
    saved.unlink()
    refused(saved)


def test_the_file_of_another_run_is_not_taken_for_this_one(
    seed: int, active_run: SimpleNamespace, tmp_path: Path
) -> None:
    mine = Training().save(tmp_path)
    active_run.info.run_id = "f" * 32
    theirs = Training().save(tmp_path)
    assert theirs != mine
    shutil.copy(theirs, mine)  # without its digest
    assert "damaged" in refused(mine)


class Payload:
    """What an attacker pickles."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_executed(saved: Path, tmp_path: Path) -> None:
    """Not even with the right digest: the restricted unpickler knows tensors and plain values only."""
    target = tmp_path / "executed"
    content = {"format": 1, "model": Payload(target)}
    torch.save(content, saved)
    reseal(saved)
    assert "cannot be read as a checkpoint" in refused(saved)
    saved.write_bytes(pickle.dumps(content))
    reseal(saved)
    assert "cannot be read as a checkpoint" in refused(saved)
    assert not target.exists()


def test_a_foreign_file_with_the_right_digest_is_no_checkpoint(saved: Path) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    contents = [b"", b"text", b"\x80\x02.", b"\x80\x02]q\x00.", b"PK\x03\x04", zipped.getvalue(), os.urandom(500)]
    for content in (torch.ones(2), {"format": 99}, {"model": {}}, [1, 2], {"format": 1}, {"format": 1, "model": 3}):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        contents.append(buffer.getvalue())
    for foreign in contents:
        saved.write_bytes(foreign)
        reseal(saved)
        refused(saved)


def test_a_damaged_pickle_with_the_right_digest_raises_nothing_else(saved: Path) -> None:
    """Whatever the unpickler trips over becomes a `CheckpointError`."""
    with zipfile.ZipFile(saved) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = [name for name in parts if name.endswith("data.pkl")]
    for _ in range(150):
        damaged = bytearray(parts[name])
        for _ in range(random.randint(1, 4)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        with zipfile.ZipFile(saved, "w") as archive:
            for part, content in parts.items():
                archive.writestr(part, bytes(damaged) if part == name else content)
        reseal(saved)
        training = Training(0)
        try:
            load_checkpoint(saved, training.model, training.optimizer, training.scheduler)
        except CheckpointError as error:
            assert "\n" not in str(error)


# -------------------------------------------------------------------- a save that fails
def no_space(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_in_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)


class FullDisk(io.BufferedWriter):
    """A file that takes 1500 bytes."""

    left = 1500

    def write(self, data: Any) -> int:
        self.left -= len(data)
        return super().write(data) if self.left >= 0 else no_space()


def fail_in_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = checked_files._HashingWriter
    monkeypatch.setattr(checked_files, "_HashingWriter", lambda file: writer(FullDisk(file.raw)))


def fail_in_rename(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    def fail(monkeypatch: pytest.MonkeyPatch) -> None:
        replace, calls = Path.replace, [0]

        def until_full(self: Path, target: Any) -> Path:
            calls[0] += 1
            return Path(str(no_space())) if calls[0] == number else replace(self, target)

        monkeypatch.setattr(Path, "replace", until_full)

    return fail


FAILURES = [fail_in_fsync, fail_in_write, fail_in_rename(1), fail_in_rename(2)]
NAMES = ["fsync", "write", "first rename", "second rename"]


@pytest.mark.parametrize("fail", FAILURES, ids=NAMES)
def test_a_failed_save_leaves_the_older_file(
    fail: Callable[[pytest.MonkeyPatch], None], saved: Path, tmp_path: Path
) -> None:
    before = read_checkpoint(saved)["model"]
    training = Training()
    with pytest.MonkeyPatch.context() as monkeypatch:
        fail(monkeypatch)
        with pytest.raises(CheckpointError) as caught:
            training.save(tmp_path)
    message = str(caught.value)
    assert str(saved) in message and "No space left" in message and "\n" not in message
    assert files(saved.parent) == {"epoch_2.pt", "epoch_2.pt.sha256"}
    after = read_checkpoint(saved)["model"]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    training.save(tmp_path)  # and where there is space again, the next one succeeds
    load_checkpoint(saved, training.model)


@pytest.mark.parametrize("fail", FAILURES, ids=NAMES)
def test_a_failed_first_save_leaves_nothing_to_load(
    fail: Callable[[pytest.MonkeyPatch], None], seed: int, active_run: SimpleNamespace, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fail(monkeypatch)
        with pytest.raises(CheckpointError):
            Training().save(tmp_path)
    left = files(tmp_path / "vanilla" / f"blue-hen-7_{RUN_ID[:6]}")
    assert "epoch_2.pt" not in left and not any(name.endswith(".tmp") for name in left)


def test_a_real_full_disk(seed: int, active_run: SimpleNamespace, tmp_path: Path) -> None:
    """A limit on the size of files fails inside torch's writer, in C++."""
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        with pytest.raises(CheckpointError):
            Training(1, width=3000).save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(tmp_path / "vanilla" / f"blue-hen-7_{RUN_ID[:6]}") == set()


def test_a_folder_that_cannot_be_made(seed: int, active_run: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "vanilla").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        Training(0).save(tmp_path)


def content_of(epoch: int) -> dict[str, Any]:
    return {
        "format": 1, "epoch": epoch, "global_step": 0, "run_id": RUN_ID,
        "model": {}, "optimizer": None, "scheduler": None, "extra": {},
    }  # fmt: skip


def save_and_be_killed(path: Path, moment: int) -> int:
    """Saves in a process of its own, killed just before its n-th call that makes something last; its exit code."""

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(function)
            if len(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    calls: list[Any] = []
    child = os.fork()
    if child == 0:
        os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)  # type: ignore[method-assign]
        try:
            checkpointing.write_checked(path, content_of(epoch=2))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_at_any_moment_leaves_an_intact_file(tmp_path: Path) -> None:
    """The older one or the newer one."""
    path = tmp_path / "epoch.pt"
    epochs = []
    for moment in range(1, 20):
        checkpointing.write_checked(path, content_of(epoch=1))
        code = save_and_be_killed(path, moment)
        epochs.append(read_checkpoint(path)["epoch"])
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert epochs[0] == 1 and epochs[-1] == 2 and len(epochs) >= 5
    assert epochs == sorted(epochs)
    assert len(digest_path(path).read_text().splitlines()) == 1


# -------------------------------------------------------------------- MLflow
def test_a_run_becomes_the_active_one_again(tmp_path: Path, seed: int) -> None:
    import mlflow
    from mlflow import MlflowClient

    uri = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        with mlflow.start_run(run_name="red-fox") as run:
            path = Training().save(tmp_path)
        MlflowClient().set_terminated(run.info.run_id, "KILLED")
        assert path == tmp_path / "vanilla" / f"red-fox_{run.info.run_id[:6]}" / "epoch_2.pt"
        epoch, global_step, run_id = load_checkpoint(path, Training(0).model)
        assert mlflow.active_run() is None
        resumed = resume_mlflow_run(run_id, epoch, global_step)
        assert resumed.info.run_id == run.info.run_id == mlflow.active_run().info.run_id
        assert Training().save(tmp_path) == path
        tags = MlflowClient().get_run(run_id).data.tags
        assert (tags["resumed_from_epoch"], tags["resumed_from_step"]) == ("2", "17")
        assert MlflowClient().get_run(run_id).info.status == "RUNNING"
    finally:
        mlflow.end_run()
        mlflow.set_tracking_uri(uri)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
