"""From a config to a finished run: where it stands, what it goes on from, who may see it. The loop itself is `loop.py`."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from transformer_architectures.config import fingerprint
from transformer_architectures.errors import CheckpointError
from transformer_architectures.loading import Loading
from transformer_architectures.model_folder import RESULTS, open_model_folder
from transformer_architectures.processes import loader_workers
from transformer_architectures.training.blocks import uncompiled
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed import Ranks, process_group
from transformer_architectures.training.finish import FinishedRun, finish
from transformer_architectures.training.loop import Fit
from transformer_architectures.training.precision import (
    Precision,
    apply_runtime_settings,
    resolve_device,
    resolve_precision,
)
from transformer_architectures.training.run_folder import RunFolder, Start, find_start
from transformer_architectures.training.signals import Stopped, stop_on_signals
from transformer_architectures.training.state import RunState
from transformer_architectures.training.task import DataModule, Task
from transformer_architectures.training.torchrun import check_restarts, may_be_restarted, number_of_restart
from transformer_architectures.training.tracking import Tracker, track_missed_end

FEW_ROWS = 20  # of validation: fewer are spoken of


@dataclass(frozen=True)
class RunContext:
    """What a task may want to know of the run that it is built for."""

    precision: Precision
    ranks: Ranks
    loading: Loading
    run_folder: Path


Build = Callable[[RunContext], tuple[Task, DataModule]]


def run_training(
    architecture: str,
    sections: Mapping[str, BaseModel],
    config: TrainingConfig,
    build: Build,
    resume: str | None = None,
) -> FinishedRun:
    """Trains to the end and leaves the model folder, or finds (and says so) that this has been done.

    Args:
        architecture: names the checkpoint folder and, unless the config says otherwise, the experiment.
        sections: the whole config, by section; its fingerprint says which runs ``--resume auto`` may go on with.
        build: makes the task and its data once the run folder is known.
        resume: ``auto``, a checkpoint, a run folder, or None for a new run.

    Raises:
        Stopped: a signal ended the run; its exit code is the signal's.
        LostRankError, LostWorkerError: another process of the run was killed, stopped or cut off.
        FailedRankError: another rank has ended with an error.
    """
    device = resolve_device(config.device)
    check_restarts(resume, device)
    apply_runtime_settings(config.num_threads)
    precision = resolve_precision(config.precision, device)
    root = Path(config.checkpoint_root)
    with (
        process_group(precision.device, config.hang_timeout, config.sharding == "fsdp") as ranks,
        stop_on_signals() as should_stop,
        loader_workers(),
    ):
        start, stopped = Start(), None
        if ranks.is_main:
            start = find_start(resume, root, architecture, fingerprint(sections))
            stopped = asked_to_stop(start)
        start, stopped = ranks.agree((start, stopped))
        if stopped is not None:
            raise Stopped(stopped)
        if is_finished(start, config):
            return on_every_rank(ranks, finished_before(start.folder) if ranks.is_main and start.folder else None)
        with tracked_run(architecture, sections, config, start, ranks) as (tracker, folder):
            started = time.perf_counter()
            loading = Loading(ranks.rank, ranks.world_size)
            task, data = build(RunContext(precision, ranks, loading, folder.path))
            with should_stop.at_once():
                data.setup()
            if tracker is not None:
                tell_rows(data, tracker)
            fit = Fit(task, data, config, precision, tracker, should_stop, start, ranks, started)
            if tracker is not None:  # not before: a checkpoint that does not fit must leave its folder as it was
                folder.write_config(sections)
            fit.run()
            model = fit.plain(fit.model)
            with uncompiled():
                finished = finish(fit, model, folder.path)
            if finished is not None and tracker is not None:
                track_end(tracker, folder, finished, fit.state.global_step)
                # Last: whoever finds the model folder, also after a kill, finds all that was told of the run.
                fit.task.export(model, finished.model_folder, finished.results)
                tracker.log_artifacts(finished.model_folder, "model")
            return on_every_rank(ranks, finished)


def on_every_rank(ranks: Ranks, finished: FinishedRun | None) -> FinishedRun:
    """What the first rank has finished, which the next training may start from. Only for the first it may be new.

    Args:
        finished: None on the others.
    """
    of_first = None if finished is None else FinishedRun(finished.model_folder, finished.results, is_new=False)
    of_first = ranks.agree(of_first)
    assert of_first is not None
    return of_first if finished is None else finished


def tell_rows(data: DataModule, tracker: Tracker) -> None:
    """Says and tracks how many rows each part has, and warns of a validation part that says nothing."""
    counts = data.row_counts()
    if counts.get("validation", FEW_ROWS) < FEW_ROWS:
        print(
            f"only {counts['validation']} validation rows: their scores say little, and choose the weights; "
            "give Data.validation, or a larger Data.validation_fraction",
            file=sys.stderr,
        )
    print("rows  " + "  ".join(f"{name} {count:,}" for name, count in counts.items()), file=sys.stderr)
    tracker.describe({f"rows/{name}": count for name, count in counts.items()}, {})


def track_end(tracker: Tracker, folder: RunFolder, finished: FinishedRun, global_step: int) -> None:
    """Logs the last scores, and what else shows how the model does; pictures are kept in the run folder too."""
    scores = finished.results["test"] or finished.results["validation"]
    part = "test" if finished.results["test"] else "final_validation"
    tracker.log_metrics({f"{part}/{name}": value for name, value in scores.items()}, global_step)
    for name, artifact in finished.artifacts.items():
        if isinstance(artifact, bytes):
            folder.keep(name, artifact)
            tracker.log_figure_png(artifact, name)
        else:
            tracker.log_table(artifact, name)


@contextmanager
def tracked_run(
    architecture: str, sections: Mapping[str, BaseModel], config: TrainingConfig, start: Start, ranks: Ranks
) -> Iterator[tuple[Tracker | None, RunFolder]]:
    """The run's folder, held by this process, and its tracker, closed with the status that the block ends with."""
    tracker = None
    if ranks.is_main:
        checkpoint = start.checkpoint or {"run_id": None, "epoch": 0, "global_step": 0}
        tracker = Tracker.start(
            Path(config.checkpoint_root),
            config.experiment or architecture,
            architecture,
            config.run_name,
            flat_parameters(sections),
            resume_run_id=checkpoint["run_id"],
            epoch=checkpoint["epoch"],
            global_step=checkpoint["global_step"],
        )
    folder = start.folder or RunFolder(ranks.agree(Path() if tracker is None else tracker.run_folder))
    if tracker is None:
        yield None, folder
        return
    status = "FAILED"
    try:
        if folder.path.resolve() != tracker.run_folder.resolve():
            raise CheckpointError(
                f"{start.path}: belongs to the run in {tracker.run_folder}, not to the one where it lies"
            )
        if folder.held is None and not folder.lock():
            raise CheckpointError(f"{folder.path}: another process is training in this folder")
        print(f"run folder {folder.path}{_origin(start)}", file=sys.stderr)
        folder.note_stop(None)
        yield tracker, folder
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt) as stop:
        status = "KILLED"
        if may_be_restarted() and isinstance(stop, Stopped) and isinstance(stop.code, int):
            folder.note_stop(stop.code)
        raise
    finally:
        tracker.close(status)
        folder.release()


def asked_to_stop(start: Start) -> int | None:
    """The exit code with which a signal has ended the run, where nobody but torchrun wants it to go on."""
    if not number_of_restart() or start.folder is None or start.folder.stop_noted is None:
        return None
    print(f"{start.folder.path}: was asked to stop; that torchrun restarts it changes nothing", file=sys.stderr)
    return start.folder.stop_noted


def is_finished(start: Start, config: TrainingConfig) -> bool:
    """Whether nothing is left to do: no step to train, and the model folder is that of the last one."""
    if start.checkpoint is None or start.folder is None:
        return False
    state = RunState.from_dict(start.checkpoint["extra"]["state"])
    return state.is_done(config) and start.folder.has_model_of(state.global_step)


def finished_before(folder: RunFolder) -> FinishedRun:
    """What a run left that an earlier process has finished; says so, and tells the stores if that one was killed before it could."""
    track_missed_end(folder.path, folder.model_dir)
    folder.release()
    print(f"This run is finished, there is nothing left to train. Model folder: {folder.model_dir}")
    return FinishedRun(folder.model_dir, open_model_folder(folder.model_dir).json(RESULTS), is_new=False)


def flat_parameters(sections: Mapping[str, BaseModel]) -> dict[str, Any]:
    """``Section.key`` to value, as MLflow shows parameters."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                add(f"{prefix}.{key}", item)
        else:
            flat[prefix] = value

    for name, section in sections.items():
        add(name, section.model_dump(mode="json"))
    return flat


def _origin(start: Start) -> str:
    return "" if start.checkpoint is None else f", going on from {start.path} (step {start.checkpoint['global_step']})"


__all__ = ["RunContext", "run_training"]
