"""Processes that help this one: how many, what they do with signals, and what they may see of it."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.process import BaseProcess
from weakref import WeakSet

import psutil

from transformer_architectures.errors import LostWorkerError, release_frames


def available_cores() -> int:
    """Cores that this process may use: of a machine of 64, a container may have two."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# What asks a run to stop. Windows has no SIGUSR1.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


def ignore_signals() -> None:
    """For a process that has been started fresh: a signal to the process group must not end it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_deaf: "WeakSet[BaseProcess]" = WeakSet()


@contextmanager
def block_signals_in_workers() -> Iterator[None]:
    """Processes that are forked inside this block hear no signal: one to the process group must stop the loop at a safe point, not its
    workers at once. This process hears it after the block.

    Nor do they hear the SIGTERM by which Python, at its end, asks its children to go before it waits for them; it kills these.

    Windows blocks no signals: there Ctrl-C ends the workers too, and the run with them.
    """
    others = set(multiprocessing.active_children())
    can_block = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS) if can_block else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _deaf.update(set(multiprocessing.active_children()) - others)
        _kill_workers_at_exit()


@cache
def _kill_workers_at_exit() -> None:
    atexit.register(_end, _deaf)  # the last that is registered comes first: before multiprocessing's own


def _end(children: Iterable[BaseProcess]) -> None:
    with _unheard_ends():
        for child in list(children):
            child.kill()
            child.join(5)


@contextmanager
def _unheard_ends() -> Iterator[None]:
    """torch's handler raises an error wherever this process is when a worker is killed that a loader still counts on.

    Windows has no SIGCHLD, and torch sets no handler there.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Raises a RuntimeError in the middle of the block if it takes longer; 0 is no limit, nor is there one outside of the main thread.

    Windows has no SIGALRM, and nothing else interrupts a call that waits: there is no limit there.
    """
    if not seconds or not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: object) -> None:
        raise RuntimeError(message)

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def loader_workers() -> Iterator[None]:
    """Deaf children that are started inside this block do not outlive it, however it ends: an exception may still hold the loader that
    would have to tell them to go.

    Raises:
        LostWorkerError: one was killed, or gives nothing in time; it is named.
    """
    before = set(_deaf)
    try:
        yield
    except BaseException as error:
        stopped = [str(worker.pid) for worker in set(_deaf) - before if _is_stopped(worker.pid)]
        release_frames(error)  # ends the loaders in them
        if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader "):
            raise
        named = f" (process {', '.join(stopped)} was stopped)" if stopped else ""
        raise LostWorkerError(f"a worker that loads batches is lost{named}: {str(error).splitlines()[0]}") from None
    finally:
        _end(set(_deaf) - before)


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
