"""Stopping on request: a signal asks, the loop answers at the next safe point."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# §9 of the design: what the schedulers of clusters send, and the exit codes that they expect.
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
if hasattr(signal, "SIGUSR1"):  # not on Windows
    EXIT_CODES[signal.SIGUSR1] = 138


class Stopped(SystemExit):
    """The run was asked to stop, left a checkpoint and ends with the signal's exit code."""


class StopRequest:
    """Remembers the first signal; a second SIGINT interrupts at once, for the impatient."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.has_nothing_to_save = False

    def __call__(self) -> bool:
        """Whether somebody asked the run to stop."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, or 0 without a signal."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)
        if self.has_nothing_to_save:
            raise Stopped(self.exit_code)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside the block a signal ends the run where it is."""
        if self():
            raise Stopped(self.exit_code)
        self.has_nothing_to_save = True
        try:
            yield
        finally:
            self.has_nothing_to_save = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns SIGTERM, SIGINT and (not on Windows) SIGUSR1 into a `StopRequest` inside the block, and restores the old handlers after it."""
    request = StopRequest()
    previous = {number: signal.signal(number, request.receive) for number in EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
