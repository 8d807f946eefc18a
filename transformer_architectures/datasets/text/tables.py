"""Rows of tables with named columns: TSV and CSV with a header, JSON lines. Every row keeps its line number, whatever stands before it."""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer_architectures.datasets.lines import (
    decode_record,
    is_utf8_text,
    numbered_text_lines,
    read_lines,
    text_format,
)
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.errors import DataError


class TableRow(NamedTuple):
    """One row, with what stands in the columns that were asked for: text, or in JSON lines anything."""

    file: str
    line: int
    cells: tuple[Any, ...]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[TableRow | Rejection]:
    """The rows of a file, plain or ``.gz``; its name says what it is (``.csv``, ``.json`` and ``.jsonl``; else TSV).

    In TSV a tab always ends a cell and quotes are ordinary characters; in CSV a cell in quotes may hold commas and line feeds (then
    the row's line is the one where it begins). Empty lines are passed over.

    Raises:
        DataError: the file cannot be read, or its header does not have these columns.
    """
    match text_format(path):
        case ".json" | ".jsonl":
            yield from _read_json(path, columns)
        case ".csv":
            yield from _select(path, _csv_rows(path), columns)
        case _:
            lines = numbered_text_lines(path)
            yield from _select(path, ((number, line.split("\t")) for number, line in lines if line), columns)


def _select(
    path: Path, rows: Iterator[tuple[int, list[str] | str]], columns: Sequence[str]
) -> Iterator[TableRow | Rejection]:
    """The wanted columns of rows of cells, the first of which is the header. Instead of cells there may be a reason."""
    _, header = next(rows, (1, list[str]()))
    if isinstance(header, str):
        raise DataError(f"{path}: the header cannot be read ({header})")
    header = [name.strip() for name in header]
    if any(header.count(name) != 1 for name in columns):
        names = ", ".join(name[:40] for name in header[:20]) or "nothing"
        raise DataError(f"{path}: the header must have the columns {', '.join(columns)} once each; it has {names}")
    places = [header.index(name) for name in columns]
    for line, cells in rows:
        if isinstance(cells, str):
            yield Rejection(str(path), line, cells)
        elif not is_utf8_text("\t".join(cells)):
            yield Rejection(str(path), line, "not UTF-8")
        elif len(cells) != len(header):
            yield Rejection(str(path), line, f"{len(cells)} columns instead of {len(header)}")
        else:
            yield TableRow(str(path), line, tuple(cells[place] for place in places))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str] | str]]:
    """Numbered rows of cells, or why there are none.

    A quote that is never closed would take the rest of the file with it. Where a row comes out wrong, only its first line is given
    up, and reading goes on with the next one.
    """
    lines = numbered_text_lines(path)
    given_back: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []

    def take() -> Iterator[str]:
        while (numbered := given_back.popleft() if given_back else next(lines, None)) is not None:
            taken.append(numbered)
            yield numbered[1] + "\n"

    while True:
        taken.clear()
        try:
            cells = next(csv.reader(take(), strict=True), None)
        except csv.Error as error:
            given_back.extendleft(reversed(taken[1:]))
            yield taken[0][0], f"not CSV: {error}"
            continue
        if cells is None:
            return
        if cells:
            yield taken[0][0], cells


def _read_json(path: Path, columns: Sequence[str]) -> Iterator[TableRow | Rejection]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        record = decode_record(line)
        if isinstance(record, str):
            yield Rejection(str(path), number, record)
        elif missing := [name for name in columns if name not in record]:
            yield Rejection(str(path), number, f"no {' and no '.join(missing)}")
        else:
            yield TableRow(str(path), number, tuple(record[name] for name in columns))
