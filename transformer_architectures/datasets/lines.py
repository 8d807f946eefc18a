"""Lines of text files, plain or gzip, and the records of JSON lines."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_architectures.errors import DataError, reason_of

MAX_LINE_BYTES = 2**26  # a small .gz can hold a line that no memory can

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_lines(path: Path, keep_ends: bool = False) -> Iterator[bytes]:
    """Lines of a plain or gzip file (its name says which); only a line feed ends a line.

    Args:
        keep_ends: with their endings, a line feed or a carriage return and a line feed.

    Raises:
        DataError: the file is missing or not what its name says, or has a line that is too long.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{path}: has a line of more than {MAX_LINE_BYTES:,} bytes")
                yield line if keep_ends else line.removesuffix(b"\n").removesuffix(b"\r")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)})") from None


def decode(line: bytes) -> str | None:
    """UTF-8 text, a byte order mark removed; None if it is not UTF-8."""
    try:
        return line.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None


def numbered_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1; a byte order mark at the beginning of the file is removed.

    Bytes that are not UTF-8 become lone surrogates, which `is_utf8_text` finds.

    Raises:
        DataError: as `read_lines`.
    """
    for number, line in enumerate(read_lines(path), start=1):
        text = line.decode("utf-8", errors="surrogateescape")
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def decode_record(line: bytes) -> dict[str, Any] | str:
    """The object in a line of JSON (an empty one if it is something else), or the reason why it cannot be read."""
    text = decode(line)
    if text is None:
        return "not UTF-8"
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}"
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets in thousands of brackets
        return "not JSON that can be read: too large a number or too deep"
    return record if isinstance(record, dict) else {}


def is_utf8_text(text: str) -> bool:
    """Whether a text has no lone surrogates. They come from escapes in JSON, and from `numbered_text_lines`."""
    return _SURROGATE.search(text) is None


def text_format(path: Path) -> str:
    """The format that a file's name states: the ending before ``.gz``."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
