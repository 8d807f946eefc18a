"""Folders that are made once and kept: there whole or not at all, whoever asks and whenever a process dies."""

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformer_architectures.durable_files import flush_to_disk
from transformer_architectures.errors import DataError


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder; if it is not there, ``make`` fills a temporary one beside it, which then gets its name.

    Two processes that want the same folder at once: one makes it, the other waits.

    Raises:
        DataError: nothing can be written there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(folder.parent)
    except OSError as error:
        raise DataError(f"{folder.parent}: cannot be used as Data.cache_dir ({error.strerror})") from None
    with _only_one(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            for left_over in folder.parent.glob(f"{folder.name}.part.*"):  # of one that was killed meanwhile
                shutil.rmtree(left_over, ignore_errors=True)
            work = _new_folder(folder)
            try:
                make(work)
                for path in [*work.rglob("*"), work]:
                    flush_to_disk(path)
                work.rename(folder)
            except OSError as error:
                raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def _remove_left_overs(parent: Path) -> None:
    """Removes what killed processes left half made: whose lock nobody holds."""
    for left_over in parent.glob("*.part.*"):
        with left_over.with_name(f"{left_over.name.partition('.part.')[0]}.lock").open("w") as file:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left_over, ignore_errors=True)


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


def _new_folder(folder: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=f"{folder.name}.part.", dir=folder.parent))
    except OSError as error:
        raise DataError(f"{folder.parent}: cannot be used as Data.cache_dir ({error.strerror})") from None


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel releases when the process dies."""
    try:
        file = path.open("w")
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be used as Data.cache_dir ({error.strerror})") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
