"""Before the first step of a run: what it goes on from, whether it is finished already, and rows of data that cannot be used."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformer_architectures.datasets.rejections import REJECTED
from transformer_architectures.errors import DataError
from transformer_architectures.pretrained.model_folder import RESULTS, open_model_folder
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import Ranks
from transformer_architectures.training.distributed.torchrun import number_of_restart
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.run_folder import RunFolder, Start, find_start
from transformer_architectures.training.runs.signals import Stopped
from transformer_architectures.training.state import RunState
from transformer_architectures.training.task import DataModule
from transformer_architectures.training.tracking.tracker import track_missed_end

FEW_ROWS = 20  # of the validation split: below this a warning is printed


def common_start(resume: str | None, root: Path, architecture: str, wanted_fingerprint: str, ranks: Ranks) -> Start:
    """What all ranks go on from: the first one looks for it. Its folder, if any, is locked by the first.

    Raises:
        Stopped: a signal has ended the run, and only torchrun wants it to go on.
    """
    start, exit_code = Start(), None
    if ranks.is_main:
        start = find_start(resume, root, architecture, wanted_fingerprint)
        exit_code = stopped_before(start)
    start, exit_code = ranks.agree((start, exit_code))
    if exit_code is not None:
        if start.folder is not None:
            start.folder.release()
        raise Stopped(exit_code)
    if ranks.is_main and start.folder is not None:
        start.folder.note_stop(None)
    return start


def stopped_before(start: Start) -> int | None:
    """The exit code with which a signal has ended the run, if this start is only one of torchrun's restarts."""
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
    """The result of a run that an earlier process has finished. Says so, and tells the stores if that process was killed before
    it could."""
    track_missed_end(folder.path, folder.model_dir)
    folder.release()
    print(f"This run is finished, there is nothing left to train. Model folder: {folder.model_dir}")
    return FinishedRun(folder.model_dir, open_model_folder(folder.model_dir).json(RESULTS), is_new=False)


@contextmanager
def staged_rejections(folder_of_runs: Path, ranks: Ranks) -> Iterator[Path | None]:
    """A temporary file for the list of rejected rows, until there is a run folder for it; None on all ranks but the first.

    If the data are refused, the list is moved to ``folder_of_runs``: it says why.
    """
    if not ranks.is_main:
        yield None
        return
    staged = Path(tempfile.mkdtemp(prefix="tarch_")) / REJECTED
    try:
        yield staged
    except DataError:
        with suppress(OSError):
            if staged.exists() and staged.stat().st_size:
                move_rejections(staged, folder_of_runs)
                print(f"The rejected rows are listed in {folder_of_runs / REJECTED}", file=sys.stderr)
        raise
    finally:
        shutil.rmtree(staged.parent, ignore_errors=True)


def move_rejections(staged: Path, folder: Path) -> None:
    """Moves a list of rejected rows, if there is one, and removes its temporary folder."""
    if staged.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(staged, folder / REJECTED)
    shutil.rmtree(staged.parent, ignore_errors=True)


def print_row_counts(data: DataModule) -> None:
    """Prints how many rows each split has, and warns of a validation split that is too small to tell anything."""
    counts = data.row_counts()
    if counts.get("validation", FEW_ROWS) < FEW_ROWS:
        print(
            f"only {counts['validation']} validation rows: their scores say little, and choose the weights; "
            "give Data.validation, or a larger Data.validation_fraction",
            file=sys.stderr,
        )
    print("rows  " + "  ".join(f"{name} {count:,}" for name, count in counts.items()), file=sys.stderr)
