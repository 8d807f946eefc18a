"""The training loop, the same for every architecture. `Trainer.run` reads from top to bottom.

What depends on the number of processes, and on how they divide the model, is `Parallelism`'s business.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from torch import nn

from transformer_architectures.datasets.loading import iterate_with_timeout
from transformer_architectures.errors import CheckpointError, DataError
from transformer_architectures.training.blocks import checkpoint_activations, compile_blocks, uncompiled
from transformer_architectures.training.checkpointing.checkpoints import (
    random_state,
    remove_checkpoints,
    restoring,
    save_checkpoint,
    seed_generators,
    set_random_state,
)
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.parallelism import build_parallelism
from transformer_architectures.training.distributed.ranks import DistributedMapBatches, Ranks
from transformer_architectures.training.grad_logging import GradientLogger
from transformer_architectures.training.optimization import build_ema, build_optimizer, build_scheduler
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.progress import ProgressReport
from transformer_architectures.training.runs.run_folder import RunFolder, Start
from transformer_architectures.training.runs.signals import Stopped, StopRequest
from transformer_architectures.training.state import Interval, RunState
from transformer_architectures.training.step import TrainingStep
from transformer_architectures.training.task import Batch, DataModule, Task
from transformer_architectures.training.tracking.tracker import Tracker
from transformer_architectures.utils.moved import renamed


class Trainer:
    """One run of one task: the model, the optimizer, the position in the data, and the steps that change them.

    Nothing is written before `run`: a start that has to be refused is refused here.

    Args:
        data: set up already.
        should_stop: whether a signal has asked the run to stop.
        start: the checkpoint to go on from, if there is one.
        started: when this process began its work, by ``time.perf_counter``; now if not given.

    Raises:
        ConfigError: task and config do not fit together.
        CheckpointError: the checkpoint does not fit the model, or belongs to other data.
        DataError: there is nothing to train on.
    """

    def __init__(
        self,
        task: Task,
        data: DataModule,
        config: TrainingConfig,
        precision: Precision,
        should_stop: StopRequest,
        start: Start = Start(),
        ranks: Ranks = Ranks(),
        started: float | None = None,
    ) -> None:
        self.task, self.data, self.config, self.precision = task, data, config, precision
        self.should_stop, self.ranks = should_stop, ranks
        self.parallelism = build_parallelism(config, precision, ranks)
        self.tracker: Tracker | None = None
        self.state = RunState()
        # Earlier processes of this run count as if they had just ended.
        self.started = time.perf_counter() if started is None else started

        # ------------------------------------------------------------ model
        seed_generators(config.seed)
        self.model = task.build_model()
        seed_generators(config.seed + ranks.rank)  # each rank draws its own dropout masks
        # Copies are made first, the moving average too: a copy of a compiled block would still call the original's forward.
        self.parallelism.place(self.model)
        self.ema = build_ema(self.model, config)
        if config.compile:
            compile_blocks(self.model)
        if config.activation_checkpointing:
            checkpoint_activations(self.model)
        summed_loss = self.parallelism.wrap(self.model, task.loss, self.ema)

        # ------------------------------------------------------------ optimizer
        self.optimizer = build_optimizer(self.model, config, partial(task.learning_rate_scale, self.model))
        self.scheduler = build_scheduler(self.optimizer, config)
        self.step = TrainingStep(
            model=self.model,
            summed_loss=summed_loss,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            precision=precision,
            clip_norm=config.clip_norm,
            ema=self.ema,
            parallelism=self.parallelism,
        )

        # ------------------------------------------------------------ checkpoint
        if start.checkpoint is not None:
            with restoring(str(start.path)):
                self.load(start.checkpoint, str(start.path))
        if data.batches_per_epoch(self.state.epoch) == 0:
            raise DataError("there is no batch to train on: too few rows for this number of processes")

    # ---------------------------------------------------------------- the loop
    def run(self, tracker: Tracker | None = None) -> None:
        """Trains to the end that the config sets.

        Args:
            tracker: where metrics go, and whose run the checkpoints belong to; None on all ranks but the first.

        Raises:
            Stopped: a signal has asked for it; a checkpoint has been written.
            NonFiniteError: loss or gradient became NaN or infinite.
        """
        config, state, self.tracker, histograms = self.config, self.state, tracker, None
        if tracker is not None and config.histogram_interval is not None:
            histograms = GradientLogger(tracker, config.histogram_interval)
        with ProgressReport(self.total_steps(), state.global_step, enabled=self.ranks.is_main) as progress:
            self.validate_and_save_if_due(progress)  # a run that was stopped during validation still has to do it
            started = time.perf_counter()
            while not state.is_done(config):
                for micro_batches, waited in self.step_batches(state.epoch, state.batch_in_epoch):
                    # ------------------------------------------------ step
                    report = self.step(micro_batches)
                    # ------------------------------------------------ counters
                    now = time.perf_counter()
                    batches_per_epoch = self.data.batches_per_epoch(state.epoch)
                    state.count(report, len(micro_batches), batches_per_epoch, now - started, waited)
                    state.seconds, started = now - self.started, now
                    # ------------------------------------------------ logs
                    progress.advance(state.global_step)
                    if config.histogram_interval is not None and state.global_step % config.histogram_interval == 0:
                        self.parallelism.log_histograms(histograms, self.model, state.global_step)
                    if state.global_step % config.log_interval == 0:
                        self.log(progress)
                    # ------------------------------------------------ signals, validation, checkpoint
                    self.save_and_stop_if_asked()
                    if self.validate_and_save_if_due(progress):
                        started = time.perf_counter()
                    if state.is_done(config):
                        break
            if state.interval.steps:  # the steps since the last log line
                self.log(progress)

    def total_steps(self) -> int | None:
        """Steps that the limits allow. With `max_epochs` it is an estimate: epochs differ a little in length."""
        if self.config.max_epochs is None:
            return self.config.max_steps
        steps_per_epoch = -(-self.data.batches_per_epoch(0) // self.config.accumulation_steps)
        return min(self.config.max_epochs * steps_per_epoch, self.config.max_steps or sys.maxsize)

    def step_batches(self, epoch: int, start_batch: int) -> Iterator[tuple[list[Batch], float]]:
        """The micro-batches of each optimizer step, and the seconds spent waiting for them. The last group of an epoch may be
        smaller."""
        asked = time.perf_counter()
        loader = self.data.train_dataloader(epoch=epoch, start_batch=start_batch)
        batches = iterate_with_timeout(loader, self.config.hang_timeout)
        while group := list(islice(batches, self.config.accumulation_steps)):
            yield group, time.perf_counter() - asked
            asked = time.perf_counter()

    def validate_and_save_if_due(self, progress: ProgressReport) -> bool:
        """Validates and writes a checkpoint where this step calls for it and it is not done yet; whether anything was due."""
        is_validation_due = self.state.is_validation_due(self.config)
        if is_validation_due:
            self.validate(progress)
        name = self.state.due_checkpoint(self.config)
        if name is not None:
            filename = f"{name}{self.parallelism.checkpoint_suffix}"
            self.state.note_checkpoint(filename, self.config.keep_checkpoints)
            self.save(filename)
            self.prune()
        return is_validation_due or name is not None

    # ---------------------------------------------------------------- stopping
    def save_and_stop_if_asked(self) -> None:
        """Writes a checkpoint and raises `Stopped` if any rank has received a signal."""
        if self.ranks.any(self.should_stop()):
            self.save(f"step_{self.state.global_step}{self.parallelism.checkpoint_suffix}")
            raise self.stopped()

    def stop_if_asked(self) -> None:
        """Raises `Stopped` if any rank has received a signal: for the end of a run, whose last checkpoint is written already."""
        if self.ranks.any(self.should_stop()):
            raise self.stopped()

    def stopped(self) -> Stopped:
        """What every rank raises when any of them has received a signal."""
        return Stopped(max(self.ranks.gather(self.should_stop.exit_code)))

    # ---------------------------------------------------------------- watching
    def log(self, progress: ProgressReport) -> None:
        """Shows and tracks the means over the steps since the last call."""
        metrics = self.state.interval.metrics(float(self.scheduler.get_last_lr()[0]), self.task.unit)
        self.state.interval = Interval()
        progress.show(self.state.epoch, self.state.global_step, metrics)
        if self.tracker is not None:
            self.tracker.log_metrics(metrics, self.state.global_step)

    def validate(self, progress: ProgressReport) -> None:
        """Scores the weights that would be exported (the moving average where there is one), and saves them if they are the best."""
        scored = self.parallelism.full_model(self.model if self.ema is None else self.ema.module)
        random_before = random_state()

        def stop_if_asked() -> None:
            if self.ranks.any(self.should_stop()):
                set_random_state(random_before)  # the resumed run validates again
                self.save_and_stop_if_asked()

        scored.eval()
        work = DistributedMapBatches(self.ranks, stop_if_asked, self.config.hang_timeout)
        with uncompiled():
            scores = self.ranks.agree(self.task.validate(scored, work))
            samples = self.task.samples(scored, "validation") if self.ranks.is_main else []
        set_random_state(random_before)  # a run that was killed between validation and checkpoint validates again
        is_best = self.state.note_scores(scores, self.task.metrics[0])
        if is_best:
            self.save_best(scored)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        progress.say(f"step {self.state.global_step}  validation  {shown}{'  (best so far)' if is_best else ''}")
        if self.tracker is not None:
            metrics = {f"validation/{name}": value for name, value in scores.items()}
            self.tracker.log_metrics(metrics, self.state.global_step)
            self.tracker.log_table(samples, f"samples/step_{self.state.global_step}.json")

    # ---------------------------------------------------------------- checkpoints
    def save(self, filename: str) -> None:
        """Writes a checkpoint with everything that `load` needs to go on as if the run had not stopped."""
        self.parallelism.save(
            self.model, self.optimizer, self.scheduler, self.ema, self.extra_state(), self.place(filename)
        )

    def save_best(self, scored: nn.Module) -> None:
        """Writes the weights with the best validation score so far; the model folder is made from them."""
        extra = self.extra_state()
        if self.ranks.is_main:
            save_checkpoint(scored, None, None, extra_state=extra, **self.place(self.state.best_filename))

    def extra_state(self) -> dict[str, Any]:
        """The state of the run beside model, optimizer and schedule."""
        return {
            "state": self.state.as_dict(),
            "data": self.data.digest,
            "random_states": self.ranks.gather(random_state()),
        }

    def place(self, filename: str) -> dict[str, Any]:
        """Where a checkpoint goes, as keyword arguments of `save_checkpoint`."""
        return {
            "epoch": self.state.epoch,
            "global_step": self.state.global_step,
            "checkpoint_root": self.config.checkpoint_root,
            "model_name": self.task.architecture,
            "filename": filename,
        }

    def prune(self) -> None:
        """Removes all checkpoints but the last scheduled ones and the best weights of each, also those written on a signal."""
        if self.tracker is not None:
            folder, kept = RunFolder(self.tracker.run_folder), self.state.files_to_keep()
            saved = [*folder.checkpoints(), *folder.best_weights()]
            remove_checkpoints(folder.path, [path for path in saved if path.name not in kept])

    def load(self, checkpoint: dict[str, Any], origin: str) -> None:
        """Restores everything. The random state comes last, because building and restoring may draw from it."""
        extra = checkpoint["extra"]
        if extra["data"] != self.data.digest:
            raise CheckpointError(
                f"{origin}: was trained on other data (files have changed, or others are read): no exact way to go on; "
                "start a new run, from its model folder by Model.pretrained if need be"
            )
        self.parallelism.load(checkpoint, origin, self.model, self.optimizer, self.scheduler, self.ema)
        self.state = RunState.from_dict(extra["state"])
        self.started -= self.state.seconds
        random_states = extra["random_states"]
        if len(random_states) == self.ranks.world_size:
            set_random_state(random_states[self.ranks.rank])
        else:  # with another number of ranks no exact continuation exists, but no random number is drawn a second time
            seed_generators(self.config.seed + 1_000_003 * self.state.global_step + self.ranks.rank)


__getattr__ = renamed(__name__, {"Fit": "Trainer"})
