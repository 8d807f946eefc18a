"""Sending later what the stores of ended runs have not acknowledged: what `tarch sync` does."""

import os
from dataclasses import dataclass
from pathlib import Path

from transformer_architectures.errors import TrackingError
from transformer_architectures.training.tracking.destination import Destination, LocalStore, prepare_mlflow, read_cursor


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did, over all runs and stores.

    Attributes:
        num_points, num_artifacts: sent now and acknowledged.
        left: a line for each run and store that still lacks something, with the reason.
    """

    num_runs: int
    num_points: int
    num_artifacts: int
    left: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every store has everything."""
        return not self.left

    def __str__(self) -> str:
        sent = f"{self.num_runs} runs: {self.num_points} points and {self.num_artifacts} artifacts sent"
        return "\n".join([sent, *self.left] if self.left else [f"{sent}, nothing is left"])


def sync(path: Path) -> SyncReport:
    """Sends what the stores of a run, or of all runs under a root, have not acknowledged.

    The stores are the local one, the server that ``MLFLOW_TRACKING_URI`` names now, and, without that, those that a run was
    mirrored to. A run that is still going on sends by itself.

    Raises:
        TrackingError: there is no run at ``path``.
    """
    folders = sorted(
        folder for depth in ("", "*/", "*/*/") for folder in path.glob(f"{depth}tracking") if is_run(folder)
    )
    if not folders:
        raise TrackingError(f"{path}: there is no run here; name a run folder, or the checkpoint root above it")
    server = os.environ.get("MLFLOW_TRACKING_URI")
    prepare_mlflow()
    num_points = num_artifacts = 0
    left = []
    for folder in folders:
        try:
            found = destinations(folder, server)
        except TrackingError as error:
            left.append(str(error))
            continue
        for destination in found:
            with destination.exclusive() as alone:
                problem = "the run is still going on" if not alone else ""
                if alone and not destination.drain(retry_failed=True):
                    problem = destination.problem
            num_points += destination.num_points
            num_artifacts += destination.num_artifacts
            if destination.num_left:
                reason = problem or next(iter(destination.cursor.failed.values()))
                left.append(
                    f"{folder.parent}: {destination.num_left} entries are not at {destination.cursor.uri}: {reason}"
                )
    return SyncReport(len(folders), num_points, num_artifacts, tuple(left))


def is_run(folder: Path) -> bool:
    """Whether this is the ``tracking`` folder of a run."""
    return (folder / "run.json").exists()


def destinations(folder: Path, server: str | None) -> list[Destination]:
    """The stores that a run belongs to."""
    store = LocalStore(folder.parents[2])
    local = Destination(folder, store.uri, store)
    if server:
        return [local] if store.is_at(server) else [local, Destination(folder, server)]
    cursors = [cursor for path in sorted(folder.glob("acknowledged_*.json")) if (cursor := read_cursor(path))]
    return [local, *(Destination(folder, cursor.uri) for cursor in cursors if cursor.uri != "local")]
