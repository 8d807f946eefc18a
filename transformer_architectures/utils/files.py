"""Files that are whole or absent, also after a power cut: written beside, flushed to the disk, renamed."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def temporary_name(path: Path) -> Path:
    """The name under which this process writes a file; what a killed one left ends with ``.tmp`` too."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def replace_file(path: Path, content: bytes) -> None:
    """Writes a small file at once: a reader sees the old one or the new one."""
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """`replace_file` for a JSON object."""
    replace_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def sha256_of(path: Path) -> str:
    """The digest of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_to_disk(path: Path) -> None:
    """A file's content, or a folder's names: a rename is on disk only when its folder is.

    Windows opens no folders, so their names are left to the file system's journal; and it flushes only what is open for writing.
    """
    is_windows = not hasattr(os, "O_DIRECTORY")
    if is_windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
