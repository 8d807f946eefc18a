"""Experiment tracking with MLflow that never stops training, nor makes it wait.

Every run lives in the local store under the checkpoint root; where ``MLFLOW_TRACKING_URI`` names a server, it is mirrored
there whenever the server answers. What a run logs goes to a journal in its folder (`spool.py`); a thread for each store
brings it there (`tracking_destination.py`); what was not acknowledged when the run ended is sent by `sync`.
"""

import json
import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformer_architectures.errors import ConfigError, TrackingError
from transformer_architectures.training.checkpointing.checkpoints import resume_mlflow_run
from transformer_architectures.training.tracking.delivery import SyncReport, destinations, sync
from transformer_architectures.training.tracking.destination import (
    BATCH_LIMITS,
    Destination,
    LocalStore,
    RunRecord,
    prepare_mlflow,
)
from transformer_architectures.training.tracking.sender import Sender
from transformer_architectures.training.tracking.spool import Spool, now
from transformer_architectures.training.tracking.system_metrics import SystemMonitor
from transformer_architectures.utils.console import tarch
from transformer_architectures.utils.files import replace_json

FOLDER_NAME = re.compile(r"[^./\0][^/\0]{0,199}")
MAX_LISTED_TABLES = 50  # what fits in one tag

logger = logging.getLogger(__name__)


class Tracker:
    """The run of this process, made by `start`. No ``log_*`` raises or waits; all may be called from any thread.

    Attributes:
        run_id, run_name: in the local store; what ``mlflow.active_run()`` has until `close`.
        run_folder: ``<root>/<model_name>/<run_name>_<run_id[:6]>``.
        last_step: the newest step that was logged.
    """

    def __init__(self, record: RunRecord, run_folder: Path, global_step: int) -> None:
        self.run_id, self.run_name, self.run_folder = record.run_id, record.run_name, run_folder
        self.last_step = global_step
        self.spool = Spool(run_folder / "tracking")
        self.spool.open()
        self.known_points: set[tuple[str, int]] = set()
        self.params: dict[str, str] = {}
        self.tables: list[str] = []
        self.recall(global_step)
        self.senders: list[Sender] = []
        self.at_close: list[Callable[[], None]] = []

    @classmethod
    def start(
        cls,
        checkpoint_root: Path,
        experiment: str,
        model_name: str,
        run_name: str | None,
        params: Mapping[str, Any],
        *,
        resume_run_id: str | None = None,
        epoch: int = 0,
        global_step: int = 0,
    ) -> "Tracker":
        """Makes a run, or goes on with one, and makes it the active run of MLflow in this thread.

        No server is waited for. The tracking URI of this process becomes the local store; what processes started from here
        find in ``MLFLOW_TRACKING_URI`` stays.

        Args:
            params: flat; values are kept as text.
            resume_run_id: a run of this root, dead or ended, to go on with after ``global_step``: points that it has of
                later steps are not logged again.

        Raises:
            TrackingError: the local store cannot be used or has no such run, or another run is active.
            ConfigError: the run's name cannot be a folder's name.
        """
        prepare_mlflow()
        import mlflow
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        check_names(run_name, experiment)
        server = os.environ.get("MLFLOW_TRACKING_URI")
        store = LocalStore(checkpoint_root)
        active = mlflow.active_run()
        if active is not None and active.info.run_id != resume_run_id:
            raise TrackingError(f"MLflow run {active.info.run_id} is active; end it first with mlflow.end_run()")
        try:
            run = open_run(store, experiment, run_name, resume_run_id, epoch, global_step)
            record = RunRecord(run.info.run_id, run.info.run_name, experiment, run.info.start_time)
            run_folder = checkpoint_root / model_name / f"{record.run_name}_{record.run_id[:6]}"
            (run_folder / "tracking").mkdir(parents=True, exist_ok=True)
            replace_json(run_folder / "tracking" / "run.json", asdict(record))
            tracker = cls(record, run_folder, global_step)
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            with suppress(MlflowException):
                mlflow.end_run("FAILED")
            reason = str(error).partition("\n")[0]
            raise TrackingError(f"{store.root}: no run can be started in mlflow.db there: {reason}") from error
        tracker.describe(params, {} if resume_run_id else dict(run.data.tags))
        if resume_run_id is not None:
            tracker.spool.append(status="RUNNING", time=now())
            tracker.log_tags({"resumed_from_epoch": str(epoch), "resumed_from_step": str(global_step)})
        tracker.send_to(Destination(tracker.spool.folder, store.uri, store))
        if server and not store.is_at(server):
            tracker.send_to(Destination(tracker.spool.folder, server))
        monitor = SystemMonitor(tracker)
        monitor.start()
        tracker.at_close.append(monitor.stop)
        return tracker

    def recall(self, global_step: int) -> None:
        """What the journal of a resumed run tells: its parameters and tables, and points that will be logged again."""
        for entry in self.spool.read():
            content = entry.content
            self.params |= content.get("params", {})
            self.known_points |= {
                (key, content["step"]) for key in content.get("metrics", ()) if content["step"] >= global_step
            }
            if "mlflow.loggedArtifacts" in content.get("tags", {}):
                with suppress(ValueError, TypeError, KeyError):  # damaged: later tables are listed still
                    self.tables = [table["path"] for table in json.loads(content["tags"]["mlflow.loggedArtifacts"])]

    def describe(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Logs parameters and tags. A parameter that a resumed run changed becomes a tag: MLflow lets none be changed."""
        texts = {valid_key(key): str(value)[:6000] for key, value in params.items()}
        new = [(key, value) for key, value in texts.items() if key not in self.params]
        changed = {f"resumed.{key}": text for key, text in texts.items() if self.params.get(key, text) != text}
        for start in range(0, len(new), BATCH_LIMITS["params"]):
            self.spool.append(params=dict(new[start : start + BATCH_LIMITS["params"]]))
        self.log_tags({**tags, **changed})

    def send_to(self, destination: Destination) -> None:
        """Starts bringing the journal to a store."""
        sender = Sender(destination)
        self.senders.append(sender)
        sender.start()

    # ---------------------------------------------------------------- what training calls
    def log_metrics(self, metrics: Mapping[str, float | int], step: int) -> None:
        """Logs the values of a step. A point that a resumed run has already, by name and step, is left out."""
        self.last_step = max(self.last_step, step)
        values = [(key, value) for key, value in numbers(metrics) if (key, step) not in self.known_points]
        for start in range(0, len(values), BATCH_LIMITS["metrics"]):
            self.spool.append(metrics=dict(values[start : start + BATCH_LIMITS["metrics"]]), step=step, time=now())

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        items = list(tags.items())
        for start in range(0, len(items), BATCH_LIMITS["tags"]):
            self.spool.append(tags=dict(items[start : start + BATCH_LIMITS["tags"]]))

    def log_text(self, text: str, artifact_file: str) -> None:
        """Logs a text as the file ``artifact_file`` among the run's artifacts."""
        self.spool.add_file(text.encode(errors="replace"), artifact_file)

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_file: str) -> None:
        """Logs rows, all with the keys of the first, as a ``.json`` file that MLflow's pages show as a table."""
        columns = list(rows[0]) if rows else []
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        self.spool.add_file(json.dumps(table, ensure_ascii=False, default=str).encode(errors="replace"), artifact_file)
        self.tables = [*(path for path in self.tables if path != artifact_file), artifact_file][-MAX_LISTED_TABLES:]
        self.log_tags({"mlflow.loggedArtifacts": json.dumps([{"path": path, "type": "table"} for path in self.tables])})

    def log_figure_png(self, png: bytes, artifact_file: str, step: int | None = None) -> None:
        """Logs an image; a step is added to the file's name, in eight digits, so that images sort."""
        path = Path(artifact_file)
        name = path if step is None else path.with_stem(f"{path.stem}_{step:08d}")
        self.spool.add_file(png, str(name))

    def log_artifacts(self, folder: Path, artifact_path: str = "") -> None:
        """Logs the files of a folder that stays where it is: they are sent as they are at that time."""
        self.spool.append(folder=os.path.relpath(folder, self.run_folder), target=artifact_path)

    # ---------------------------------------------------------------- the end
    def close(self, status: str = "FINISHED") -> None:
        """Ends the run and sends what is left, for a bounded time; says on standard error what has to be sent later.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        """
        if self.spool.descriptor is None:
            return
        for action in self.at_close:
            action()
        self.at_close.clear()
        self.spool.append(status=status, time=now())
        self.spool.close()
        closed_at = time.monotonic()
        for sender in self.senders:
            sender.closing.set()
        for sender in self.senders:
            sender.finish(closed_at)
        leave_active_run(self.run_id)
        if any(sender.destination.num_left for sender in self.senders):
            print(f"To send what is left: {tarch('sync', self.run_folder)}", file=sys.stderr)


def check_names(run_name: str | None, experiment: str | None) -> None:
    """Checks that folders can have these names.

    Raises:
        ConfigError: one of them cannot be a folder's name.
    """
    for key, name in (("run_name", run_name), ("experiment", experiment)):
        if name is not None and not FOLDER_NAME.fullmatch(name):
            raise ConfigError(f"Training.{key}: {name!r} cannot be a folder's name; leave out '/' and a first '.'")


def was_ended(run_folder: Path) -> bool:
    """Whether the journal of a run says that it came to its end."""
    statuses = [entry.content["status"] for entry in Spool(run_folder / "tracking").read() if "status" in entry.content]
    return statuses[-1:] == ["FINISHED"]


def track_missed_end(run_folder: Path, model_folder: Path) -> None:
    """Brings to the stores what a finished run could not, as it was killed: its model folder and end, or the last that its journal has.

    What prevents it is said on standard error.
    """
    journal = Spool(run_folder / "tracking")
    left: tuple[str, ...] = ()
    try:
        if not journal.path.exists():
            raise TrackingError(f"{journal.path} is gone")
        if not was_ended(run_folder):
            journal.open()
            journal.append(folder=os.path.relpath(model_folder, run_folder), target="model")
            journal.append(status="FINISHED", time=now())
            journal.close()
        if any(destination.num_left for destination in destinations(journal.folder, server=None)):
            left = sync(run_folder).left
    except (TrackingError, OSError, ValueError, TypeError) as error:  # the last two: a damaged file
        left = (str(error),)
    for line in left:
        print(f"Tracking: not every store knows that this run is finished: {line}", file=sys.stderr)


def open_run(
    store: LocalStore, experiment: str, run_name: str | None, resume_run_id: str | None, epoch: int, global_step: int
) -> Any:
    """Makes a run, or one that was made earlier, the active one."""
    import mlflow

    experiment_id = store.experiment_id(experiment)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store.uri)  # sets the variable too
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if server is not None:
        os.environ["MLFLOW_TRACKING_URI"] = server
    os.environ.pop("MLFLOW_RUN_ID", None)  # MLflow would look for that run of another store here
    active = mlflow.active_run()
    if active is not None:
        return active
    if resume_run_id is not None:
        return resume_mlflow_run(resume_run_id, epoch, global_step)
    return mlflow.start_run(experiment_id=experiment_id, run_name=run_name, log_system_metrics=False)


def leave_active_run(run_id: str) -> None:
    """Has MLflow forget its active run. `mlflow.end_run` would tell the store, and wait 20 seconds for one that is locked; the
    journal has the status, and the sender or `sync` brings it.
    """
    from mlflow.tracking import fluent

    active = fluent._active_run_stack.get()  # type: ignore[no-untyped-call]
    if active and active[-1].info.run_id == run_id:
        active.pop()
        fluent._last_active_run_id.set(run_id)  # type: ignore[no-untyped-call]


def numbers(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Keys as MLflow takes them, and values as floats; what is no number is left out with a warning."""
    values = []
    for key, value in metrics.items():
        try:
            values.append((valid_key(key), float(value)))
        except (TypeError, ValueError):
            logger.warning("tracking: metric %s is no number, it was left out: %r", key, value)
    return values


def valid_key(key: str) -> str:
    """A name with what MLflow does not take in one replaced by ``_``."""
    return re.sub(r"[^\w./: -]", "_", key)[:250]
