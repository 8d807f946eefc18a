"""Lines of text files, plain or gzip."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from transformer_architectures.errors import DataError


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines without their ending; only a line feed ends a line. Plain or gzip, by name.

    Raises:
        DataError: the file is missing or not what its name says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def decode(line: bytes) -> str | None:
    """UTF-8 text, a byte order mark removed; None if it is not UTF-8."""
    try:
        return line.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
