"""What of the data cannot be used: said once, counted by reason, listed in a file, and too much of it is an error."""

import json
from collections import Counter
from typing import NamedTuple, Protocol, runtime_checkable

from transformer_architectures.errors import DataError

REJECTED = "rejected.jsonl"


class Rejection(NamedTuple):
    """A row, or a whole file, that cannot be used."""

    file: str
    line: int | None  # counted from 1; None: the file as a whole
    reason: str


@runtime_checkable
class Writable(Protocol):
    """An open text file, as far as a list needs one."""

    def write(self, text: str, /) -> object: ...


class RejectionLog:
    """Counts rejections and writes each as a JSON line.

    Args:
        file: an open text file for the list; without one there are only the counts.
    """

    def __init__(self, file: Writable | None = None) -> None:
        self.file = file
        self.reasons: Counter[str] = Counter()

    def add(self, rejection: Rejection) -> None:
        """Counts one, and lists it."""
        self.reasons[rejection.reason] += 1
        if self.file is not None:
            entry = {name: value for name, value in rejection._asdict().items() if value is not None}
            self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def __len__(self) -> int:
        return self.reasons.total()

    def check(self, accepted: int, max_fraction: float, what: str) -> None:
        """Stops the run if too large a share was rejected.

        Args:
            accepted: how many of the same kind could be used.
            max_fraction: `Data.max_rejected_fraction`.
            what: the kind, for the message: "training rows".

        Raises:
            DataError: the share of rejections is over the limit.
        """
        share = len(self) / max(accepted + len(self), 1)
        if share > max_fraction:
            raise DataError(
                f"{share:.2%} of the {what} were rejected, over Data.max_rejected_fraction {max_fraction:.2%}"
                + self.summary()
            )

    def summary(self) -> str:
        """The most frequent reasons, in brackets; empty if nothing was rejected."""
        counts = ", ".join(f"{count} × {reason}" for reason, count in self.reasons.most_common(5))
        where = "" if self.file is None else f"; see {REJECTED}"
        return f" ({counts}{where})" if counts else ""
