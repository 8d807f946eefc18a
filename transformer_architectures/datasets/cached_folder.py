"""Folders that are made once and kept: there whole or not at all, whoever asks and whenever a process dies."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from transformer_architectures.errors import DataError, reason_of
from transformer_architectures.utils.files import flush_to_disk

SIZES = ".sizes.json"  # of all other files of the folder, by relative path


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder; if it is not there, ``make`` fills a temporary one beside it, which then gets its name.

    Two processes that want the same folder at once: one makes it, the other waits.

    Raises:
        DataError: nothing can be written there, ``make`` fails to read or write a file, or the folder has lost something since.
    """
    with _need_of(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(folder.parent)
        with _lock_of(folder.name, folder.parent):
            if folder.is_dir():
                _check(folder)
            else:
                _make(folder, make)
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
        raise DataError(f"{path}: cannot be read ({reason_of(error)})") from None


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    for left_over in folder.parent.glob(f"{folder.name}.part.*"):  # of one that was killed meanwhile
        shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part.", dir=folder.parent))
    try:
        make(work)
        sizes = {path.relative_to(work).as_posix(): path.stat().st_size for path in work.rglob("*") if path.is_file()}
        (work / SIZES).write_text(json.dumps(sizes), encoding="utf-8")
        for path in [*work.rglob("*"), work]:
            flush_to_disk(path)
        work.rename(folder)
        flush_to_disk(folder.parent)
    except OSError as error:  # also of a file that is read
        raise DataError(f"{error.filename or folder}: {reason_of(error)} (while {folder} was made)") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check(folder: Path) -> None:
    """That every file is there, and as long as it was. A folder without a list of them is taken as it is."""
    with suppress(FileNotFoundError):
        try:
            sizes = json.loads((folder / SIZES).read_text(encoding="utf-8"))
            changed = [name for name, size in sizes.items() if _size(folder / name) != size]
        except (ValueError, AttributeError):
            changed = [SIZES]
        if changed:
            raise DataError(f"{folder}: damaged ({changed[0]} is not as it was): delete this folder, it is made anew")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _remove_left_overs(parent: Path) -> None:
    """Removes what killed processes left half made: whose lock nobody holds."""
    for left_over in parent.glob("*.part.*"):
        name = left_over.name.partition(".part.")[0]
        with suppress(Timeout), _lock_of(name, parent).acquire(blocking=False):
            shutil.rmtree(left_over, ignore_errors=True)


def _lock_of(name: str, parent: Path) -> FileLock:
    return FileLock(parent / f"{name}.lock", fallback_to_soft=False)  # see `RunFolder.lock`


@contextmanager
def _need_of(cache_dir: Path) -> Iterator[None]:
    """What the system refuses inside the block is said of the cache."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{cache_dir}: cannot be used as Data.cache_dir ({reason_of(error)})") from None
