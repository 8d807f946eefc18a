"""A file layer that fails: the n-th write, flush, rename or new folder of a piece of code goes wrong in a chosen way."""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest

from transformer_architectures.pretrained import model_folder


class Killed(BaseException):
    """The process ends here, as far as anybody sees: nothing in the library catches it."""


class Faults:
    """Counts the operations that change the disk, and fails the one of number ``at`` (from 1; 0: none).

    Args:
        how: an error number, `Killed`, or `signal.SIGKILL`, which really ends the process.
    """

    def __init__(self, at: int = 0, how: int | type[Killed] = errno.ENOSPC) -> None:
        self.at, self.how = at, how
        self.operations: list[str] = []

    def before(self, operation: str) -> None:
        """An operation is about to be done."""
        self.operations.append(operation)
        if len(self.operations) == self.at:
            if self.how is Killed:
                raise Killed
            if self.how is signal.SIGKILL:
                os.kill(os.getpid(), signal.SIGKILL)
            assert isinstance(self.how, int)
            raise OSError(self.how, os.strerror(self.how))


class FailingFile(io.FileIO):
    """A file of which a write may fail when half of the bytes are there."""

    faults: Faults

    def write(self, data: Any) -> int:
        try:
            self.faults.before("write")
        except OSError:
            super().write(bytes(data)[: len(data) // 2])
            raise
        return super().write(data)


@contextmanager
def failing(faults: Faults) -> Iterator[Faults]:
    """Inside the block every operation passes through ``faults``."""
    open_file, save_file = io.open, model_folder.save_file

    def open_failing(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return open_file(file, mode, buffering, *arguments, **options)
        raw = FailingFile(file, mode.replace("b", "").replace("t", ""))
        raw.faults = faults
        if "b" in mode:
            return io.BufferedWriter(raw) if buffering else raw
        return io.TextIOWrapper(io.BufferedWriter(raw), **{"encoding": "utf-8", **options})

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            faults.before(name)
            return function(*arguments, **options)

        return call

    def save_failing(tensors: Any, path: Path, **options: Any) -> None:
        """Written by native code, which says in its own words what was wrong, and may leave half of the file."""
        try:
            faults.before("save_file")
        except OSError as error:
            Path(path).write_bytes(b"\x40\0\0\0")
            raise model_folder.SafetensorError(f"Error while serializing: {error}") from None
        save_file(tensors, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace", "rename", "mkdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(io, "open", open_failing)
        patch.setattr(builtins, "open", open_failing)
        patch.setattr(model_folder, "save_file", save_failing)
        yield faults


def number_of_operations(action: Callable[[], Any]) -> int:
    """How many there are when nothing fails."""
    with failing(Faults()) as faults:
        action()
    return len(faults.operations)


def killed_at(action: Callable[[], Any], at: int) -> bool:
    """Does it in a process of its own, which is killed just before operation number ``at``; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            with failing(Faults(at, signal.SIGKILL)):
                action()
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0
