"""Examples that cannot be used: counted by reason and listed in a file. Too many are an error, and so is any one that would be scored."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from transformer_architectures.errors import DataError

REJECTED = "rejected.jsonl"

Example = TypeVar("Example")


class Rejection(NamedTuple):
    """An example, a line, or a whole file that cannot be used."""

    file: str
    line: int | None  # counted from 1; None: the file as a whole
    reason: str


@runtime_checkable
class Writable(Protocol):
    """An open text file."""

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
        """Counts a rejection, and lists it."""
        self.reasons[rejection.reason] += 1
        if self.file is not None:
            entry = {name: value for name, value in rejection._asdict().items() if value is not None}
            self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def __len__(self) -> int:
        return self.reasons.total()

    def check(self, accepted: int, max_fraction: float, what: str) -> None:
        """Stops the run if too large a fraction was rejected.

        Args:
            accepted: how many examples of the same kind could be used.
            max_fraction: `Data.max_rejected_fraction`.
            what: the kind, for the message: "training rows".

        Raises:
            DataError: the fraction of rejections is over the limit.
        """
        fraction = len(self) / max(accepted + len(self), 1)
        if fraction > max_fraction:
            raise DataError(
                f"{fraction:.2%} of the {what} were rejected, over Data.max_rejected_fraction {max_fraction:.2%}"
                + self.summary()
            )

    def summary(self) -> str:
        """The most frequent reasons, in brackets; an empty text if nothing was rejected."""
        counts = ", ".join(f"{count} × {reason}" for reason, count in self.reasons.most_common(5))
        where = "" if self.file is None else f"; see {REJECTED}"
        return f" ({counts}{where})" if counts else ""


@contextmanager
def rejection_list(path: Path | None) -> Iterator[RejectionLog]:
    """A log that also lists rejections in a file, if a path is given."""
    if path is None:
        yield RejectionLog()
        return
    with path.open("w", encoding="utf-8") as file:
        yield RejectionLog(file)


def all_usable(examples: Iterable[Example | Rejection], what: str = "row") -> Iterator[Example]:
    """Examples that are scored: leaving a bad one out would make the score that of other data.

    Args:
        what: an example, for the message: "row of the test split".

    Raises:
        DataError: one cannot be used.
    """
    for example in examples:
        if isinstance(example, Rejection):
            raise refusal(example, what)
        yield example


def refusal(rejection: Rejection, what: str = "row") -> DataError:
    """The error of a bad example that is to be scored."""
    place = f"{rejection.file}:{rejection.line}"
    return DataError(f"{place}: {rejection.reason}: correct or remove it, because every {what} is scored")
