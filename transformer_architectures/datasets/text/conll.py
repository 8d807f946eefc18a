"""Sentences of CoNLL files: columns with one word a line (CoNLL-2003, WNUT-17), and CoNLL-U (Universal Dependencies).

A line of only white space ends a sentence: real files have lone tabs there. One bad line makes its whole sentence bad, because what
is left of it would be another sentence with other neighbours.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from transformer_architectures.datasets.lines import is_utf8_text, numbered_text_lines
from transformer_architectures.datasets.rejections import Rejection

CONLLU_COLUMNS = 10
DOCUMENT_START = "-DOCSTART-"  # stands in CoNLL-2003 where a document begins, like a sentence of its own
_BLANKS = re.compile("[ \t]+")


class TaggedText(NamedTuple):
    """A sentence of words, each with a tag, and where they stand.

    Attributes:
        lines: of each word.
    """

    file: str
    lines: tuple[int, ...]
    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def line(self) -> int:
        """Where the sentence begins."""
        return self.lines[0]


class ColumnsLayout(NamedTuple):
    """How the lines of a file are to be cut."""

    has_tabs: bool
    num_columns: int

    def cut(self, line: str) -> list[str]:
        """The columns of a line."""
        return line.split("\t") if self.has_tabs else _BLANKS.split(line.strip(" \t"))


def read_columns(
    path: Path, word_column: int, tag_column: int, count: Callable[[str], None]
) -> Iterator[TaggedText | Rejection]:
    """The sentences of a file with a word a line. Tabs part the columns, or spaces where the file has no tabs.

    All lines must have as many columns as most have: of a line that lost one, another column would be taken for the tag.

    Args:
        word_column, tag_column: counted from 0, or from the end with -1.
        count: is told what is passed over, or looks odd.
    """
    layout = _layout(path)
    first_words: Counter[bool] = Counter()
    for block in _blocks(path):
        rows = [(number, layout.cut(line)) for number, line in block]
        if rows[0][1][0] == DOCUMENT_START:  # mostly a sentence of its own
            count(f"{DOCUMENT_START} lines are passed over")
            rows = rows[1:]
        if rows:
            first_words[rows[0][1][0] == "#"] += 1
            yield _sentence(path, rows, layout.num_columns, word_column, tag_column)
    if 4 * first_words[True] > first_words.total():
        for _ in range(first_words[True]):
            count("sentences begin with '#', which is read as a word: these files have no comments")


def read_conllu(
    path: Path, word_column: int, tag_column: int, count: Callable[[str], None]
) -> Iterator[TaggedText | Rejection]:
    """The sentences of a CoNLL-U file, by syntactic words: comments, ranges (``1-2``) and empty nodes (``1.1``) are passed over.

    Word ids must be 1, 2, 3 ...: a line that is lost shows there.
    """
    for block in _blocks(path):
        rows: list[tuple[int, list[str]]] = []
        ids_are_right = True
        for number, line in block:
            columns = line.split("\t")
            if line.startswith("#"):
                continue
            if re.fullmatch(r"\d+-\d+", columns[0]):
                count("ranges of multiword tokens are passed over")
            elif re.fullmatch(r"\d+\.\d+", columns[0]):
                count("empty nodes are passed over")
            else:
                rows.append((number, columns))
                if ids_are_right and columns[0] != str(len(rows)):
                    ids_are_right = False
                    yield Rejection(str(path), number, f"word id {columns[0][:20]!r} instead of {len(rows)}")
        if rows and ids_are_right:
            yield _sentence(path, rows, CONLLU_COLUMNS, word_column, tag_column)


def _sentence(
    path: Path, rows: list[tuple[int, list[str]]], num_columns: int, word_column: int, tag_column: int
) -> TaggedText | Rejection:
    for number, columns in rows:
        if reason := _fault(columns, num_columns, word_column, tag_column):
            return Rejection(str(path), number, reason)
    lines, cells = zip(*rows, strict=True)
    words = tuple(columns[word_column] for columns in cells)
    return TaggedText(str(path), lines, words, tuple(columns[tag_column].strip() for columns in cells))


def _fault(columns: list[str], num_columns: int, word_column: int, tag_column: int) -> str | None:
    """Why a line is bad. A word may be anything but empty, even a space that no tokenizer sees: it has a tag and is scored."""
    if not is_utf8_text("\t".join(columns)):
        return "not UTF-8"
    if len(columns) != num_columns:
        return f"{len(columns)} columns instead of {num_columns}"
    if not -num_columns <= min(word_column, tag_column) <= max(word_column, tag_column) < num_columns:
        return f"no column {word_column} or {tag_column} among {num_columns}"
    if not columns[word_column]:
        return "no word"
    return None if columns[tag_column].strip() else "no tag"


def _layout(path: Path) -> ColumnsLayout:
    """As most lines are."""
    with_tabs: Counter[bool] = Counter()
    num_columns: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for block in _blocks(path):
        for _, line in block:
            with_tabs["\t" in line] += 1
            for has_tabs, counts in num_columns.items():
                counts[len(ColumnsLayout(has_tabs, 0).cut(line))] += 1
    has_tabs = with_tabs[True] > with_tabs[False]
    # Of equally frequent numbers the larger: columns get lost more easily than won.
    most = max(num_columns[has_tabs].items(), key=lambda item: (item[1], item[0]), default=(0, 0))
    return ColumnsLayout(has_tabs, most[0])


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """Numbered lines up to one of only white space."""
    block: list[tuple[int, str]] = []
    for number, line in numbered_text_lines(path):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block
