"""Where a run stands, beyond weights and optimizer: what a checkpoint must remember for the run to go on as if nothing was."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.step import StepReport
from transformer_architectures.training.task import Scores


@dataclass
class RunState:
    """Counters and decisions.

    Attributes:
        epoch: of the next batch; batch_in_epoch: micro-batches of it that have been consumed.
        validated_step: the last step whose weights were scored, so that a run killed while scoring scores again.
        scheduled: names of the last checkpoints that were due (not those that a signal asked for): what averaging takes.
        seconds: wall time of all processes of this run so far; training_seconds: the part of it that steps took.
        num_tokens: what the steps saw, not counting padding.
    """

    epoch: int = 0
    batch_in_epoch: int = 0
    global_step: int = 0
    validated_step: int = 0
    best_score: float | None = None
    best_step: int = 0
    validations_since_best: int = 0
    scheduled: list[str] = field(default_factory=list)
    seconds: float = 0.0
    training_seconds: float = 0.0
    num_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return asdict(self)

    def count(self, report: StepReport, micro_batches: int, batches_per_epoch: int) -> None:
        """One optimizer step is done; after the last batch of an epoch the position is the start of the next."""
        self.global_step += 1
        self.num_tokens += report.num_tokens
        self.batch_in_epoch += micro_batches
        if self.batch_in_epoch >= batches_per_epoch:
            self.epoch, self.batch_in_epoch = self.epoch + 1, 0

    @property
    def best_filename(self) -> str:
        """The best weights' file. It bears its step: no later file takes its place before a checkpoint knows of that one."""
        return f"best_{self.best_step}.pt"

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
        """Name of the checkpoint that this step asks for and that is not there yet."""
        name = None
        if self.global_step == 0:
            return None
        if self.batch_in_epoch == 0:
            name = f"epoch_{self.epoch}.pt"
        elif self.is_done(config) or (
            config.checkpoint_interval and self.global_step % config.checkpoint_interval == 0
        ):
            name = f"step_{self.global_step}.pt"
        return None if name in self.scheduled else name

    def note_scores(self, scores: Scores) -> bool:
        """Takes a validation's main score into account; True if it is the best so far."""
        score = next(iter(scores.values()))
        if math.isnan(score):
            score = -math.inf  # nothing is greater than NaN, so it would stay the best for ever
        self.validated_step = self.global_step
        is_best = self.best_score is None or score > self.best_score
        if is_best:
            self.best_score, self.best_step, self.validations_since_best = score, self.global_step, 0
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


__all__ = ["RunState"]
