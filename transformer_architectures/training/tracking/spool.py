"""The journal of a run: everything that is to be tracked goes first to a file in the run folder, and from there to the stores.

An entry is one JSON line, of one kind: ``metrics`` (with ``step`` and ``time``), ``params``, ``tags``, ``status`` (with
``time``), ``artifact`` (a ``file`` of the journal) or ``folder`` (sent as it is then). Times are milliseconds since 1970: they
are taken once, here, so that a point sent twice is the same point, which MLflow's stores keep once.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from transformer_architectures.errors import reason_of

logger = logging.getLogger(__name__)

MAX_UNWRITTEN_BYTES = 2**24  # of lines that wait in memory while the disk refuses them


@dataclass(frozen=True)
class Entry:
    """One line of the journal, and the bytes where it starts and ends."""

    start: int
    end: int
    content: dict[str, Any]


class Spool:
    """The journal in ``folder``, made if it is not there. Safe to use from several threads; writing never raises.

    A line that a killed machine left half written is removed when the journal is opened for writing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "spool.jsonl"
        self.guard = threading.Lock()
        self.descriptor: int | None = None
        self.unwritten = b""
        self.is_refused = False
        self.num_lost = 0
        self.num_files = 0

    def open(self) -> None:
        """Makes the journal ready for `append`. Raises OSError where the folder cannot be written."""
        (self.folder / "files").mkdir(parents=True, exist_ok=True)
        as_bytes = getattr(os, "O_BINARY", 0)  # without it Windows would write each line feed as two bytes
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | as_bytes, 0o644)
        content = self.path.read_bytes()
        os.ftruncate(self.descriptor, content.rfind(b"\n") + 1)

    def close(self) -> None:
        """Ends writing; later entries are refused with a warning."""
        with self.guard:
            if self.descriptor is not None:
                self.write()
                self.num_lost += self.unwritten.count(b"\n")
                if self.num_lost:
                    logger.warning(
                        "tracking: %d entries are lost, as %s could not be written", self.num_lost, self.path
                    )
                os.close(self.descriptor)
                self.descriptor = None

    def append(self, **content: Any) -> None:
        """Writes one entry: a short write into the page cache. What a full disk refuses is written with the next entry."""
        line = json.dumps(content).encode() + b"\n"
        with self.guard:
            if self.descriptor is None:
                logger.warning("tracking: the run is closed, an entry was dropped: %s", ", ".join(content))
                return
            if len(self.unwritten) + len(line) <= MAX_UNWRITTEN_BYTES:
                self.unwritten += line
            else:
                self.num_lost += 1
            self.write()

    def write(self) -> None:
        """Writes what waits; says once of each time that the disk is full."""
        assert self.descriptor is not None
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[os.write(self.descriptor, self.unwritten) :]
            self.is_refused = False
        except OSError as error:
            if not self.is_refused:
                logger.warning("tracking: %s cannot be written (%s), training goes on", self.path, reason_of(error))
            self.is_refused = True

    def add_file(self, content: bytes, artifact: str) -> None:
        """Keeps a file in the journal, to be sent as ``artifact``, its path among the run's artifacts."""
        with self.guard:
            self.num_files += 1
            name = f"files/{time.time_ns()}_{self.num_files}/{Path(artifact).name}"
        try:
            (self.folder / name).parent.mkdir()
            (self.folder / name).write_bytes(content)
        except OSError as error:
            logger.warning(
                "tracking: %s cannot be written (%s), training goes on", self.folder / name, reason_of(error)
            )
            shutil.rmtree((self.folder / name).parent, ignore_errors=True)
            return
        self.append(artifact=artifact, file=name)

    def read(self, offset: int = 0) -> Iterator[Entry]:
        """The whole lines from a byte on, in order. A damaged line is passed over with a warning."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start, offset = offset, offset + len(line)
                content = _content_of(line)
                if content is None:
                    logger.warning("tracking: %s is damaged at byte %d, that entry is lost", self.path, start)
                    content = {}
                yield Entry(start, offset, content)


# What an entry of each kind holds.
KINDS: dict[str, dict[str, type]] = {
    "metrics": {"metrics": dict, "step": int, "time": int},
    "params": {"params": dict},
    "tags": {"tags": dict},
    "status": {"status": str, "time": int},
    "artifact": {"artifact": str, "file": str},
    "folder": {"folder": str, "target": str},
}


def _content_of(line: bytes) -> dict[str, Any] | None:
    """The entry in a line, or None if it is damaged. Paths of another's journal never lead out of its run folder."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    types = {key: type_ for kind, of_kind in KINDS.items() if kind in content for key, type_ in of_kind.items()}
    if not all(type(content.get(key)) is type_ for key, type_ in types.items()):
        return None
    if not all(isinstance(value, int | float) for value in content.get("metrics", {}).values()):
        return None
    if not all(isinstance(text, str) for kind in ("params", "tags") for text in content.get(kind, {}).values()):
        return None
    paths = {key: PurePosixPath(content[key]) for key in types if key in ("artifact", "file", "folder", "target")}
    if any(path.is_absolute() or ".." in path.parts for path in paths.values()):
        return None
    if "file" in paths and (len(paths["file"].parts) != 3 or paths["file"].parts[0] != "files"):
        return None
    return content


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
