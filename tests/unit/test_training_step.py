"""One optimizer step: the same for any cut of the batch, refused where it is not finite; schedules, averages, counters."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from poison import Poison
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from transformer_architectures.architectures.vit import VisionTransformer, VitModelConfig
from transformer_architectures.embedding import TokenEmbedding
from transformer_architectures.errors import NonFiniteError
from transformer_architectures.metrics.metric import Metric
from transformer_architectures.positions import LearnedPositions
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import SummedLoss
from transformer_architectures.training.optimization import (
    build_ema,
    build_optimizer,
    build_scheduler,
    decayed_parameters,
    mean_of_weights,
    schedule_factor,
)
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.state import RunState
from transformer_architectures.training.step import StepReport, TrainingStep

IGNORED = -100
MAIN = Metric("main")
CLASSES = 6


@dataclass(frozen=True)
class Rows:
    """Some rows of features, a label at each or none."""

    features: Tensor
    labels: Tensor
    indices: tuple[int, ...]

    @property
    def num_labels(self) -> int:
        return int((self.labels != IGNORED).sum())

    @property
    def num_tokens(self) -> int:
        return self.num_labels + 1

    @property
    def num_positions(self) -> int:
        return self.labels.numel()

    def to(self, device: torch.device) -> "Rows":
        return self

    def cut(self, *bounds: int) -> list["Rows"]:
        parts = [slice(*pair) for pair in zip((0, *bounds), (*bounds, len(self.labels)), strict=True)]
        return [Rows(self.features[part], self.labels[part], self.indices[part]) for part in parts]


def rows(number: int) -> Rows:
    """Many of them without a label, so that equal cuts have unequal numbers of labels."""
    labels = torch.where(torch.rand(number) < 0.4, torch.tensor(IGNORED), torch.randint(CLASSES, (number,)))
    labels[0] = 1
    return Rows(torch.randn(number, 4, dtype=torch.float64), labels, tuple(range(100, 100 + number)))


def summed_loss(model: nn.Module, batch: Rows) -> Tensor:
    return F.cross_entropy(model(batch.features), batch.labels, ignore_index=IGNORED, reduction="sum")


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        **{"max_steps": 100, "learning_rate": 0.01, "warmup_steps": 0, "schedule": "constant", **changes}
    )


def training_step(settings: TrainingConfig, loss: Callable[..., Tensor] = summed_loss) -> TrainingStep:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, CLASSES)).double()
    optimizer = build_optimizer(model, settings)
    return TrainingStep(
        model=model,
        summed_loss=SummedLoss(model, loss),
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, settings),
        precision=Precision(torch.device("cpu"), None),
        clip_norm=settings.clip_norm,
        ema=build_ema(model, settings),
    )


def twin(step: TrainingStep, settings: TrainingConfig) -> TrainingStep:
    """Another one with the same weights."""
    other = training_step(settings, step.summed_loss.loss)
    other.model.load_state_dict(step.model.state_dict())
    if other.ema is not None:
        other.ema.module.load_state_dict(step.model.state_dict())
    return other


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()


# -------------------------------------------------------------------- normalisation
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulated_micro_batches_are_one_large_batch(seed: int, clip_norm: float | None) -> None:
    settings = config(clip_norm=clip_norm, weight_decay=0.1, ema_decay=0.9)
    whole = training_step(settings)
    parts = twin(whole, settings)
    for _ in range(4):
        batch = rows(24)
        cuts = batch.cut(*sorted(random.sample(range(1, 24), 4)))
        one, other = whole([batch]), parts(cuts)
        torch.testing.assert_close(gradient(parts.model), gradient(whole.model), rtol=1e-10, atol=1e-12)
        assert math.isclose(one.loss, other.loss, rel_tol=1e-12)
        assert math.isclose(one.grad_norm, other.grad_norm, rel_tol=1e-10)
        assert (one.num_labels, one.num_positions) == (other.num_labels, other.num_positions) == (batch.num_labels, 24)
    torch.testing.assert_close(weights(parts.model), weights(whole.model), rtol=1e-8, atol=1e-10)
    assert parts.ema is not None and whole.ema is not None
    torch.testing.assert_close(weights(parts.ema), weights(whole.ema), rtol=1e-8, atol=1e-10)


def test_the_loss_is_the_mean_over_all_labels(seed: int) -> None:
    """Not the mean of the micro-batches' means, which weighs labels by the company that they keep."""
    step = training_step(config(clip_norm=None))
    batch = rows(30)
    expected = F.cross_entropy(step.model(batch.features), batch.labels, ignore_index=IGNORED)
    step.model.zero_grad()
    expected.backward()
    wanted = gradient(step.model)
    report = step(batch.cut(3, 20))
    assert math.isclose(report.loss, float(expected.detach()), rel_tol=1e-12)
    torch.testing.assert_close(gradient(step.model), wanted, rtol=1e-10, atol=1e-12)
    assert math.isclose(report.grad_norm, float(wanted.norm()), rel_tol=1e-10)


def test_a_micro_batch_without_labels_changes_nothing(seed: int) -> None:
    settings = config()
    one = training_step(settings)
    other = twin(one, settings)
    batch, empty = rows(8), rows(5)
    empty = replace(empty, labels=torch.full((5,), IGNORED))
    one([batch])
    other([empty, batch])
    torch.testing.assert_close(weights(one.model), weights(other.model), rtol=1e-12, atol=0.0)


def test_gradients_of_an_earlier_step_are_forgotten(seed: int) -> None:
    settings = config(clip_norm=None)
    fresh = training_step(settings)
    used = twin(fresh, settings)
    first, second = rows(8), rows(8)
    used([first])
    with torch.no_grad():
        used.model.load_state_dict(fresh.model.state_dict())
    fresh([second])
    used([second])
    assert torch.equal(gradient(fresh.model), gradient(used.model))


# -------------------------------------------------------------------- clipping
def test_clipping_keeps_the_direction_and_bounds_the_length(seed: int) -> None:
    free = training_step(config(clip_norm=None))
    batch = rows(20)
    bounded = twin(free, config(clip_norm=1e-3))
    loose = twin(free, config(clip_norm=1e3))
    reports = [step([batch]) for step in (free, bounded, loose)]
    assert reports[0].grad_norm == reports[1].grad_norm == reports[2].grad_norm > 1e-3  # before clipping
    whole, clipped = gradient(free.model), gradient(bounded.model)
    assert math.isclose(float(clipped.norm()), 1e-3, rel_tol=1e-2) and float(clipped.norm()) <= 1e-3
    torch.testing.assert_close(clipped / clipped.norm(), whole / whole.norm())
    assert torch.equal(gradient(loose.model), whole)


# -------------------------------------------------------------------- what is not finite
def bad_loss(model: nn.Module, batch: Rows) -> Tensor:
    loss = summed_loss(model, batch)
    return loss * math.nan if 105 in batch.indices else loss


def bad_gradient(model: nn.Module, batch: Rows) -> Tensor:
    """A finite loss; one number of one gradient is not."""
    loss = summed_loss(model, batch)
    if 105 in batch.indices:
        (last,) = (module for module in model.modules() if isinstance(module, nn.LayerNorm))
        loss = loss + 0 * Poison.apply(last.weight).sum()
    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("loss", [bad_loss, bad_gradient])
def test_what_is_not_finite_never_reaches_the_weights(
    seed: int, monkeypatch: pytest.MonkeyPatch, loss: Callable[..., Tensor], clip_norm: float | None, value: float
) -> None:
    monkeypatch.setattr(Poison, "value", value)
    step = training_step(config(clip_norm=clip_norm, ema_decay=0.9, warmup_steps=10), loss)
    good = rows(5)
    step([good])
    assert step.ema is not None
    before = [copy.deepcopy(part.state_dict()) for part in (step.model, step.ema, step.optimizer, step.scheduler)]
    with pytest.raises(NonFiniteError) as caught:
        step(rows(12).cut(4, 9))
    assert str(list(range(100, 112))) in str(caught.value) and "\n" not in str(caught.value)
    after = [part.state_dict() for part in (step.model, step.ema, step.optimizer, step.scheduler)]
    torch.testing.assert_close(after, before, rtol=0.0, atol=0.0)
    assert bool(torch.isfinite(weights(step.model)).all())
    step([good])  # the bad gradients do not linger either
    assert bool(torch.isfinite(weights(step.model)).all()) and bool(torch.isfinite(weights(step.ema)).all())


def test_a_step_without_any_label_is_refused(seed: int) -> None:
    step = training_step(config())
    before = weights(step.model)
    with pytest.raises(NonFiniteError, match="101"):
        step([replace(rows(3), labels=torch.full((3,), IGNORED))])
    assert torch.equal(weights(step.model), before)


# -------------------------------------------------------------------- schedules
def learning_rates(settings: TrainingConfig, steps: int) -> list[float]:
    """The rate of each step, the first one first, as a share of the peak."""
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer(nn.ParameterList([parameter]), settings)
    scheduler = build_scheduler(optimizer, settings)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / settings.learning_rate)
        parameter.grad = torch.ones(2, 2)
        optimizer.step()
        scheduler.step()
    return rates


FORMS: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, warmup, last: 1.0,
    "linear": lambda step, warmup, last: (last - step) / (last - warmup),
    "cosine": lambda step, warmup, last: (1 + math.cos(math.pi * (step - warmup) / (last - warmup))) / 2,
    "inverse_sqrt": lambda step, warmup, last: math.sqrt(warmup / step),
}


@pytest.mark.parametrize("schedule", FORMS)
def test_schedules_are_closed_forms_of_the_step(seed: int, schedule: str) -> None:
    warmup, last = random.randint(1, 20), random.randint(40, 80)
    settings = config(schedule=schedule, warmup_steps=warmup, max_steps=last)
    expected = [step / warmup if step <= warmup else FORMS[schedule](step, warmup, last) for step in range(1, last + 1)]
    assert learning_rates(settings, last) == pytest.approx(expected, abs=1e-12)
    assert max(expected) == expected[warmup - 1] == 1.0
    factor = schedule_factor(settings)
    anywhere = random.randrange(last)
    assert factor(anywhere) == pytest.approx(expected[anywhere], abs=1e-12)  # whatever was asked before
    assert factor(10 * last) >= 0.0


def test_a_schedule_without_warm_up_starts_at_its_peak() -> None:
    for schedule in ("constant", "inverse_sqrt"):
        assert learning_rates(config(schedule=schedule, warmup_steps=0), 1) == [1.0]
    assert learning_rates(config(schedule="inverse_sqrt", warmup_steps=0), 4)[3] == pytest.approx(0.5)


def test_a_schedule_goes_on_where_it_was(seed: int) -> None:
    settings = config(schedule="cosine", warmup_steps=5, max_steps=40)
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, settings)
    scheduler = build_scheduler(optimizer, settings)
    for _ in range(17):
        optimizer.step()
        scheduler.step()
    other = build_optimizer(model, settings)
    resumed: LambdaLR = build_scheduler(other, settings)
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for _ in range(10):
        for pair in ((optimizer, scheduler), (other, resumed)):
            pair[0].step()
            pair[1].step()
        assert scheduler.get_last_lr() == resumed.get_last_lr()


def test_only_matrices_decay(seed: int) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = build_optimizer(model, config(weight_decay=0.5, learning_rate=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in model.parameters():
        expected = 0.95 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected))


def test_what_is_only_added_does_not_decay() -> None:
    config = VitModelConfig(
        image_size=8, patch_size=4, embed_dim=8, num_heads=2, ff_dim=16, num_layers=1, num_registers=2
    )
    decayed = decayed_parameters(VisionTransformer(config))
    stacked = (
        "self_attention.attention.query_key_value self_attention.attention.output feedforward.expand feedforward.output"
    )
    assert decayed == {"patch_embedding.weight", *(f"encoder.blocks.0.{name}.weight" for name in stacked.split())}
    decayed = decayed_parameters(nn.ModuleList([LearnedPositions(4, 3), TokenEmbedding(5, 4)]))
    assert decayed == {"1.weight"}


def test_learning_rates_are_scaled_by_the_name_of_the_parameter(seed: int) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    settings = config(weight_decay=0.5, learning_rate=0.1)
    optimizer = build_optimizer(model, settings, lambda name: 0.5 ** (2 - int(name.split(".")[0])))
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == pytest.approx(
            (0.1 * 0.5 ** (2 - int(name[0])), 0.5 * (parameter.dim() == 2))
        ), name
    assert build_scheduler(optimizer, settings).get_last_lr()[0] == pytest.approx(0.1)  # what is logged
    usual = build_optimizer(model, settings)
    assert [len(group["params"]) for group in usual.param_groups] == [2, 4]


# -------------------------------------------------------------------- averages
def test_the_moving_average_is_the_recursion(seed: int) -> None:
    decay = random.uniform(0.5, 0.99)
    step = training_step(config(ema_decay=decay))
    assert step.ema is not None
    expected = None
    for _ in range(6):
        step([rows(10)])
        now = weights(step.model)
        expected = now if expected is None else decay * expected + (1 - decay) * now
        torch.testing.assert_close(weights(step.ema.module), expected, rtol=1e-12, atol=1e-14)
    assert not torch.equal(weights(step.ema.module), weights(step.model))


def test_without_a_decay_there_is_no_average() -> None:
    assert training_step(config()).ema is None


def test_the_mean_of_several_checkpoints(seed: int) -> None:
    dicts = [{"w": torch.randn(3, 4), "n": torch.tensor(index)} for index in range(3)]
    mean = mean_of_weights(dicts)
    torch.testing.assert_close(mean["w"], torch.stack([part["w"] for part in dicts]).mean(0))
    assert mean["w"].dtype == torch.float32 and mean["n"].dtype == torch.int64 and int(mean["n"]) == 1
    tiny = [{"w": torch.full((2,), 1.0 + index * 2**-23)} for index in range(4)]  # too near for sums in single
    assert torch.equal(mean_of_weights([tiny[0]] * 7)["w"], tiny[0]["w"])


# -------------------------------------------------------------------- where a run stands
REPORT = StepReport(loss=1.0, grad_norm=1.0, num_labels=10, num_tokens=20, num_positions=30)


def travel(
    settings: TrainingConfig, batches: int, scores: Iterator[float] | None = None
) -> list[tuple[int, bool, str | None]]:
    """What falls due at each step of a run with so many micro-batches per epoch."""
    state, seen = RunState(), []
    while not state.is_done(settings):
        group = min(settings.accumulation_steps, batches - state.batch_in_epoch)
        state.count(REPORT, group, batches, seconds=0.5)
        validates = state.is_validation_due(settings)
        if validates:
            state.note_scores({"bleu": next(scores) if scores else 1.0, "loss": -1.0}, Metric("bleu"))
        checkpoint = state.due_checkpoint(settings)
        if checkpoint is not None:
            state.note_checkpoint(checkpoint, keep=99)
        assert not state.is_validation_due(settings) and state.due_checkpoint(settings) is None  # once for each step
        seen.append((state.global_step, validates, checkpoint))
    return seen


def test_epochs_and_positions() -> None:
    state = RunState()
    for position in ((0, 2), (0, 4), (1, 0), (1, 2)):  # five micro-batches, two to a step, the last step has one
        state.count(REPORT, 1 if position == (1, 0) else 2, 5, seconds=0.5)
        assert (state.epoch, state.batch_in_epoch) == position
    assert (state.global_step, state.num_tokens) == (4, 80)
    assert RunState.from_dict(state.as_dict()) == state


def test_the_share_of_time_without_a_batch() -> None:
    state = RunState()
    for seconds, waiting_seconds in ((1.0, 0.75), (3.0, 0.25)):
        state.count(REPORT, 1, 5, seconds, waiting_seconds)
    assert state.interval.metrics(0.1, "tokens")["train/data_wait_share"] == pytest.approx(0.25)


def test_checkpoints_and_validations_by_epoch() -> None:
    assert travel(config(max_steps=None, max_epochs=2, accumulation_steps=2), 3) == [
        (1, False, None),
        (2, True, "epoch_1"),
        (3, False, None),
        (4, True, "epoch_2"),
    ]


def test_checkpoints_and_validations_by_step() -> None:
    settings = config(max_steps=7, checkpoint_interval=2, validation_interval=3)
    assert travel(settings, 4) == [
        (1, False, None),
        (2, False, "step_2"),
        (3, True, None),
        (4, False, "epoch_1"),
        (5, False, None),
        (6, True, "step_6"),
        (7, True, "step_7"),  # the end of a run is always scored and kept
    ]


def test_a_run_stops_when_its_score_does_not_improve() -> None:
    settings = config(max_steps=100, validation_interval=2, patience=2)
    seen = travel(settings, 1000, iter([1.0, 3.0, 2.0, 3.0, 9.0]))
    assert seen[-1] == (8, True, "step_8")
    state = RunState()
    improved = []
    for step, score in ((2, 1.0), (4, 3.0), (6, 3.0), (8, 2.0)):
        state.global_step = step
        improved.append(state.note_scores({"main": score, "other": step}, MAIN))
    assert improved == [True, True, False, False]
    assert (state.best_score, state.best_step, state.best_filename, state.validations_since_best) == (
        3.0,
        4,
        "best_4.pt",
        2,
    )


def test_a_run_that_was_killed_while_it_scored_scores_again() -> None:
    settings = config(max_steps=10, validation_interval=5)
    state = RunState(global_step=5, batch_in_epoch=5)
    assert state.is_validation_due(settings)
    state.note_scores({"main": 0.0}, MAIN)
    assert not state.is_validation_due(settings)
    assert RunState(global_step=10, validated_step=5, batch_in_epoch=1).is_validation_due(settings)
    assert RunState().due_checkpoint(settings) is None  # nothing has been trained


def test_a_score_that_is_no_number_is_never_the_best(seed: int) -> None:
    state = RunState(global_step=1)
    state.note_scores({"main": math.nan}, MAIN)
    state.global_step = 2
    assert state.note_scores({"main": 0.1}, MAIN) and state.best_step == 2
    state.global_step = 3
    assert not state.note_scores({"main": math.nan}, MAIN) and state.best_score == 0.1


def test_the_warmup_is_a_part_of_the_run() -> None:
    assert TrainingConfig(max_steps=60).warmup == 6 and TrainingConfig(max_steps=10**6).warmup == 1000
    assert TrainingConfig(max_epochs=3).warmup == 1000 and TrainingConfig(max_steps=60, warmup_steps=0).warmup == 0
