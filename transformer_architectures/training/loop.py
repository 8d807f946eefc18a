"""The training loop: one for every architecture. `Fit.run` reads top to bottom; what it leans on has a file of its own."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from torch import nn

from transformer_architectures.errors import CheckpointError, DataError
from transformer_architectures.loading import waited_for
from transformer_architectures.training.blocks import checkpoint_activations, compile_blocks, uncompiled
from transformer_architectures.training.checked_files import digest_path
from transformer_architectures.training.checkpointing import (
    random_state,
    restore,
    restoring,
    save_checkpoint,
    seed_generators,
    set_random_state,
)
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed import Ranks, SharedWork, SummedLoss, data_parallel
from transformer_architectures.training.grad_logging import GradientLogger, count
from transformer_architectures.training.optimization import build_ema, build_optimizer, build_scheduler
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.progress import ProgressReport
from transformer_architectures.training.run_folder import RunFolder, Start
from transformer_architectures.training.sharded_checkpoints import is_of_shares, remove_lost_shares, save_shares
from transformer_architectures.training.sharding import PlainCopies, fully_sharded
from transformer_architectures.training.shared_out import shared_out
from transformer_architectures.training.signals import Stopped, StopRequest
from transformer_architectures.training.state import Interval, RunState, checkpoint_suffix
from transformer_architectures.training.step import TrainingStep
from transformer_architectures.training.task import Batch, DataModule, Task
from transformer_architectures.training.tracking import Tracker


class Fit:
    """One run of one task: model, optimizer and position, and how they move on.

    Args:
        tracker: where metrics go and whose run the checkpoints belong to; None on all ranks but the first.
        should_stop: whether a signal has asked the run to stop.
        start: the checkpoint to go on from, if there is one.
        started: when this process began its work, by ``time.perf_counter``; now unless given.
    """

    def __init__(
        self,
        task: Task,
        data: DataModule,
        config: TrainingConfig,
        precision: Precision,
        tracker: Tracker | None,
        should_stop: StopRequest,
        start: Start = Start(),
        ranks: Ranks = Ranks(),
        started: float | None = None,
    ) -> None:
        self.task, self.data, self.config, self.precision = task, data, config, precision
        self.tracker, self.should_stop, self.ranks = tracker, should_stop, ranks
        self.state = RunState()
        seed_generators(config.seed)
        self.model = task.build_model()
        seed_generators(config.seed + ranks.rank)  # each rank drops other units
        # Copies come first, also the average: in that of a compiled block the forward pass would still be the original's.
        self.copies = PlainCopies(self.model) if config.sharding == "fsdp" else None
        if self.copies is None:  # shares are moved one by one: the whole may be too much for the device
            self.model.to(precision.device)
        self.ema = build_ema(self.model, config)
        if config.compile:
            compile_blocks(self.model)
        if config.activation_checkpointing:
            checkpoint_activations(self.model)
        summed_loss = SummedLoss(self.model, task.loss)
        if self.copies is None:
            parallel = data_parallel(summed_loss, ranks)
        else:
            parallel = fully_sharded(summed_loss, precision, config.cpu_offload, self.ema)
        self.optimizer = build_optimizer(self.model, config, partial(task.learning_rate_scale, self.model))
        self.scheduler = build_scheduler(self.optimizer, config)
        self.step = TrainingStep(
            model=self.model,
            summed_loss=parallel,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            precision=precision,
            clip_norm=config.clip_norm,
            ema=self.ema,
            ranks=ranks,
        )
        # Earlier processes of this run count as if they had just ended.
        self.started = time.perf_counter() if started is None else started
        if start.checkpoint is not None:
            with restoring(str(start.path)):
                self.load(start.checkpoint, str(start.path))

    # ---------------------------------------------------------------- the loop
    def run(self) -> None:
        """Trains to the end that the config sets. Raises `Stopped`, after a checkpoint, when a signal asks for it."""
        config, state = self.config, self.state
        histograms = None
        if self.tracker is not None and config.histogram_interval is not None:
            histograms = GradientLogger(self.tracker, config.histogram_interval)
        with ProgressReport(self.total_steps(), state.global_step, enabled=self.ranks.is_main) as progress:
            if self.data.batches_per_epoch(state.epoch) == 0:
                raise DataError("there is no batch to train on: too few rows for this number of processes")
            self.settle(progress)  # a run that was stopped while it scored has that still to do
            started = time.perf_counter()
            while not state.is_done(config):
                for micro_batches, waited in self.groups(state.epoch, state.batch_in_epoch):
                    report = self.step(micro_batches)
                    now = time.perf_counter()
                    batches_per_epoch = self.data.batches_per_epoch(state.epoch)
                    state.count(report, len(micro_batches), batches_per_epoch, now - started, waited)
                    state.seconds, started = now - self.started, now

                    progress.advance(state.global_step)
                    self.log_histograms(histograms)
                    if state.global_step % config.log_interval == 0:
                        self.log(progress)
                    self.stop_if_asked()
                    if self.settle(progress):
                        started = time.perf_counter()
                    if state.is_done(config):
                        break
            if state.interval.steps:  # what the last line has left
                self.log(progress)

    def total_steps(self) -> int | None:
        """Steps that the limits allow; epochs differ a little in length, so with `max_epochs` it is an estimate."""
        if self.config.max_epochs is None:
            return self.config.max_steps
        steps_per_epoch = -(-self.data.batches_per_epoch(0) // self.config.accumulation_steps)
        return min(self.config.max_epochs * steps_per_epoch, self.config.max_steps or sys.maxsize)

    def groups(self, epoch: int, start_batch: int) -> Iterator[tuple[list[Batch], float]]:
        """The micro-batches of each optimizer step, and the seconds until they were there; the last group of an epoch may be
        smaller."""
        asked = time.perf_counter()
        loader = self.data.train_dataloader(epoch=epoch, start_batch=start_batch)
        batches = waited_for(loader, self.config.hang_timeout)
        while group := list(islice(batches, self.config.accumulation_steps)):
            yield group, time.perf_counter() - asked
            asked = time.perf_counter()

    def settle(self, progress: ProgressReport) -> bool:
        """Scores and saves where this step asks for it and it has not been done; whether there was anything to do."""
        is_validation_due = self.state.is_validation_due(self.config)
        if is_validation_due:
            self.validate(progress)
        filename = self.state.due_checkpoint(self.config)
        if filename is not None:
            self.state.note_checkpoint(filename, self.config.keep_checkpoints)
            self.save(filename)
            self.prune()
        return is_validation_due or filename is not None

    def stop_if_asked(self) -> None:
        """Leaves a checkpoint and raises `Stopped` if any rank got a signal."""
        if self.ranks.any(self.should_stop()):
            self.save(f"step_{self.state.global_step}{checkpoint_suffix(self.config)}")
            raise self.stopped()

    def leave_if_asked(self) -> None:
        """For the end of a run, whose last checkpoint is written already."""
        if self.ranks.any(self.should_stop()):
            raise self.stopped()

    def stopped(self) -> Stopped:
        """What every rank raises when some have got a signal."""
        return Stopped(max(self.ranks.gather(self.should_stop.exit_code)))

    def plain(self, model: nn.Module) -> nn.Module:
        """The model as one process would have it: itself, or a copy where ranks share its weights; all ranks ask together."""
        return model if self.copies is None else self.copies.of(model, self.precision.device)

    # ---------------------------------------------------------------- watching
    def log(self, progress: ProgressReport) -> None:
        """Shows and tracks the means over the steps since the last time."""
        metrics = self.state.interval.metrics(float(self.scheduler.get_last_lr()[0]), self.task.unit)
        self.state.interval = Interval()
        progress.show(self.state.epoch, self.state.global_step, metrics)
        if self.tracker is not None:
            self.tracker.log_metrics(metrics, self.state.global_step)

    def log_histograms(self, logger: GradientLogger | None) -> None:
        """At their interval. Where ranks share the weights, all of them count, and the first one draws."""
        step, interval = self.state.global_step, self.config.histogram_interval
        if interval is None or step % interval:
            return
        if self.copies is not None:
            counted = count(self.model, step, self.ranks)
            if logger is not None:
                logger.draw(lambda: counted)
        elif logger is not None:
            logger.async_log(self.model, step)

    def validate(self, progress: ProgressReport) -> None:
        """Scores the weights that would be exported (the moving average where there is one); keeps them if they are the best."""
        scored = self.plain(self.model if self.ema is None else self.ema.module)
        random_before = random_state()

        def stop_if_asked() -> None:
            if self.ranks.any(self.should_stop()):
                set_random_state(random_before)  # the run that goes on scores once more
                self.stop_if_asked()

        scored.eval()
        work = SharedWork(self.ranks, stop_if_asked, self.config.hang_timeout)
        with uncompiled():
            scores = self.ranks.agree(self.task.validate(scored, work))
            samples = self.task.samples(scored, "validation") if self.ranks.is_main else []
        set_random_state(random_before)  # a run that was killed between validation and checkpoint scores once more
        is_best = self.state.note_scores(scores)
        if is_best:
            self.save_best(scored)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        progress.say(f"step {self.state.global_step}  validation  {shown}{'  (best so far)' if is_best else ''}")
        if self.tracker is not None:
            metrics = {f"validation/{name}": value for name, value in scores.items()}
            self.tracker.log_metrics(metrics, self.state.global_step)
            self.tracker.log_table(samples, f"samples/step_{self.state.global_step}.json")

    # ---------------------------------------------------------------- keeping
    def save(self, filename: str) -> None:
        """Writes a checkpoint with everything that `load` needs for the run to go on as if it had not stopped."""
        extra = self.extra()
        if self.copies is not None:
            save_shares(self.model, self.optimizer, self.scheduler, self.ema, self.ranks, extra, **self.place(filename))
        elif self.ranks.is_main:
            extra["ema"] = None if self.ema is None else self.ema.state_dict()
            save_checkpoint(self.model, self.optimizer, self.scheduler, extra_state=extra, **self.place(filename))

    def save_best(self, scored: nn.Module) -> None:
        """Writes the weights that have scored best so far, of which the run makes its model folder."""
        extra = self.extra()
        if self.ranks.is_main:
            save_checkpoint(scored, None, None, extra_state=extra, **self.place(self.state.best_filename))

    def extra(self) -> dict[str, Any]:
        """Where the run stands, beside model, optimizer and schedule."""
        return {
            "state": self.state.as_dict(),
            "data": self.data.digest,
            "random_states": self.ranks.gather(random_state()),
        }

    def place(self, filename: str) -> dict[str, Any]:
        """Where a checkpoint belongs."""
        return {
            "epoch": self.state.epoch,
            "global_step": self.state.global_step,
            "checkpoint_root": self.config.checkpoint_root,
            "model_name": self.task.architecture,
            "filename": filename,
        }

    def prune(self) -> None:
        """Removes all checkpoints but the last ones that were due, and the best of each; also those that a signal asked for."""
        if self.tracker is None:
            return
        kept, folder = self.state.files_to_keep(), RunFolder(self.tracker.run_folder)
        for path in [*folder.checkpoints(), *folder.best_weights()]:
            if path.name not in kept:
                path.unlink()
                digest_path(path).unlink(missing_ok=True)
        remove_lost_shares(folder.path)

    def load(self, checkpoint: dict[str, Any], origin: str) -> None:
        """Restores everything; the random state last, as building and restoring may draw from it."""
        extra = checkpoint["extra"]
        if extra["data"] != self.data.digest:
            raise CheckpointError(
                f"{origin}: was trained on other data (files have changed, or others are read): no exact way to go on; "
                "start a new run, from its model folder by Model.pretrained if need be"
            )
        if self.copies is not None and not is_of_shares(checkpoint):
            checkpoint = shared_out(checkpoint, self.copies, self.model, self.optimizer, self.ema)
        restore(checkpoint, origin, self.model, self.optimizer, self.scheduler, self.ema)
        self.state = RunState.from_dict(extra["state"])
        self.started -= self.state.seconds
        random_states = extra["random_states"]
        if len(random_states) == self.ranks.world_size:
            set_random_state(random_states[self.ranks.rank])
        else:  # with another number of ranks there is no exact way to go on; but nothing is drawn a second time
            seed_generators(self.config.seed + 1_000_003 * self.state.global_step + self.ranks.rank)
