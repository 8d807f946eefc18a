"""Faults, and a guard, that are planted in a process before it starts to train."""

import errno
import os
import re
import signal
import socket
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Plant = Callable[[], None]


def die() -> None:
    """As if the plug had been pulled."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class KillAfterStep:
    """Dies when an optimizer step is done, before anything of it is logged, scored or saved."""

    step: int

    def __call__(self) -> None:
        from transformer_architectures.training.state import RunState

        count = RunState.count

        def count_and_die(state: RunState, *arguments: Any) -> None:
            count(state, *arguments)
            if state.global_step == self.step:
                die()

        RunState.count = count_and_die  # type: ignore[method-assign]


@dataclass(frozen=True)
class KillAtNextFileOperation:
    """Dies before or after a flush or rename of the training thread, at the first place that it meets whose line is not in a file
    yet; the line is added then. So a chain of processes dies once at each place.
    """

    met: Path
    which: str = ""

    def __call__(self) -> None:
        met = set(self.met.read_text().splitlines()) if self.met.exists() else set()

        def pass_by(place: str) -> None:
            if threading.current_thread() is not threading.main_thread() or place in met:
                return
            if re.search(self.which, place):
                with self.met.open("a") as file:
                    file.write(f"{place}\n")
                die()

        def around(call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **options: Any) -> Any:
                place = f"{call.__name__} {name(*arguments)}"
                pass_by(f"before {place}")
                result = call(*arguments, **options)
                pass_by(f"after {place}")
                return result

            return wrapped

        os.fsync = around(os.fsync, lambda descriptor: short(os.readlink(f"/proc/self/fd/{descriptor}")))
        os.replace = around(os.replace, lambda source, target: short(target))
        os.rename = around(os.rename, lambda source, target: short(target))


def short(path: str | os.PathLike[str]) -> str:
    """A file as a line names it: without what differs from process to process."""
    path = Path(path)
    name = f"{path.parent.name}/{path.name}" if path.parent.suffix == ".shares" else path.name
    name = re.sub(r"-[0-9a-f]{8}\.shares", ".shares", re.sub(r"\.\d+\.tmp$", ".tmp", name))
    return re.sub(r"^[a-z]+-[a-z]+-\d+_[0-9a-f]{6}$", "a run's folder", name)


@dataclass(frozen=True)
class NoCallsWhileTraining:
    """Lets the training thread call no store and no network between start and end of `Trainer.run`.

    Whoever tries gets an error, and so does the run at its end, should somebody have caught the first one.
    """

    def __call__(self) -> None:
        import requests
        import sqlalchemy

        from transformer_architectures.training.loop import Trainer

        calls: list[str] = []
        training = threading.Event()

        def refuse(what: str) -> None:
            if training.is_set() and threading.current_thread() is threading.main_thread():
                calls.append(f"{what}\n{''.join(traceback.format_stack())}")
                raise AssertionError(f"the training thread called {what}")

        def guarded(holder: Any, name: str, is_call: Callable[..., bool] = lambda *arguments: True) -> None:
            call = getattr(holder, name)

            def wrapped(*arguments: Any, **options: Any) -> Any:
                if is_call(*arguments):
                    refuse(f"{holder.__name__}.{name}")
                return call(*arguments, **options)

            setattr(holder, name, wrapped)

        # Processes of one machine talk by sockets too: a loader's workers hand over their batches so.
        guarded(socket.socket, "connect", lambda here, *_: here.family != socket.AF_UNIX)
        guarded(socket, "getaddrinfo")
        guarded(requests.Session, "send")
        guarded(sqlite3, "connect")
        sqlalchemy.event.listen(
            sqlalchemy.Engine, "before_cursor_execute", lambda *_: refuse("sqlalchemy.Engine.execute")
        )
        run = Trainer.run

        def guarded_run(trainer: Trainer, *arguments: Any) -> None:
            training.set()
            try:
                run(trainer, *arguments)
            finally:
                training.clear()
            assert not calls, calls[0]

        Trainer.run = guarded_run  # type: ignore[method-assign]


@dataclass(frozen=True)
class WaitAtSteps:
    """Training stops after each of the given steps until the test has made a file: it can then break what it wants to."""

    folder: Path
    steps: tuple[int, ...]

    def __call__(self) -> None:
        from transformer_architectures.training.state import RunState

        count = RunState.count

        def count_and_wait(state: RunState, *arguments: Any) -> None:
            count(state, *arguments)
            if state.global_step in self.steps:
                (self.folder / f"at_{state.global_step}").touch()
                while not (self.folder / f"go_{state.global_step}").exists():
                    time.sleep(0.01)

        RunState.count = count_and_wait  # type: ignore[method-assign]


@dataclass(frozen=True)
class FullDisk:
    """From one step to another nothing can be added to the journal, nor can be kept how far a store is."""

    first_step: int
    last_step: int

    def __call__(self) -> None:
        from transformer_architectures.training.state import RunState
        from transformer_architectures.training.tracking import destination as tracking_destination

        count, write, replace_json, is_full = RunState.count, os.write, tracking_destination.replace_json, False

        def count_and_fill(state: RunState, *arguments: Any) -> None:
            nonlocal is_full
            count(state, *arguments)
            is_full = self.first_step <= state.global_step < self.last_step

        def refuse() -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def write_if_not_full(descriptor: int, data: bytes) -> int:
            if is_full and os.readlink(f"/proc/self/fd/{descriptor}").endswith("spool.jsonl"):
                refuse()
            return write(descriptor, data)

        def replace_if_not_full(path: Path, content: Mapping[str, Any]) -> None:
            if is_full:
                refuse()
            replace_json(path, content)

        RunState.count = count_and_fill  # type: ignore[method-assign]
        os.write = write_if_not_full
        tracking_destination.replace_json = replace_if_not_full


@dataclass(frozen=True)
class Hurry:
    """All waits of the senders are shorter by a factor, but for MLflow's own: of a call to a server, 1 second."""

    factor: float

    def __call__(self) -> None:
        from transformer_architectures.training.tracking import sender as tracking_sender

        tracking_sender.SEND_INTERVAL *= self.factor
        tracking_sender.LONGEST_WAIT *= self.factor
        tracking_sender.LONGEST_SILENCE *= self.factor
        if self.factor < 1:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "1"


@dataclass(frozen=True)
class TimeTheEnd:
    """Leaves a file when the tracker is about to be closed: the exit begins there."""

    mark: Path

    def __call__(self) -> None:
        from transformer_architectures.training.tracking.tracker import Tracker

        close = Tracker.close

        def mark_and_close(tracker: Tracker, *arguments: Any) -> None:
            self.mark.write_text(str(time.time()))
            close(tracker, *arguments)

        Tracker.close = mark_and_close  # type: ignore[method-assign]
