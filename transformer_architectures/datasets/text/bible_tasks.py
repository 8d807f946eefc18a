"""Two tasks on the embedded Bible, whose labels come with the text: the kind of book, and punctuation with capitals.

Splits are the chapters of `bible.split_of_chapter`, as everywhere. All versions have the same splits: a verse of a test chapter is in no
other split of any version. (The Bible repeats itself, though: Kings and Chronicles, and the first three gospels, tell the same stories.)
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text.bible import BibleVersion, Verse, chapters

BookKind = Literal["law", "history", "wisdom", "prophets", "gospels", "letters"]

# Books are numbered as in Protestant Bibles, from 1; a row says where each kind begins and why these belong together.
_KIND_FROM: tuple[tuple[int, BookKind, str], ...] = (
    (1, "law", "Genesis to Deuteronomy, the five books of the Law (Torah)"),
    (6, "history", "Joshua to Esther: the land, the kings, the exile"),
    (18, "wisdom", "Job, Psalms, Proverbs, Ecclesiastes, Song of Songs: poetry and wisdom"),
    (23, "prophets", "Isaiah to Malachi, with Lamentations as it stands in Christian Bibles"),
    (40, "gospels", "Matthew to John: four tellings of one life"),
    (44, "history", "Acts: the only history of the New Testament"),
    (45, "letters", "Romans to Jude, all of them letters"),
    (66, "prophets", "Revelation calls itself prophecy (1:3, 22:7) and speaks in the prophets' images"),
)
NUM_BOOKS = 66


class KindVerse(NamedTuple):
    """A verse, the kind of its book, and its place."""

    file: str
    line: int
    text: str
    kind: BookKind


class PunctuationVerse(NamedTuple):
    """A verse as lower-cased words without punctuation, tags of what was removed, and its place."""

    file: str
    line: int
    words: tuple[str, ...]
    tags: tuple[str, ...]


def kind_of_book(book: int) -> BookKind:
    """The kind of a book, by its number from 1 to 66.

    Raises:
        ValueError: there is no such book.
    """
    if not 1 <= book <= NUM_BOOKS:
        raise ValueError(f"the Bible has no book {book}")
    return next(kind for first, kind, _ in reversed(_KIND_FROM) if first <= book)


def verses_by_kind(versions: Sequence[BibleVersion], split: Split) -> Iterator[KindVerse]:
    """The verses of a split, version by version, each with the kind of its book."""
    for place, verse in _verses(versions, split):
        if verse.text:
            yield KindVerse(place, verse.verse, verse.text, kind_of_book(verse.book))


def verses_without_punctuation(versions: Sequence[BibleVersion], split: Split) -> Iterator[PunctuationVerse]:
    """The verses of a split, version by version, each as `without_punctuation` gives it; the few without a word are left out."""
    for place, verse in _verses(versions, split):
        words, tags = without_punctuation(verse.text)
        if words:
            yield PunctuationVerse(place, verse.verse, words, tags)


def _verses(versions: Sequence[BibleVersion], split: Split) -> Iterator[tuple[str, Verse]]:
    """Each with the name of its chapter."""
    for version in versions:
        for chapter in chapters(version, split):
            place = f"bible {version} {chapter[0].book}:{chapter[0].chapter}"
            yield from ((place, verse) for verse in chapter)


# ---------------------------------------------------------------------------------------------------------------------
# Punctuation and capitals
# ---------------------------------------------------------------------------------------------------------------------

# Letters and digits, with apostrophes and hyphens inside.
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_MARK = re.compile(r"[.,;:?!]")


def without_punctuation(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lower-cased words, and for each a tag of its original form.

    A tag is ``a`` (small), ``A`` (begins with a capital) or ``AA`` (all capitals, two letters at least), and behind it the first of
    the marks ``. , ; : ? !`` between the word and the next: ``God said, "Let`` gives god ``A``, said ``a,``, let ``A``.
    Quotes, brackets, dashes and capitals inside a word are not told.
    """
    found = list(_WORD.finditer(text))
    ends = [*(word.start() for word in found[1:]), len(text)]
    words = [word[0] for word in found]
    marks = [_MARK.search(text, word.end(), end) for word, end in zip(found, ends)]
    cases = ["AA" if len(word) > 1 and word.isupper() else "A" if word[0].isupper() else "a" for word in words]
    tags = (case + (mark[0] if mark else "") for case, mark in zip(cases, marks, strict=True))
    return tuple(word.lower() for word in words), tuple(tags)


def with_punctuation(words: Sequence[str], tags: Sequence[str]) -> str:
    """The inverse: the text of words and tags."""
    return " ".join(_written(word, tag) for word, tag in zip(words, tags, strict=True))


def _written(word: str, tag: str) -> str:
    case = tag.rstrip(".,;:?!")
    mark = tag[len(case) :]
    return (word.upper() if case == "AA" else word[:1].upper() + word[1:] if case == "A" else word) + mark
