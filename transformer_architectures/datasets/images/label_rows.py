"""Rows of an OpenImages label file, streamed by Arrow: a block of rows at a time, as numbers."""

import codecs
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from jaxtyping import Bool, Int32

from transformer_architectures.datasets.lines import read_lines
from transformer_architectures.datasets.rejections import Rejection, RejectionLog
from transformer_architectures.errors import DataError, reason_of

BLOCK_BYTES = 2**23
COLUMNS = ("ImageID", "LabelName", "Confidence")
LEFT_OUT = -1  # a good row that is not asked for
_BAD = -2
NOT_UTF8 = "\x1a"  # the control character "substitute", which is no text

# What a cell means: a number from 0, `LEFT_OUT`, or the reason why it is bad.
Meaning = Callable[[str], int | str]


class LabelBlock(NamedTuple):
    """Some rows of a file, in order."""

    ids: pa.Array  # of `large_string`
    class_codes: Int32[np.ndarray, "rows"]
    is_positive: Bool[np.ndarray, "rows"]
    num_left_out: int


def read_label_rows(path: Path, label: Meaning, confidence: Meaning, rejections: RejectionLog) -> Iterator[LabelBlock]:
    """The usable rows of a file with the columns `ImageID`, `LabelName` and `Confidence` (others are passed over).

    A row with the wrong number of columns, a cell that is not UTF-8, or one that has no meaning goes to ``rejections`` with its line.
    Empty lines are passed over. Quotes are ordinary characters, unless the header has them.

    Args:
        label: gives the code of a class.
        confidence: gives 1 (present) or 0 (absent).

    Raises:
        DataError: the file is missing, damaged, or has other columns.
    """
    bad_lines: list[int] = []  # of the wrong number of columns: they never come out of the reader

    def skip(row: Any) -> str:
        reason = f"{row.actual_columns} columns instead of {row.expected_columns}"
        rejections.add(Rejection(str(path), row.number, reason))
        bad_lines.append(row.number)
        return "skip"

    num_rows = 0
    try:
        first_line = next(read_lines(path), b"").decode(errors="replace")
        header = [name.strip('"\ufeff ') for name in first_line.split(",")]
        if twice := [name for name in COLUMNS if header.count(name) > 1]:
            raise DataError(f"{path}: several columns are called {twice[0]}")
        for batch in _open(path, skip, is_quoted='"' in first_line):
            columns = [batch.column(name) for name in COLUMNS]
            cells = _Cells(*columns, label, confidence)
            for row in np.flatnonzero(cells.is_bad).tolist():
                line = _line_of(num_rows + row, bad_lines)
                rejections.add(Rejection(str(path), line, cells.reason(row)))
            num_rows += batch.num_rows
            yield cells.block()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as a label file: {reason_of(error)}") from None


class _Cells:
    """The three columns of a batch, with a verdict on each row."""

    def __init__(self, ids: pa.Array, labels: pa.Array, confidences: pa.Array, *meanings: Meaning) -> None:
        self.columns, self.meanings = (ids, labels, confidences), (_id_meaning, *meanings)
        self.labels, self.confidences = (
            _codes(column, meaning) for column, meaning in zip(self.columns[1:], meanings, strict=True)
        )
        is_bad_id = pc.or_(pc.equal(ids, ""), pc.match_substring(ids, NOT_UTF8)).to_numpy(zero_copy_only=False)
        is_bad = is_bad_id | (self.labels == _BAD) | (self.confidences == _BAD)
        is_empty = np.logical_and.reduce([pc.equal(cells, "").to_numpy(zero_copy_only=False) for cells in self.columns])
        self.is_bad = is_bad & ~is_empty
        self.is_left_out = ~is_bad & ((self.labels == LEFT_OUT) | (self.confidences == LEFT_OUT))
        self.is_usable = ~is_bad & ~self.is_left_out

    def reason(self, row: int) -> str:
        """Why a row is bad."""
        for column, meaning in zip(self.columns, self.meanings, strict=True):
            if isinstance(found := _meaning_of(column[row].as_py(), meaning), str):
                return found
        raise AssertionError("the row is not bad")

    def block(self) -> LabelBlock:
        """What can be used."""
        return LabelBlock(
            ids=self.columns[0].filter(pa.array(self.is_usable)),
            class_codes=self.labels[self.is_usable],
            is_positive=self.confidences[self.is_usable] == 1,
            num_left_out=int(self.is_left_out.sum()),
        )


class _ValidText(io.RawIOBase):
    """A file whose bytes that are not UTF-8 are replaced by `NOT_UTF8`; else one of them would end Arrow's reading."""

    def __init__(self, file: pa.NativeFile) -> None:
        self.file, self.incomplete = file, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, none only at the end."""
        while True:
            new = self.file.read(size - len(self.incomplete))
            content: bytes = self.incomplete + new
            if content.isascii():
                self.incomplete = b""
                return content
            # A character may be cut by the end of what was read. The replacement is shorter than what it stands for.
            text, used = codecs.utf_8_decode(content, "replace", not new)
            self.incomplete = content[used:]
            if text:
                return text.replace("\ufffd", NOT_UTF8).encode()


def _open(path: Path, skip: Callable[[Any], str], is_quoted: bool) -> pa.csv.CSVStreamingReader:
    compression = "gzip" if path.suffix == ".gz" else None
    return pa.csv.open_csv(
        _ValidText(pa.input_stream(str(path), compression=compression)),
        read_options=pa.csv.ReadOptions(
            use_threads=False, block_size=BLOCK_BYTES
        ),  # with threads, lines have no numbers
        parse_options=pa.csv.ParseOptions(
            invalid_row_handler=skip, quote_char='"' if is_quoted else False, ignore_empty_lines=False
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=COLUMNS, column_types=dict.fromkeys(COLUMNS, pa.large_string()), strings_can_be_null=False
        ),
    )


def _codes(column: pa.Array, meaning: Meaning) -> Int32[np.ndarray, "rows"]:
    """The meaning of each cell; it is asked for once for each distinct one."""
    encoded = column.dictionary_encode()
    meanings = (_meaning_of(cell, meaning) for cell in encoded.dictionary.to_pylist())
    codes = np.array([_BAD if isinstance(found, str) else found for found in meanings], dtype=np.int32)
    return codes[encoded.indices.to_numpy()]


def _meaning_of(cell: str, meaning: Meaning) -> int | str:
    return "not UTF-8" if NOT_UTF8 in cell else meaning(cell)


def _id_meaning(image_id: str) -> int | str:
    return 0 if image_id else "no ImageID"


def _line_of(row: int, bad_lines: list[int]) -> int:
    """The line of a row (from 0) of those that the reader gave; it gave no bad lines, and the header is line 1."""
    line = row + 2
    for bad_line in bad_lines:
        if bad_line > line:
            break
        line += 1
    return line
