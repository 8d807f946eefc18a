"""The loop itself, on a task of two lines: what a checkpoint must bring back, and when the run refuses to go on."""

import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from toy_task import ToyData, ToyTask

from transformer_architectures.errors import CheckpointError, DataError, NonFiniteError
from transformer_architectures.training.blocks import compile_blocks, uncompiled
from transformer_architectures.training.checkpointing.checkpoints import read_checkpoint
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.loop import Trainer
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.runs.run_folder import RunFolder, Start
from transformer_architectures.training.runs.signals import Stopped, StopRequest
from transformer_architectures.training.state import RunState
from transformer_architectures.training.task import Scores
from transformer_architectures.training.tracking.tracker import Tracker
from transformer_architectures.transformer_blocks import TransformerBlock
from transformer_architectures.utils.map_batches import MapBatches

BATCHES = 5


class Features:
    """Four rows, a label at each."""

    num_labels = num_tokens = num_positions = 4

    def __init__(self, features: Tensor, indices: tuple[int, ...]) -> None:
        self.features, self.indices = features, indices

    def to(self, device: torch.device) -> "Features":
        return self


class Data(ToyData):
    """`BATCHES` in every epoch, a function of epoch and position."""

    def __init__(self, batches: int = BATCHES, bad: int = -1) -> None:
        self.batches, self.bad = batches, bad

    digest = "toy"

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> Iterable[Features]:
        for number in range(start_batch, self.batches):
            row = 4 * (epoch * self.batches + number)
            features = torch.randn(4, 3, generator=torch.Generator().manual_seed(row))
            yield Features(features * (torch.nan if row == self.bad else 1), tuple(range(row, row + 4)))


class Regression(ToyTask):
    """Noise in the loss and in the validation: both draw from the global generator."""

    def __init__(self) -> None:
        self.during_validation: Callable[[], None] = lambda: None

    def build_model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def loss(self, model: Any, batch: Any) -> Tensor:
        noise = torch.randn(4, 1)
        return (model(batch.features) + noise).square().sum()

    def validate(self, model: Any, work: MapBatches) -> Scores:
        assert not model.training
        torch.randn(7)
        work([0], lambda batch: self.during_validation())
        return {"score": float(model.weight.detach().sum())}


@pytest.fixture
def fit(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """Makes a run; its folder is `<tmp_path>/toy/<name>_000000`."""
    import mlflow

    def make(name: str, start: Start = Start(), data: Data = Data(), **changes: Any) -> Trainer:
        run = SimpleNamespace(info=SimpleNamespace(run_id="0" * 32, run_name=name))
        monkeypatch.setattr(mlflow, "active_run", lambda: run)
        settings: dict[str, Any] = {"max_steps": 12, "seed": seed, "warmup_steps": 3, "ema_decay": 0.8, **changes}
        config = TrainingConfig(checkpoint_root=str(tmp_path), **settings)
        return Trainer(Regression(), data, config, Precision(torch.device("cpu"), None), StopRequest(), start)

    return make


def folder(tmp_path: Path, name: str) -> RunFolder:
    return RunFolder(tmp_path / "toy" / f"{name}_000000")


def start_of(tmp_path: Path, name: str) -> Start:
    """The newest checkpoint of a run."""
    found = folder(tmp_path, name).newest_intact()
    assert found is not None
    return Start(folder(tmp_path, name), *found)


def outcome(trainer: Trainer) -> tuple[Any, ...]:
    """All that a run has become."""
    assert trainer.ema is not None
    weights = [*trainer.model.parameters(), *trainer.ema.parameters()]
    numbers = torch.cat([weight.detach().flatten() for weight in weights]).tolist()
    state = {**trainer.state.as_dict(), "seconds": 0.0, "training_seconds": 0.0}
    state["interval"]["seconds"] = 0.0
    return numbers, torch.get_rng_state().tolist(), state


@pytest.mark.parametrize("interval", [None, 1, 4])
def test_stopped_anywhere_and_continued(fit: Callable[..., Trainer], tmp_path: Path, interval: int | None) -> None:
    """After a step and in the middle of a validation, which draws random numbers too."""
    settings = {"validation_interval": interval, "checkpoint_interval": 3, "accumulation_steps": 2}
    whole = fit("whole", **settings)
    whole.run()
    expected = outcome(whole)
    for stop_at in random.sample(range(1, 12), 4):
        for in_validation in (False, True):
            name = f"stopped{stop_at}{in_validation}"
            run = fit(name, **settings)

            def ask(run: Trainer = run, stop_at: int = stop_at) -> None:
                if run.state.global_step == stop_at:
                    run.should_stop.receive(15, None)

            if in_validation:
                run.task.during_validation = ask  # type: ignore[attr-defined]
            else:
                loss = run.step.summed_loss
                run.step.summed_loss = lambda batch, ask=ask, loss=loss: (ask(), loss(batch))[1]  # type: ignore[misc]
            try:
                run.run()
                assert in_validation  # there was none at that step
            except Stopped as stopped:
                assert stopped.code == 143
                run = fit(name, start_of(tmp_path, name), **settings)
                run.run()
            assert outcome(run) == expected, name


def test_a_run_begins_the_same_whatever_was_drawn_before(fit: Callable[..., Trainer]) -> None:
    first = fit("first")
    first.run()
    expected = outcome(first)
    torch.randn(100)
    second = fit("second")
    second.run()
    assert outcome(second) == expected


def test_a_batch_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(
    fit: Callable[..., Trainer], tmp_path: Path
) -> None:
    run = fit("bad", data=Data(bad=28), checkpoint_interval=3)
    with pytest.raises(NonFiniteError, match="28, 29, 30, 31"):
        run.run()
    assert run.state.global_step == 7
    start = start_of(tmp_path, "bad")
    assert start.checkpoint is not None and start.checkpoint["global_step"] == 6
    assert all(bool(torch.isfinite(tensor).all()) for tensor in start.checkpoint["model"].values())


def test_no_batches_are_an_error_not_an_endless_loop(fit: Callable[..., Trainer]) -> None:
    with pytest.raises(DataError, match="no batch"):
        fit("empty", data=Data(batches=0)).run()


def test_a_checkpoint_without_what_the_config_asks_for_is_refused(fit: Callable[..., Trainer], tmp_path: Path) -> None:
    fit("plain", ema_decay=None).run()
    with pytest.raises(CheckpointError, match="no moving average"):
        fit("plain", start_of(tmp_path, "plain"))
    best = next(folder(tmp_path, "plain").path.glob("best_*.pt"))
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        fit("plain", Start(folder(tmp_path, "plain"), best, read_checkpoint(best)), ema_decay=None)


def test_a_run_does_not_go_on_with_other_data(fit: Callable[..., Trainer], tmp_path: Path) -> None:
    fit("mine").run()
    changed = Data()
    changed.digest = "other"
    with pytest.raises(CheckpointError, match="other data"):
        fit("mine", start_of(tmp_path, "mine"), data=changed)


def test_every_kept_checkpoint_has_the_best_weights_that_it_needs(fit: Callable[..., Trainer], tmp_path: Path) -> None:
    """Also an older one, after scores have become better."""
    run = fit("mine", checkpoint_interval=1, validation_interval=2)
    scores = iter([1.0, 3.0, 2.0, 4.0, 5.0, 6.0])
    run.task.validate = lambda model, work: {"score": next(scores)}  # type: ignore[method-assign]
    mine = folder(tmp_path, "mine")
    mine.path.mkdir(parents=True)
    notes = [mine.path / name for name in ("step_times.json", "epoch_notes.json", "step_1-copy.json")]
    for path in notes:
        path.write_text("{}")
    run.run(MagicMock(spec=Tracker, run_folder=mine.path))
    assert all(path.exists() for path in notes)  # whose names begin like those of checkpoints
    assert len(mine.checkpoints()) == 3 < len(list(mine.path.glob("*.pt")))
    for path in mine.checkpoints():
        state = RunState.from_dict(read_checkpoint(path)["extra"]["state"])
        assert (mine.path / state.best_filename).is_file()
    assert {path.name for path in mine.path.glob("*.pt")} == run.state.files_to_keep()


def test_the_end_of_a_run_is_logged_too(fit: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]) -> None:
    fit("mine", log_interval=5, max_steps=7).run()
    lines = [line for line in capsys.readouterr().err.splitlines() if "grad_norm" in line]
    assert ["step 5/7" in lines[0], "step 7/7" in lines[1], len(lines)] == [True, True, 2]


class Shifted(TransformerBlock):
    """The simplest block; the checks of shapes that tests turn on cannot be compiled."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(3, 3)

    def forward(self, hidden_states: Tensor, *unused: Any) -> Tensor:
        return self.linear(hidden_states) + 1


def test_every_shape_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else some would be left to Python, and which ones would depend on where a resumed run goes on. Equal blocks share a graph."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    model = nn.Sequential(Shifted(), Shifted(), Shifted())
    names = list(model.state_dict())
    compile_blocks(model)
    for rows in range(2, 22):
        model(torch.ones(rows, 3, requires_grad=True))
    assert counter.frame_count == 20
    with uncompiled():
        model(torch.ones(40, 3))
    assert counter.frame_count == 20
    assert list(model.state_dict()) == names
