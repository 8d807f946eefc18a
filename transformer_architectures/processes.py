"""Processes that help this one: how many, what they do with signals, and where they may not be started."""

import multiprocessing
import os
import signal

from transformer_architectures.errors import UsageError


def available_cores() -> int:
    """Cores that this process may use: of a machine of 64, a container may have two."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ignore_signals(worker_id: int = 0) -> None:
    """For a worker: a signal to the process group must stop the loop at a safe point, not its workers at once."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def may_have_children() -> bool:
    """Whether this process may start others (a worker of `multiprocessing.Pool` may not)."""
    return not multiprocessing.current_process().daemon


def refuse_while_starting() -> None:
    """To be called before work for which processes are started.

    Raises:
        UsageError: this process is such a one, importing the script that started it: it would start others in turn.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError("a script that sets up data must do so under `if __name__ == '__main__':`")
