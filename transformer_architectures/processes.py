"""Processes that help this one: how many, what they do with signals, and what they may see of it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from transformer_architectures.errors import LostWorkerError


def available_cores() -> int:
    """Cores that this process may use: of a machine of 64, a container may have two."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ignore_signals(worker_id: int = 0) -> None:
    """For a worker: a signal to the process group must stop the loop at a safe point, not its workers at once."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Inside this block a worker of a `DataLoader` that is killed, or gives nothing in time, is an error that names it.

    All workers are killed then: one that was stopped would stay for ever.

    Raises:
        LostWorkerError: instead of torch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader "):
            raise
        workers = multiprocessing.active_children()
        stopped = [worker.pid for worker in workers if _is_stopped(worker.pid)]
        for worker in workers:
            worker.kill()
        named = f" (process {', '.join(map(str, stopped))} was stopped)" if stopped else ""
        raise LostWorkerError(f"a worker that loads batches is lost{named}: {str(error).splitlines()[0]}") from None
    finally:  # one that was stopped after its last batch: Python would wait for it at its end
        for worker in multiprocessing.active_children():
            if _is_stopped(worker.pid):
                worker.kill()


def _is_stopped(pid: int | None) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def may_have_children() -> bool:
    """Whether this process may start others (a worker of `multiprocessing.Pool` may not)."""
    return not multiprocessing.current_process().daemon


@contextmanager
def without_main_module() -> Iterator[None]:
    """Processes that are spawned inside this block do not import the script that started them.

    They need nothing of it, and a script that does not do its work under ``if __name__ == "__main__":`` would do it again in
    each of them, and start others.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, object] = {
        name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__
    }
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
