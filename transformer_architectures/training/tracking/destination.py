"""One MLflow store, local or a server, and how far the journal of a run has been brought to it."""

import hashlib
import json
import logging
import math
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from transformer_architectures.errors import TrackingError, reason_of
from transformer_architectures.training.tracking.spool import Entry, Spool
from transformer_architectures.utils.files import replace_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

LOCAL_RUN_TAG = "local_run_id"  # on a server's run: the id that names the run folder
BATCH_LIMITS = {"metrics": 800, "params": 100, "tags": 100}  # MLflow takes 1000, 100 and 100, and 1000 of all

SECONDS_FOR_LOCK = 60.0  # that a store which another program has locked is waited for before it is used

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """What a store must know to show a run; kept in the run folder as ``tracking/run.json``."""

    run_id: str
    run_name: str
    experiment: str
    start_time: int


@dataclass
class Cursor:
    """How far a store has acknowledged the journal; kept in the run folder as ``tracking/acknowledged_*.json``.

    Attributes:
        run_id: the run's id in that store; None until the store has answered once.
        offset: all entries before this byte are acknowledged, but for those in ``failed``.
        failed: first byte and reason of each entry that the store, though it answered, did not take.
    """

    uri: str
    run_id: str | None = None
    offset: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def read_record(path: Path) -> RunRecord:
    """What was written to ``run.json``.

    Raises:
        TrackingError: it is damaged.
    """
    record = _read(path, RunRecord)
    if record is None or not all(isinstance(text, str) for text in (record.run_id, record.run_name, record.experiment)):
        raise TrackingError(f"{path}: is missing or damaged; a run that goes on writes it anew")
    return record


def read_cursor(path: Path) -> Cursor | None:
    """What was written to ``acknowledged_*.json``; None where there is none, or it is damaged: all is sent again then."""
    cursor = _read(path, Cursor)
    is_whole = cursor is not None and (
        isinstance(cursor.uri, str)
        and isinstance(cursor.run_id, str | None)
        and type(cursor.offset) is int
        and cursor.offset >= 0
        and isinstance(cursor.failed, dict)
        and all(start.isdecimal() and isinstance(reason, str) for start, reason in cursor.failed.items())
    )
    if not is_whole and path.exists():
        logger.warning("tracking: %s is damaged, the journal is sent again from its beginning", path)
    return cursor if is_whole else None


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


class Destination:
    """Brings the journal of one run to one store. Each entry is sent until it is acknowledged, and not again.

    An acknowledgement may be lost with a connection or a killed process; what is sent again then is the same point with the
    same time, or the same file under the same name, which a store keeps once.

    Args:
        folder: the run's ``tracking`` folder.
        local: the local store; without it, ``uri`` names a server.

    Attributes:
        answered_at: when the store last did what it was asked, by ``time.monotonic``.
    """

    def __init__(self, folder: Path, uri: str, local: "LocalStore | None" = None) -> None:
        self.spool, self.uri, self.local = Spool(folder), uri, local
        self.record = read_record(folder / "run.json")
        shown = without_credentials(uri)
        name = "local" if local else hashlib.sha256(shown.encode()).hexdigest()[:8]
        self.path = folder / f"acknowledged_{name}.json"
        self.cursor = read_cursor(self.path) or Cursor(
            "local" if local else shown, self.record.run_id if local else None
        )
        self.client: "MlflowClient | None" = None
        self.singly_until = 0
        self.problem = ""
        self.answered_at = -math.inf
        self.num_points = self.num_artifacts = 0

    @property
    def num_left(self) -> int:
        """Entries that the store has not acknowledged."""
        return sum(1 for _ in self.spool.read(self.cursor.offset)) + len(self.cursor.failed)

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Whether this is the only process that sends to the store for this run; if so, it stays so inside the block."""
        try:
            lock = FileLock(self.path.with_suffix(".lock"), fallback_to_soft=False).acquire(blocking=False)
        except Timeout:
            yield False
            return
        with lock:
            self.cursor = read_cursor(self.path) or self.cursor  # another process may have got further meanwhile
            yield True

    def drain(self, retry_failed: bool = False) -> bool:
        """Sends what there is. False, and the reason in `problem`, where the store did not answer; the rest is kept."""
        if self.client is None and not self.attempt(self.open):
            return False
        if retry_failed:
            for start in list(self.cursor.failed):
                entry = next(self.spool.read(int(start)), None)
                if entry is None:  # the journal was cut off since
                    del self.cursor.failed[start]
                elif self.attempt(partial(self.send, [entry])):
                    del self.cursor.failed[start]
                    self.save([entry])
        while batch := self.next_batch():
            acknowledged = batch
            if not self.attempt(partial(self.send, batch)):
                if not self.attempt(self.ask):
                    return False
                if len(batch) > 1:  # the store is well, so one of these is not: find it
                    self.singly_until = batch[-1].end
                    continue
                logger.warning("tracking: %s refused an entry: %s", self.cursor.uri, self.problem)
                self.cursor.failed[str(batch[0].start)] = self.problem
                acknowledged = []
            self.cursor.offset = batch[-1].end
            self.save(acknowledged)
        return True

    def attempt(self, call: Callable[[], None]) -> bool:
        """Whether a call to the store went well."""
        try:
            call()
        except (
            Exception
        ) as error:  # stores and their artifact plug-ins raise what they like; training goes on whatever it is
            message = str(error).strip() or type(error).__name__
            self.problem = message.splitlines()[0].replace(self.uri, self.cursor.uri)[:200]
            return False
        self.answered_at = time.monotonic()
        return True

    def open(self) -> None:
        """Connects; on a server, finds the run or makes it."""
        from mlflow import MlflowClient

        client = self.local.client() if self.local else MlflowClient(tracking_uri=self.uri)
        if self.cursor.run_id is None:
            experiment = client.get_experiment_by_name(self.record.experiment)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(self.record.experiment)
            mine = f"tags.{LOCAL_RUN_TAG} = '{self.record.run_id}'"
            runs = client.search_runs([experiment_id], filter_string=mine, max_results=1)
            run = runs[0] if runs else self.create_run(client, experiment_id)
            self.cursor.run_id = run.info.run_id
            self.save()
        self.client = client

    def create_run(self, client: "MlflowClient", experiment_id: str) -> Any:
        """The server's run, tagged with the local id in the same call, so that it is found if the answer is lost."""
        record = self.record
        return client.create_run(experiment_id, record.start_time, {LOCAL_RUN_TAG: record.run_id}, record.run_name)

    def ask(self) -> None:
        """Raises unless the store answers and has the run."""
        assert self.client is not None and self.cursor.run_id is not None
        self.client.get_run(self.cursor.run_id)

    def next_batch(self) -> list[Entry]:
        """As many of the next entries as go in one call; files, folders and the status go alone."""
        batch: list[Entry] = []
        room = dict(BATCH_LIMITS)
        for entry in self.spool.read(self.cursor.offset):
            for kind in room:
                room[kind] -= len(entry.content.get(kind, ()))
            alone = not room.keys() & entry.content.keys()
            if batch and (alone or min(room.values()) < 0):
                break
            batch.append(entry)
            if alone or entry.start < self.singly_until:
                break
        return batch

    def send(self, batch: list[Entry]) -> None:
        """One call to the store. Raises what the store raises."""
        assert self.client is not None and self.cursor.run_id is not None
        client, run_id, first = self.client, self.cursor.run_id, batch[0].content
        if "status" in first:
            if first["status"] == "RUNNING":
                client.update_run(run_id, status="RUNNING")
            else:
                client.set_terminated(run_id, first["status"], first["time"])
        elif "artifact" in first:
            target = os.path.dirname(first["artifact"]) or None
            client.log_artifact(run_id, str(self.source(first)), target)
            self.num_artifacts += 1
        elif "folder" in first:
            client.log_artifacts(run_id, str(self.spool.folder.parent / first["folder"]), first["target"] or None)
            self.num_artifacts += 1
        elif first:
            self.send_values(client, run_id, [entry.content for entry in batch])

    def send_values(self, client: "MlflowClient", run_id: str, contents: list[dict[str, Any]]) -> None:
        """Metrics, parameters and tags of several entries in one call."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(key, value, content["time"], content["step"])
            for content in contents
            for key, value in content.get("metrics", {}).items()
        ]
        params = {key: value for content in contents for key, value in content.get("params", {}).items()}
        tags = {key: value for content in contents for key, value in content.get("tags", {}).items()}
        client.log_batch(
            run_id,
            metrics,
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in tags.items()],
            synchronous=True,
        )
        self.num_points += len(metrics)

    def source(self, content: dict[str, Any]) -> Path:
        """Where a file lies: in the journal, or, once the local store has it, among the local run's artifacts."""
        path: Path = self.spool.folder / content["file"]
        if path.exists() or self.local:
            return path
        local_run = LocalStore(self.spool.folder.parents[2]).client().get_run(self.record.run_id)
        return Path(url2pathname(urlsplit(local_run.info.artifact_uri).path)) / str(content["artifact"])

    def save(self, acknowledged: Sequence[Entry] = ()) -> None:
        """Keeps the cursor; then, not before, removes files that the local run has: other stores find them there."""
        try:
            replace_json(self.path, asdict(self.cursor))
        except OSError as error:  # a full disk: what is sent once more then, the store keeps once
            logger.warning("tracking: %s cannot be written (%s)", self.path, reason_of(error))
            return
        for entry in acknowledged:
            if self.local and "file" in entry.content:
                shutil.rmtree((self.spool.folder / entry.content["file"]).parent, ignore_errors=True)


class LocalStore:
    """The SQLite store under a checkpoint root: ``mlflow.db``, with the artifacts in ``mlflow-artifacts``."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = f"sqlite:///{quote(str(self.root / 'mlflow.db'))}"

    def is_at(self, uri: str) -> bool:
        """Whether an address, as a user may have written it, is this store."""
        prefix = "sqlite:///"
        return uri.startswith(prefix) and Path(unquote(uri.removeprefix(prefix))).absolute() == self.root / "mlflow.db"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Processes that start at the same time wait for each other here: MLflow's migrations fail where two of them meet."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / "mlflow.lock", fallback_to_soft=False):
            yield

    def client(self) -> "MlflowClient":
        """A client of the store, which is made if it is not there."""
        from mlflow import MlflowClient

        with self.alone():
            with closing(sqlite3.connect(self.root / "mlflow.db", timeout=SECONDS_FOR_LOCK)) as connection:
                # Of a file that is no database MLflow would try for 100 seconds to make one.
                connection.execute("PRAGMA schema_version")
            return MlflowClient(tracking_uri=self.uri)

    def experiment_id(self, name: str) -> str:
        """The experiment, which is made if it is not there."""
        client = self.client()
        with self.alone():
            experiment = client.get_experiment_by_name(name)
            if experiment is not None:
                return str(experiment.experiment_id)
            artifacts = self.root / "mlflow-artifacts" / name
            return client.create_experiment(name, artifact_location=artifacts.as_uri())


def prepare_mlflow() -> None:
    """Has MLflow call nobody but its stores, wait for none of them long, and be quiet. What the user has set stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the senders try again, less and less often
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs, with traceback, it raises too


def without_credentials(uri: str) -> str:
    """A store's address as it may be shown and written to files."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
