"""Lines of text from files and pipes, and back: one line in is one line out, whatever it holds."""

import codecs
import sys
from collections.abc import Iterator
from pathlib import Path

from transformer_architectures.datasets.lines import read_lines


def read_text_lines(path: str | None) -> Iterator[str]:
    """Lines of a file (plain or ``.gz``), or of standard input for None and ``-``.

    Only a line feed ends a line; a carriage return before it is dropped. Bytes that are no UTF-8 become U+FFFD, and
    standard error says at the end in how many lines.

    Raises:
        DataError: the file cannot be read.
    """
    is_file = path is not None and path != "-"
    lines = read_lines(Path(path)) if is_file and path else _standard_input()
    num_bad = 0
    for number, line in enumerate(lines):
        if number == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            num_bad += 1
            yield line.decode("utf-8", errors="replace")
    if num_bad:
        print(f"{num_bad} input lines are not UTF-8; what could not be read became U+FFFD", file=sys.stderr)


def as_one_line(text: str) -> str:
    """The text with a space for everything that any reader might take for the end of a line."""
    return " ".join(text.splitlines())


def _standard_input() -> Iterator[bytes]:
    for line in sys.stdin.buffer:
        yield line.removesuffix(b"\n").removesuffix(b"\r")
