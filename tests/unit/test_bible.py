"""The embedded corpus: whole chapters, the same for all versions; public-domain versions only; nothing lost."""

import random
import sqlite3
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from pydantic import ValidationError

from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text import bible
from transformer_architectures.datasets.text.bible import CODES, BibleVersion, Verse, clean, split_of_chapter
from transformer_architectures.datasets.text.parallel_text import BibleConfig, Pair, ParallelTextConfig, read_pairs
from transformer_architectures.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VERSIONS: tuple[BibleVersion, ...] = tuple(CODES)
NUM_VERSES, NUM_CHAPTERS, NUM_BOOKS = 31_102, 1_189, 66

# Each version beside World English, and two pairs without it.
PAIRS: list[tuple[BibleVersion, BibleVersion]] = [("web", version) for version in VERSIONS[1:]]
PAIRS += [("segond", "bbe"), ("darby", "kjv")]

read_from_disk = bible.verses
verses = cache(read_from_disk)


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bible, "verses", verses)


def test_only_the_five_public_domain_versions_can_be_chosen() -> None:
    assert CODES == {"web": "4", "bbe": "3", "kjv": "k", "darby": "5", "segond": "l"}
    for version in CODES:
        BibleConfig.model_validate({"source": version, "target": version})
    for other in ("4", "k", "niv", "WEB", ""):
        for side in ("source", "target"):
            with pytest.raises(ValidationError):
                BibleConfig.model_validate({side: other})


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_whole_and_in_order(version: BibleVersion) -> None:
    places = [verse[:3] for verse in verses(version)]
    assert len(places) == NUM_VERSES and places == sorted(set(places))
    assert len({place[:2] for place in places}) == NUM_CHAPTERS and len({place[0] for place in places}) == NUM_BOOKS


@pytest.mark.parametrize("version", VERSIONS)
def test_texts_are_clean(version: BibleVersion) -> None:
    for verse in verses(version):
        text = verse.text
        assert not set("`[]#*<>{}|_\\/=~^\ufffd") & set(text), verse
        assert text == " ".join(text.split()) and text.isprintable(), verse


def test_cleaning_takes_marks_and_leaves_words() -> None:
    assert clean("  he`s [the]  son#, *** `I am` ") == "he's the son, 'I am'"
    assert clean("« L’été — 1 (a) … »") == "« L’été — 1 (a) … »"


def test_languages_are_what_the_names_say() -> None:
    for version in VERSIONS:
        words = Counter(word for verse in verses(version)[:2000] for word in verse.text.lower().split())
        english, french = words["the"], words["de"] + words["la"]
        assert (french > 10 * english) if version in ("darby", "segond") else (english > 10 * french), version


# ---------------------------------------------------------------------------------------------------------------------
# The split
# ---------------------------------------------------------------------------------------------------------------------


def test_a_chapter_belongs_to_one_part_the_same_for_every_pair(read_once: None) -> None:
    splits_of_chapter: dict[tuple[int, int], set[Split]] = {}
    for source, target in PAIRS:
        seen = []
        for part in SPLITS:
            for left, right in bible.verse_pairs(source, target, part):
                assert left[:3] == right[:3]
                splits_of_chapter.setdefault(left[:2], set()).add(part)
                seen.append(left[:3])
        # Every verse in exactly one part.
        assert sorted(seen) == [verse[:3] for verse in verses(source)]
    assert len(splits_of_chapter) == NUM_CHAPTERS
    for chapter, parts in splits_of_chapter.items():
        assert parts == {split_of_chapter(*chapter)}, chapter


def test_the_split_never_changes() -> None:
    """Published scores hold for these chapters only: a new split is a new corpus."""
    chapters = sorted({verse[:2] for verse in verses("web")})
    held_out = {part: [chapter for chapter in chapters if split_of_chapter(*chapter) == part] for part in SPLITS}
    assert [len(held_out[part]) for part in SPLITS] == [1126, 23, 40]
    assert held_out["test"][:3] == [(2, 17), (5, 2), (6, 8)] and held_out["validation"][:3] == [
        (1, 30),
        (4, 13),
        (5, 4),
    ]


def test_the_reader_gives_every_verse_of_a_part(read_once: None) -> None:
    for source, target in (("web", "darby"), ("bbe", "segond")):
        config = ParallelTextConfig.model_validate({"bible": {"source": source, "target": target}})
        num_rows = 0
        for part in SPLITS:
            rows = list(read_pairs(config, part, "en", "fr"))
            num_rows += len(rows)
            rejected = [row for row in rows if isinstance(row, Rejection)]
            # Basic English leaves some verses out; none of them is in a part that is scored.
            assert not rejected or (source == "bbe" and part == "train" and len(rejected) < 20), rejected[:3]
        assert num_rows == NUM_VERSES


def test_no_scored_verse_is_empty_in_any_version() -> None:
    for version in VERSIONS:
        for verse in verses(version):
            assert verse.text or split_of_chapter(verse.book, verse.chapter) == "train", (version, verse)


# ---------------------------------------------------------------------------------------------------------------------
# Damage
# ---------------------------------------------------------------------------------------------------------------------


def test_versions_that_do_not_match_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [Verse(1, 1, 1, "a"), Verse(1, 1, 2, "b")]
    right = {"web": left, "darby": [Verse(1, 1, 1, "c"), Verse(1, 1, 3, "d")]}
    monkeypatch.setattr(bible, "verses", lambda version: right[version])
    monkeypatch.setattr(bible, "split_of_chapter", lambda book, chapter: "train")
    with pytest.raises(DataError, match="damaged"):
        list(bible.verse_pairs("web", "darby", "train"))
    right["darby"] = left[:1]
    with pytest.raises(DataError, match="damaged"):
        list(bible.verse_pairs("web", "darby", "train"))


def test_a_damaged_file_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    path = tmp_path / "bible.db"
    path.write_bytes(random.randbytes(5000))
    monkeypatch.setattr(bible, "bible_path", lambda: path)
    with pytest.raises(DataError, match="bible.db") as caught:
        read_from_disk("web")
    assert "\n" not in str(caught.value)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE something (else_ TEXT)")
    with pytest.raises(DataError, match="bible.db"):
        read_from_disk("web")


def test_where_the_data_group_is_missing_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> None:
        raise bible.PackageNotFoundError(name)

    monkeypatch.setattr(bible, "distribution", not_installed)
    with pytest.raises(DataError, match="uv sync"):
        bible.bible_path()


def test_the_reader_names_book_chapter_and_verse(read_once: None) -> None:
    config = ParallelTextConfig.model_validate({"bible": {}})
    row = next(iter(read_pairs(config, "train", "en", "fr")))
    assert isinstance(row, Pair) and row.file == "bible 1:1" and row.line == 1
    assert row.source.startswith("In the beginning")
