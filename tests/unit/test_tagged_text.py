"""Tagged texts from CoNLL columns and CoNLL-U; how tags spell entities; what is bad is listed, and no tag is shifted by it."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.tag_schemes import (
    EntitySpan,
    as_bio,
    detect_scheme,
    entity_spans,
    is_entity_tag,
    stray_insides,
    strict_entity_spans,
)
from transformer_architectures.datasets.text.tagged_text import (
    UPOS_TAGS,
    TaggedRows,
    TaggedTextConfig,
    read_tagged_text,
)
from transformer_architectures.errors import DataError

EWT = Path(os.environ.get("UD_EWT_DIR", "../shared/data/ud_ewt"))
WNUT17 = Path(os.environ.get("WNUT17_DIR", "../shared/data/wnut17"))


def write(path: Path, content: bytes | str) -> str:
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def read(file: str, are_entities: bool | None = None, **config: Any) -> TaggedRows:
    return read_tagged_text(TaggedTextConfig.model_validate({"file": file, **config}), "train", are_entities)


def good(found: TaggedRows) -> list[tuple[int, str]]:
    """Line, and words with tags, of each sentence."""
    pairs = [(row, zip(row.words, row.tags, strict=True)) for row in found.rows if isinstance(row, TaggedText)]
    return [(row.line, " ".join(f"{word}/{tag}" for word, tag in words)) for row, words in pairs]


def bad(found: TaggedRows) -> list[tuple[int | None, str]]:
    return [(row.line, row.reason) for row in found.rows if isinstance(row, Rejection)]


# ---------------------------------------------------------------------------------------------------------------------
# Columns
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_columns_with_tabs(tmp_path: Path, gz: str) -> None:
    content = "\ufeffIn\tO\nNew York\tB-LOC\n\t\nHe\tO\n \u00a0\t\r\n\n#1\tO\r\nso\tO\n\n"
    file = write(tmp_path / f"a.conll{gz}", content)
    found = read(file)
    assert found.rows == (
        TaggedText(file, (1, 2), ("In", "New York"), ("O", "B-LOC")),
        TaggedText(file, (4,), ("He",), ("O",)),
        TaggedText(file, (7, 8), ("#1", "so"), ("O", "O")),
    )
    assert found.are_entities and found.notes == (f"{file}: the tags are BIO, used as they stand",)


def test_columns_with_spaces_and_their_choice(tmp_path: Path) -> None:
    content = (
        "-DOCSTART- -X- O O\n\nEU NNP  I-NP I-ORG\n10\u00a0000 CD I-NP O\n\n-DOCSTART- -X-\n\nPeter NNP I-NP I-PER \n"
    )
    file = write(tmp_path / "a.txt", content)
    found = read(file)
    assert good(found) == [(3, "EU/B-ORG 10\u00a0000/O"), (8, "Peter/B-PER")]
    assert found.notes == (
        f"{file}: 2 -DOCSTART- lines are passed over",
        f"{file}: the tags are IOB1, converted to BIO: 2 I- that begin an entity became B-",
    )
    free = read(file, tag_column=1)
    assert good(free) == [(3, "EU/NNP 10\u00a0000/CD"), (8, "Peter/NNP")] and not free.are_entities
    assert good(read(file, word_column=1, tag_column=-4))[0] == (3, "NNP/EU CD/10\u00a0000")
    assert bad(read(file, tag_column=4)) == [(3, "no column 0 or 4 among 4"), (8, "no column 0 or 4 among 4")]


def test_words_that_no_tokenizer_sees_are_words(tmp_path: Path) -> None:
    content = "\u200b\tB-X\n\ufeff\tI-X\n\u00a0\tO\n\u2028\tO\n \tO\n"
    found = read(write(tmp_path / "a.conll", content.replace("\u200b", "\u200b", 1)))
    [row] = found.rows
    assert isinstance(row, TaggedText)
    assert row.words == ("\u200b", "\ufeff", "\u00a0", "\u2028", " ") and row.tags == ("B-X", "I-X", "O", "O", "O")


def test_a_bad_line_rejects_its_sentence_and_shifts_nothing(tmp_path: Path) -> None:
    sentences = [
        b"a\tB-X\nb\tI-X", b"a\tO\nb", b"a\tO\n\tO", b"a\tO\nb\t ", b"a\xff\tO\nb\tO", b"a\tO\tO", b"a\tO\nb\tX-PER", b"a\tO\nb\tO",
    ]  # fmt: skip
    found = read(write(tmp_path / "a.conll", b"\n\n".join(sentences)))
    assert good(found) == [(1, "a/B-X b/I-X"), (21, "a/O b/O")]
    assert bad(found) == [
        (5, "1 columns instead of 2"), (8, "no word"), (11, "no tag"), (13, "not UTF-8"), (16, "3 columns instead of 2"),
        (19, "unknown tag 'X-PER'"),
    ]  # fmt: skip
    assert [type(row) for row in found.rows] == [TaggedText, *[Rejection] * 6, TaggedText]  # in the order of the file


def test_a_bad_first_line_does_not_condemn_the_file(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.conll", "lonely\n\na\tO\n\nb\tO\n"))
    assert good(found) == [(3, "a/O"), (5, "b/O")] and bad(found) == [(1, "1 columns instead of 2")]


def test_declared_tags(tmp_path: Path) -> None:
    file = write(tmp_path / "a.conll", "a\tO\n\nb\tI-X\n\nc\tB-Y\n")
    assert bad(read(file, tags=["O", "B-X", "I-X"])) == [(5, "unknown tag 'B-Y'")]
    # After the conversion: what is declared are the tags that the model gives.
    found = read(file, tags=["O", "B-X", "I-X"], scheme="iob1")
    assert good(found) == [(1, "a/O"), (3, "b/B-X")]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for name in ("a.conll", "a.conllu"):
        assert read(write(tmp_path / name, "\n\t\n")).rows == ()
    with pytest.raises(DataError, match="missing"):
        read(str(tmp_path / "missing.conll"))


@pytest.mark.parametrize(
    "config",
    [{}, {"file": "a", "bible": ["web"]}, {"bible": ["web"], "scheme": "bio"}, {"file": "a", "scheme": "bioes"}, {"file": "a", "tags": []}],
)  # fmt: skip
def test_configs_that_say_nothing_or_two_things(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaggedTextConfig.model_validate(config)


lines = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["a", "é", "\u200b", "#", "x y"]), st.sampled_from(["O", "B-X", "I-X"])),
        st.sampled_from([b"", b"\t", b" ", b"\xc2\xa0", b"lonely", b"a\tb\tO", b"\xff\tO", b"a\t"]),
    ),
    max_size=15,
)


@settings(deadline=None, max_examples=200)
@given(lines)
def test_columns_against_a_plain_reading(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str] | bytes]
) -> None:
    # So many good lines that the layout of the file is known.
    lines = [("a", "O"), b""] * 20 + lines
    content = b"\n".join(line if isinstance(line, bytes) else "\t".join(line).encode() for line in lines)
    found = read(write(tmp_path_factory.mktemp("conll") / "a.conll", content), scheme="bio")
    sentences: list[list[int]] = [[]]
    for number, line in enumerate(lines):
        if isinstance(line, bytes) and not line.decode(errors="replace").strip():
            sentences.append([])
        else:
            sentences[-1].append(number)
    expected: list[tuple[int, Any]] = []
    for places in filter(None, sentences):
        wrong = [number for number in places if isinstance(lines[number], bytes)]
        expected.append((wrong[0] + 1, None) if wrong else (places[0] + 1, [lines[number] for number in places]))
    assert [
        (row.line, None if isinstance(row, Rejection) else list(zip(row.words, row.tags, strict=True)))
        for row in found.rows
    ] == expected


# ---------------------------------------------------------------------------------------------------------------------
# CoNLL-U
# ---------------------------------------------------------------------------------------------------------------------


def conllu(*rows: str) -> str:
    """Lines of ten columns from ``id word tag``."""
    cells = [row.split(" ") for row in rows]
    return "".join("\t".join([id_, word, "_", tag, *"______"]) + "\n" for id_, word, tag in cells)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_conllu(tmp_path: Path, gz: str) -> None:
    content = "# sent_id = 1\n" + conllu("1-2 don't _", "1 do AUX", "2 n't PART", "2.1 go VERB", "3 # SYM")
    content += " \t\n# only a comment\n\n# text = x\n" + conllu("1 so ADV")
    file = write(tmp_path / f"a.conllu{gz}", content)
    found = read(file)
    assert found.rows == (
        TaggedText(file, (3, 4, 6), ("do", "n't", "#"), ("AUX", "PART", "SYM")),
        TaggedText(file, (11,), ("so",), ("ADV",)),
    )
    assert not found.are_entities
    assert set(found.notes) == {
        f"{file}: 1 {what} are passed over" for what in ("ranges of multiword tokens", "empty nodes")
    }
    assert good(read(file, tag_column=1))[1] == (11, "so/so")


def test_bad_conllu(tmp_path: Path) -> None:
    blocks = [
        conllu("1 a NOUN"), conllu("1 a NOUNN"), conllu("1 a NOUN", "3 b NOUN"), conllu("1 a _"), "1\ta\t_\tNOUN\n",
        conllu("x a NOUN"), conllu("2 a NOUN", "1 b NOUN"), conllu("1 a X", "2  X"), conllu("1 b VERB"),
    ]  # fmt: skip
    found = read(write(tmp_path / "a.conllu", "\n".join(blocks)))
    assert good(found) == [(1, "a/NOUN"), (20, "b/VERB")]
    assert bad(found) == [
        (3, "unknown tag 'NOUNN'"), (6, "word id '3' instead of 2"), (8, "unknown tag '_'"), (10, "4 columns instead of 10"),
        (12, "word id 'x' instead of 1"), (14, "word id '2' instead of 1"), (18, "no word"),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# How tags spell entities
# ---------------------------------------------------------------------------------------------------------------------

spans_of_a_sentence = st.lists(
    st.tuples(st.sampled_from(["PER", "LOC", "creative-work"]), st.integers(1, 3), st.integers(0, 2)), max_size=5
)


def spell(spans: list[tuple[str, int, int]], scheme: str) -> list[str]:
    """Tags of entities of a type and a length, each with so many words outside behind it."""
    tags: list[str] = []
    for type_, length, outside in spans:
        is_behind_its_type = bool(tags) and tags[-1][2:] == type_
        first = "B" if scheme == "bio" or is_behind_its_type else "I"
        tags += [f"{first}-{type_}", *[f"I-{type_}"] * (length - 1), *["O"] * outside]
    return tags


@settings(deadline=None)
@given(spans_of_a_sentence)
def test_bio_and_iob1_spell_the_same(spans: list[tuple[str, int, int]]) -> None:
    bio, iob1 = spell(spans, "bio"), spell(spans, "iob1")
    expected, place = [], 0
    for type_, length, outside in spans:
        expected.append(EntitySpan(type_, place, place + length - 1))
        place += length + outside
    assert entity_spans(bio) == entity_spans(iob1) == strict_entity_spans(bio) == expected
    assert as_bio(iob1) == as_bio(bio) == tuple(bio)
    assert stray_insides(bio) == 0


@settings(deadline=None)
@given(st.lists(spans_of_a_sentence, max_size=6))
def test_the_scheme_is_detected(sentences: list[list[tuple[str, int, int]]]) -> None:
    bio, iob1 = ([spell(spans, scheme) for spans in sentences] for scheme in ("bio", "iob1"))
    if not any(sentences):
        assert detect_scheme(bio) == "free" and detect_scheme(bio, are_entities=True) == "bio"
        return
    assert detect_scheme(bio) == "bio"
    assert detect_scheme(iob1) == "iob1" and detect_scheme(iob1, are_entities=True) == "iob1"
    assert detect_scheme(bio, are_entities=False) == "free"


def test_odd_files_are_spoken_of(tmp_path: Path) -> None:
    path = tmp_path / "odd.conll"
    path.write_text("-DOCSTART-\tO\nAnna\tS-PER\n\n#\tE-LOC\nx\tU-LOC\n")
    read = read_tagged_text(TaggedTextConfig(file=str(path)), "train")
    assert [row.words for row in read.rows if isinstance(row, TaggedText)] == [("Anna",), ("#", "x")]
    said = " ".join(read.notes)
    assert "1 -DOCSTART- lines are passed over" in said and "1 sentences begin with '#'" in said and "BIOES" in said


def test_declared_tags_of_iob1_are_converted_too(tmp_path: Path) -> None:
    path = tmp_path / "tags.conll"
    path.write_text("a\tI-PER\nb\tO\n\na\tI-PER\nb\tI-LOC\n")
    read = read_tagged_text(TaggedTextConfig(file=str(path), tags=["O", "I-PER", "I-LOC"]), "train")
    assert [row.tags for row in read.rows if isinstance(row, TaggedText)] == [("B-PER", "O"), ("B-PER", "B-LOC")]


def test_a_few_mistakes_do_not_change_the_scheme() -> None:
    bio = [["B-X", "I-X", "O"]] * 9
    assert detect_scheme([*bio, ["I-X", "O"], ["E-X"]]) == "bio"
    assert detect_scheme([*[["I-X", "O"]] * 9, ["B-X"], ["S-X"]]) == "iob1"
    assert detect_scheme([["NOUN", "VERB", "I-X"]]) == "free"


def test_strays_are_used_as_they_stand_and_said(tmp_path: Path) -> None:
    file = write(tmp_path / "a.conll", "a\tB-X\nb\tO\nc\tI-X\nd\tI-Y\n\ne\tB-X\n")
    found = read(file)
    assert good(found)[0] == (1, "a/B-X b/O c/I-X d/I-Y")
    assert any("2 I- begin an entity without a B-" in note for note in found.notes)
    assert good(read(file, scheme="iob1"))[0] == (1, "a/B-X b/O c/B-X d/B-Y")


def test_a_part_follows_the_training_part(tmp_path: Path) -> None:
    outside = write(tmp_path / "a.conll", "a\tO\n")
    assert not read(outside).are_entities and read(outside, are_entities=True).are_entities
    mistaken = write(tmp_path / "b.conll", "a\tNOUN\n")
    assert bad(read(mistaken, are_entities=True)) == [(1, "unknown tag 'NOUN'")]
    free = write(tmp_path / "c.conll", "a\tB-X\n")
    assert good(read(free, are_entities=False)) == [(1, "a/B-X")]


@pytest.mark.parametrize("tag", ["", "B-", "I-", "b-X", "BX", "B_X", "E-X", "OO", "o", "-"])
def test_what_spells_no_entity(tag: str) -> None:
    assert not is_entity_tag(tag)
    with pytest.raises(DataError, match="spells no entity"):
        entity_spans([tag])


# ---------------------------------------------------------------------------------------------------------------------
# Real files
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not EWT.is_dir(), reason="the EWT treebank is not there")
@pytest.mark.parametrize(
    ("part", "num_sentences", "num_words"),
    [("dev", 2_001, 25_147), pytest.param("train", 12_544, 204_577, marks=pytest.mark.slow)],
)
def test_ewt(part: str, num_sentences: int, num_words: int) -> None:
    found = read(str(EWT / f"{part}.conllu.gz"))
    sentences = [row for row in found.rows if isinstance(row, TaggedText)]
    assert len(sentences) == num_sentences and not bad(found) and not found.are_entities
    assert sum(len(row.words) for row in sentences) == num_words
    assert {tag for row in sentences for tag in row.tags} == set(UPOS_TAGS)


@pytest.mark.skipif(not WNUT17.is_dir(), reason="WNUT-17 is not there")
@pytest.mark.parametrize(
    ("part", "num_sentences", "num_words", "num_entities"),
    [("dev", 1_009, 15_733, 836), pytest.param("train", 3_394, 62_730, 1_975, marks=pytest.mark.slow)],
)
def test_wnut17(part: str, num_sentences: int, num_words: int, num_entities: int) -> None:
    found = read(str(WNUT17 / f"{part}.conll.gz"))
    sentences = [row for row in found.rows if isinstance(row, TaggedText)]
    assert len(sentences) == num_sentences and not bad(found) and found.are_entities
    assert sum(len(row.words) for row in sentences) == num_words
    spans = [span for row in sentences for span in entity_spans(row.tags)]
    assert len(spans) == num_entities and len({span.type for span in spans}) == 6
    assert found.notes[0].endswith("the tags are BIO, used as they stand")
