"""The Bible's tasks: kinds of books, punctuation and capitals; and that what one task tests, no task trains on."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text import bible
from transformer_architectures.datasets.text.bible import BibleVersion
from transformer_architectures.datasets.text.bible_tasks import (
    kind_of_book,
    verses_by_kind,
    verses_without_punctuation,
    with_punctuation,
    without_punctuation,
)
from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.documents import Document, DocumentsConfig, read_documents
from transformer_architectures.datasets.text.labeled_text import LabeledText, LabeledTextConfig, read_labeled_text
from transformer_architectures.datasets.text.parallel_text import BibleConfig, Pair, ParallelTextConfig, read_pairs
from transformer_architectures.datasets.text.tagged_text import TaggedTextConfig, read_tagged_text

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ENGLISH: tuple[BibleVersion, ...] = ("web", "kjv", "bbe")

verses = cache(bible.verses)


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bible, "verses", verses)


def chapter(place: str) -> tuple[int, int]:
    """Book and chapter of ``bible 1:2`` or ``bible web 1:2``."""
    book, number = place.split(" ")[-1].split(":")
    return int(book), int(number)


def test_no_chapter_of_a_part_is_in_another_in_any_task_and_version() -> None:
    chapters: dict[Split, set[tuple[int, int]]] = {}
    for part in SPLITS:
        of_part = chapters[part] = set()
        translation = read_pairs(ParallelTextConfig(bible=BibleConfig(source="web", target="darby")), part, "en", "fr")
        of_part |= {chapter(row.file) for row in translation if isinstance(row, Pair)}
        for version in ENGLISH:
            for_pretraining = read_documents(DocumentsConfig(bible=[version]), part)
            of_part |= {chapter(row.file) for row in for_pretraining if isinstance(row, Document)}
            labeled = read_labeled_text(LabeledTextConfig(bible=[version]), part)
            of_part |= {chapter(row.file) for row in labeled if isinstance(row, LabeledText)}
        tagged = read_tagged_text(TaggedTextConfig(bible=["web"]), part)
        of_part |= {chapter(row.file) for row in tagged.rows if isinstance(row, TaggedText)}
    assert {part: len(of_part) for part, of_part in chapters.items()} == {"train": 1126, "validation": 23, "test": 40}
    assert len(set().union(*chapters.values())) == 1_189  # so no two parts share one


def test_every_task_has_every_verse_with_words() -> None:
    by_kind = [row for part in SPLITS for row in verses_by_kind(["bbe"], part)]
    tagged = [row for part in SPLITS for row in verses_without_punctuation(["bbe"], part)]
    of_bbe = verses("bbe")  # which leaves some verses out
    assert sorted((*chapter(row.file), row.line) for row in by_kind) == [verse[:3] for verse in of_bbe if verse.text]
    with_words = [verse[:3] for verse in of_bbe if re.search(r"\w", verse.text)]
    assert sorted((*chapter(row.file), row.line) for row in tagged) == with_words
    two = list(verses_by_kind(["web", "kjv"], "test"))
    assert len(two) == 2 * 1038 and [row.file.split(" ")[1] for row in two] == ["web"] * 1038 + ["kjv"] * 1038


# ---------------------------------------------------------------------------------------------------------------------
# Kinds
# ---------------------------------------------------------------------------------------------------------------------


def test_kinds_of_books() -> None:
    """Known by their content: numbers are those of this file, not of a memory."""
    first_words = {
        verse.book: verse.text for verse in reversed(verses("kjv")) if verse.chapter == 1 and verse.verse == 1
    }
    for beginning, kind in (
        ("In the beginning God created", "law"), ("And the LORD called unto Moses", "law"), ("Now after the death of Moses", "history"),
        ("There was a man in the land of Uz", "wisdom"), ("The proverbs of Solomon", "wisdom"), ("The song of songs", "wisdom"),
        ("The vision of Isaiah", "prophets"), ("How doth the city sit solitary", "prophets"), ("The burden of the word of the LORD to Israel by Malachi", "prophets"),
        ("The book of the generation of Jesus", "gospels"), ("In the beginning was the Word", "gospels"), ("The former treatise", "history"),
        ("Paul, a servant of Jesus Christ, called", "letters"), ("Jude, the servant", "letters"), ("The Revelation of Jesus Christ", "prophets"),
    ):  # fmt: skip
        [book] = [book for book, text in first_words.items() if text.startswith(beginning)]
        assert kind_of_book(book) == kind, beginning
    for book in (0, 67, -1):
        with pytest.raises(ValueError, match="no book"):
            kind_of_book(book)


def test_every_kind_is_in_every_part() -> None:
    for part in SPLITS:
        kinds = {row.kind for row in verses_by_kind(["web"], part)}
        assert kinds == {"law", "history", "wisdom", "prophets", "gospels", "letters"}


# ---------------------------------------------------------------------------------------------------------------------
# Punctuation and capitals
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ('God said, "Let there be light," and', "god A|said a,|let A|there a|be a|light a,|and a"),
        ("the LORD'S, I AM; O LORD?", "the a|lord's AA,|i A|am AA;|o A|lord AA?"),
        ("forgiveness--but (31:1) sons' Beth-El:", "forgiveness a|but a|31 a:|1 a|sons a|beth-el A:"),
        ("« L’été… — fin !", "l’été A|fin a!"),
        ("why?!", "why a?"),
        ("... ;", ""),
        ("", ""),
    ],
)
def test_words_and_tags(text: str, pairs: str) -> None:
    words, tags = without_punctuation(text)
    assert "|".join(f"{word} {tag}" for word, tag in zip(words, tags, strict=True)) == pairs


@settings(deadline=None)
@given(st.text(st.sampled_from("aBcÉß'-.,;:?! \"()"), max_size=30))
def test_restoring_tells_all_that_the_tags_tell(text: str) -> None:
    words, tags = without_punctuation(text)
    assert len(words) == len(tags) and all(word == word.lower() and word for word in words)
    restored = with_punctuation(words, tags)
    if "ß" not in text:  # whose capital is SS
        assert without_punctuation(restored) == (words, tags)


@pytest.mark.parametrize(
    "version", ["web", *(pytest.param(other, marks=pytest.mark.slow) for other in ("kjv", "bbe", "darby", "segond"))]
)
def test_tags_of_the_bible(version: BibleVersion) -> None:
    known = {tag for row in verses_without_punctuation([version], "train") for tag in row.tags}
    assert known <= {case + mark for case in ("a", "A", "AA") for mark in ("", *".,;:?!")}
    for part in ("validation", "test"):
        for row in verses_without_punctuation([version], part):
            assert known.issuperset(row.tags)
            assert not set('.,;:?!"() ') & set("".join(row.words))


def test_a_verse_of_plain_sentences_comes_back() -> None:
    text = "In the beginning God created the heavens and the earth."
    assert with_punctuation(*without_punctuation(text)) == text


def test_files_name_version_book_and_chapter() -> None:
    row = next(iter(verses_by_kind(["kjv"], "train")))
    assert (row.file, row.line, row.kind) == ("bible kjv 1:1", 1, "law")
    assert json.dumps(row)  # nothing but text and numbers
    assert Path(row.file).name == row.file
