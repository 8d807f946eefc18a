"""A lock on a file, between processes and between the threads of one, that dies with its holder."""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_of_path: dict[Path, threading.Lock] = {}


@contextmanager
def holding(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether the lock is held inside the block: always, but for ``wait=False`` where another process or thread has it.

    Not by `flock`: forked processes would hold that too, so that the workers of a loader kept it when it is given back, for an
    epoch, or when its holder is killed, for some seconds. What `lockf` takes belongs to the process, so its threads need a
    lock of their own; and the file must not be opened elsewhere, as closing it anywhere gives the lock back.

    Raises:
        OSError: the file cannot be written.
    """
    among_threads = _of_path.setdefault(path.absolute(), threading.Lock())
    if not among_threads.acquire(blocking=wait):
        yield False
        return
    try:
        with path.open("w") as file:
            yield _lock(file.fileno(), wait)
    finally:
        among_threads.release()


def _lock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):  # which of them says that it is taken depends on the system
        return False
    return True
