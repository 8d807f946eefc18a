"""Folders that are made once and kept: there whole or not at all, whoever asks and whenever a process dies."""

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformer_architectures.errors import DataError


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder; if it is not there, ``make`` fills a temporary one beside it, which then gets its name.

    Two processes that want the same folder at once: one makes it, the other waits.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            for left_over in folder.parent.glob(f"{folder.name}.part.*"):  # of a process that was killed
                shutil.rmtree(left_over, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part.", dir=folder.parent))
            try:
                make(work)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's content.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel releases when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
