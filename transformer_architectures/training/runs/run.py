"""From a config to a finished run: its start, its folder, its tracker and its end. The loop itself is in `loop.py`.

A start that has to be refused (missing data, a checkpoint that does not fit, settings that contradict each other) is refused before
anything is written: data and model come first, then the run folder and the run in MLflow's store.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from transformer_architectures.config import fingerprint
from transformer_architectures.datasets.loading import Loading
from transformer_architectures.errors import CheckpointError
from transformer_architectures.training.blocks import uncompiled
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.parallelism import join_processes
from transformer_architectures.training.distributed.ranks import Ranks
from transformer_architectures.training.distributed.torchrun import check_restarts, may_be_restarted
from transformer_architectures.training.loop import Trainer
from transformer_architectures.training.precision import (
    Precision,
    apply_runtime_settings,
    resolve_device,
    resolve_precision,
)
from transformer_architectures.training.runs.finish import FinishedRun, finish
from transformer_architectures.training.runs.run_folder import RunFolder, Start
from transformer_architectures.training.runs.signals import Stopped, stop_on_signals
from transformer_architectures.training.runs.starting import (
    common_start,
    finished_before,
    is_finished,
    move_rejections,
    print_row_counts,
    staged_rejections,
)
from transformer_architectures.training.task import DataModule, Task
from transformer_architectures.training.tracking.tracker import Tracker, check_names
from transformer_architectures.utils.processes import loader_workers


@dataclass(frozen=True)
class RunContext:
    """What a task and its data may need to know of the run that they are built for.

    Attributes:
        rejected_path: where the list of rejected rows goes; None on all ranks but the first.
    """

    precision: Precision
    ranks: Ranks
    loading: Loading
    rejected_path: Path | None


Build = Callable[[RunContext], tuple[Task, DataModule]]


def run_training(
    architecture: str,
    sections: Mapping[str, BaseModel],
    config: TrainingConfig,
    build: Build,
    resume: str | None = None,
) -> FinishedRun:
    """Trains to the end and writes the model folder. If that has been done already, says so and trains nothing.

    Args:
        architecture: names the checkpoint folder and, unless the config says otherwise, the experiment.
        sections: all sections of the config; their fingerprint says which runs ``--resume auto`` may go on with.
        build: makes the task and its data.
        resume: ``auto``, a checkpoint, a run folder, or None for a new run.

    Raises:
        Stopped: a signal ended the run; its exit code is the signal's.
        LostRankError, LostWorkerError: another process of the run was killed, stopped or cut off.
        FailedRankError: another rank has ended with an error.
    """
    device = resolve_device(config.device)
    check_restarts(resume, device)
    check_names(config.run_name, config.experiment)
    apply_runtime_settings(config.num_threads)
    precision = resolve_precision(config.precision, device)
    folder_of_runs = Path(config.checkpoint_root) / architecture
    with join_processes(config, device) as ranks, stop_on_signals() as should_stop, loader_workers():
        start = common_start(resume, Path(config.checkpoint_root), architecture, fingerprint(sections), ranks)
        if is_finished(start, config):
            return share_result(ranks, finished_before(start.folder) if ranks.is_main and start.folder else None)
        started = time.perf_counter()
        loading = Loading(ranks.rank, ranks.world_size)
        with use_of(start.folder, ranks), staged_rejections(folder_of_runs, ranks) as rejected_path:
            task, data = build(RunContext(precision, ranks, loading, rejected_path))

            # -------------------------------------------------------- data
            with should_stop.at_once():
                data.setup()
            if ranks.is_main:
                print_row_counts(data)

            # -------------------------------------------------------- model, optimizer, checkpoint
            trainer = Trainer(task, data, config, precision, should_stop, start, ranks, started)
            ranks.gather(None)  # if one rank has refused its start, all end here, before anything is written

            # -------------------------------------------------------- run folder and tracking
            opening = time.perf_counter()
            with tracked_run(architecture, sections, config, data, start, ranks) as (tracker, folder):
                trainer.started += time.perf_counter() - opening  # to open the stores is no cost of the training
                if rejected_path is not None:
                    folder.write_config(sections)
                    move_rejections(rejected_path, folder.path)

                # ---------------------------------------------------- steps
                trainer.run(tracker)

                # ---------------------------------------------------- scores and model folder
                model = trainer.parallelism.full_model(trainer.model)
                with uncompiled():
                    finished = finish(trainer, model, folder.path)
                if finished is not None and tracker is not None:
                    track_end(tracker, folder, finished, trainer.state.global_step)
                    # Last: whoever finds a model folder, also after a kill, finds everything else that was logged.
                    task.export(model, finished.model_folder, finished.results)
                    tracker.log_artifacts(finished.model_folder, "model")
                return share_result(ranks, finished)


def share_result(ranks: Ranks, finished: FinishedRun | None) -> FinishedRun:
    """Gives every rank the result of the first, which the next training may start from. It is new for the first rank at most.

    Args:
        finished: None on all ranks but the first.
    """
    of_first = None if finished is None else FinishedRun(finished.model_folder, finished.results, is_new=False)
    of_first = ranks.agree(of_first)
    assert of_first is not None
    return of_first if finished is None else finished


@contextmanager
def use_of(folder: RunFolder | None, ranks: Ranks) -> Iterator[None]:
    """Releases a run folder after the block, and notes in it that a signal has stopped the run where torchrun might restart it."""
    if folder is None or not ranks.is_main:
        yield
        return
    try:
        yield
    except Stopped as stop:
        if may_be_restarted() and isinstance(stop.code, int):
            folder.note_stop(stop.code)
        raise
    finally:
        folder.release()


@contextmanager
def tracked_run(
    architecture: str,
    sections: Mapping[str, BaseModel],
    config: TrainingConfig,
    data: DataModule,
    start: Start,
    ranks: Ranks,
) -> Iterator[tuple[Tracker | None, RunFolder]]:
    """The run's folder, locked by this process, and its tracker, closed with the status that the block ends with. The tracker is
    None on all ranks but the first.

    Raises:
        TrackingError: the local store cannot be used.
        CheckpointError: the folder belongs to another run, or another process is training in it.
    """
    tracker = None
    if ranks.is_main:
        checkpoint = start.checkpoint or {"run_id": None, "epoch": 0, "global_step": 0}
        tracker = Tracker.start(
            Path(config.checkpoint_root),
            config.experiment or architecture,
            architecture,
            config.run_name,
            {**flat_parameters(sections), **{f"rows/{name}": count for name, count in data.row_counts().items()}},
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
                f"{start.path}: belongs to the run in {tracker.run_folder}, not to the one in its folder"
            )
        if folder.held is None and not folder.lock():
            raise CheckpointError(f"{folder.path}: another process is training in this folder")
        print(f"run folder {folder.path}{_origin(start)}", file=sys.stderr)
        with use_of(folder, ranks):
            yield tracker, folder
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def track_end(tracker: Tracker, folder: RunFolder, finished: FinishedRun, global_step: int) -> None:
    """Logs the final scores, images and tables. Images are kept in the run folder too."""
    scores = finished.results["test"] or finished.results["validation"]
    part = "test" if finished.results["test"] else "final_validation"
    tracker.log_metrics({f"{part}/{name}": value for name, value in scores.items()}, global_step)
    for name, artifact in finished.artifacts.items():
        if isinstance(artifact, bytes):
            folder.keep(name, artifact)
            tracker.log_figure_png(artifact, name)
        else:
            tracker.log_table(artifact, name)


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
