"""Where a run stands, beyond weights and optimizer: what a checkpoint must remember for the run to go on as if nothing was."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from transformer_architectures.metrics.metric import Metric
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.step import StepReport
from transformer_architectures.training.task import Scores


@dataclass
class Interval:
    """Sums of the steps since the last log line: a checkpoint keeps them, so that a resumed run logs the same means."""

    loss: float = 0.0
    num_labels: int = 0
    num_tokens: int = 0
    num_positions: int = 0
    grad_norm: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0

    def add(self, report: StepReport, seconds: float, waiting_seconds: float) -> None:
        """Counts one step."""
        self.loss += report.loss * report.num_labels
        self.num_labels += report.num_labels
        self.num_tokens += report.num_tokens
        self.num_positions += report.num_positions
        self.grad_norm += report.grad_norm
        self.steps += 1
        self.seconds += seconds
        self.waiting_seconds += waiting_seconds

    def metrics(self, learning_rate: float, unit: str) -> dict[str, float]:
        """Means over the interval; throughput does not count padding, and data wait is the share of time that had no batch."""
        return {
            "train/loss": self.loss / self.num_labels,
            "train/grad_norm": self.grad_norm / self.steps,
            "train/learning_rate": learning_rate,
            f"train/{unit}_per_second": self.num_tokens / self.seconds,
            "train/padding_share": 1 - self.num_tokens / self.num_positions,
            "train/data_wait_share": self.waiting_seconds / self.seconds,
        }


def weights_filename(step: int) -> str:
    """Where the weights of a step are kept as long as they are, or were, the best."""
    return f"best_{step}.pt"


@dataclass
class RunState:
    """Counters and decisions.

    Attributes:
        epoch: of the next batch; batch_in_epoch: micro-batches of it that have been consumed.
        validated_step: the last step whose weights were scored, so that a run killed while scoring scores again.
        scheduled: names of the last checkpoints that were due (not those that a signal asked for): what averaging takes.
            Each with the step that was best at that time, whose weights it needs.
        seconds: wall time of all processes of this run so far; training_seconds: the part of it that steps took.
        num_tokens: what the steps saw, not counting padding.
        interval: what has been added up for the next log line.
    """

    epoch: int = 0
    batch_in_epoch: int = 0
    global_step: int = 0
    validated_step: int = 0
    best_score: float | None = None
    best_step: int = 0
    validations_since_best: int = 0
    scheduled: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0
    num_tokens: int = 0
    interval: Interval = field(default_factory=Interval)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunState":
        """The state that `as_dict` gave.

        Raises:
            TypeError: it is another's.
        """
        state = cls(**{**values, "interval": Interval(**values["interval"])})
        for part, of_new_run in ((state, cls()), (state.interval, Interval())):
            for name, value in vars(of_new_run).items():
                types = (int, float, NoneType) if name == "best_score" else (type(value), int)
                if not isinstance(getattr(part, name), types):
                    raise TypeError(f"{name} is no {type(value).__name__}")
        return state

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return asdict(self)

    def count(
        self,
        report: StepReport,
        micro_batches: int,
        batches_per_epoch: int,
        seconds: float,
        waiting_seconds: float = 0.0,
    ) -> None:
        """One optimizer step is done; after the last batch of an epoch the position is the start of the next."""
        self.interval.add(report, seconds, waiting_seconds)
        self.training_seconds += seconds
        self.global_step += 1
        self.num_tokens += report.num_tokens
        self.batch_in_epoch += micro_batches
        if self.batch_in_epoch >= batches_per_epoch:
            self.epoch, self.batch_in_epoch = self.epoch + 1, 0

    @property
    def best_filename(self) -> str:
        """The best weights' file. It bears its step: no later file takes its place before a checkpoint knows of that one."""
        return weights_filename(self.best_step)

    def note_checkpoint(self, filename: str, keep: int) -> None:
        """A checkpoint that was due is about to be written; only the last ``keep`` of them stay."""
        self.scheduled[filename] = self.best_step
        self.scheduled = dict(list(self.scheduled.items())[-keep:])

    def files_to_keep(self) -> set[str]:
        """The checkpoints that stay, and what they need to go on."""
        return {*self.scheduled, *map(weights_filename, self.scheduled.values()), self.best_filename}

    def is_validation_due(self, config: TrainingConfig) -> bool:
        """Every `validation_interval` steps (or at the end of an epoch), and at the end of the run; once for each step."""
        if self.global_step == self.validated_step:
            return False
        if config.validation_interval is None:
            is_time = self.batch_in_epoch == 0
        else:
            is_time = self.global_step % config.validation_interval == 0
        return is_time or self.is_done(config)

    def due_checkpoint(self, config: TrainingConfig) -> str | None:
        """Name, without its suffix, of the checkpoint that this step calls for and that has not been written yet."""
        name = None
        if self.global_step == 0:
            return None
        if self.batch_in_epoch == 0:
            name = f"epoch_{self.epoch}"
        elif self.is_done(config) or (
            config.checkpoint_interval and self.global_step % config.checkpoint_interval == 0
        ):
            name = f"step_{self.global_step}"
        # Without suffixes: a run may be resumed with or without sharding, and then writes checkpoints of the other form.
        return None if name in {Path(filename).stem for filename in self.scheduled} else name

    def note_scores(self, scores: Scores, main: Metric) -> bool:
        """Takes a validation's main score into account; True if it is the best so far."""
        score = scores[main.name]
        self.validated_step = self.global_step
        is_best = self.best_score is None or main.is_better(score, self.best_score)
        if is_best:
            worst = -math.inf if main.better == "higher" else math.inf
            # Nothing is better than NaN, so it would stay the best for ever.
            self.best_score = worst if math.isnan(score) else score
            self.best_step, self.validations_since_best = self.global_step, 0
        else:
            self.validations_since_best += 1
        return is_best

    def is_done(self, config: TrainingConfig) -> bool:
        """Whether a limit is reached or the score has stopped improving."""
        return (
            (config.max_steps is not None and self.global_step >= config.max_steps)
            or (config.max_epochs is not None and self.epoch >= config.max_epochs)
            or (config.patience is not None and self.validations_since_best >= config.patience)
        )
