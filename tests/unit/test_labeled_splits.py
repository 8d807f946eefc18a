"""The three parts of labelled and tagged sets: what is rejected, what is set apart, which labels exist, what is refused."""

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.datasets.text.bible import split_of_chapter
from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.labeled_splits import (
    LabeledRecipe,
    LabeledSplits,
    TaggedRecipe,
    TaggedSplits,
    entity_labels,
)
from transformer_architectures.datasets.text.labeled_text import LabeledText, LabeledTextConfig
from transformer_architectures.datasets.text.tagged_text import TaggedTextConfig
from transformer_architectures.errors import DataError

Rows = list[tuple[str, str]]  # label and text


def labeled_file(path: Path, rows: Rows, **config: Any) -> LabeledTextConfig:
    path.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8")
    return LabeledTextConfig(file=str(path), **config)


def tagged_file(path: Path, sentences: list[str], **config: Any) -> TaggedTextConfig:
    """From sentences like ``a/O b/B-X``."""
    blocks = ["".join(pair.replace("/", "\t") + "\n" for pair in sentence.split()) for sentence in sentences]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return TaggedTextConfig(file=str(path), **config)


def read_labeled(recipe: LabeledRecipe) -> tuple[LabeledSplits[LabeledText], list[dict[str, Any]]]:
    """The parts, and what was rejected."""
    file = io.StringIO()
    parts = recipe.read(RejectionLog(file))
    return parts, [json.loads(line) for line in file.getvalue().splitlines()]


def pairs(rows: tuple[LabeledText, ...]) -> Rows:
    return [(",".join(row.labels), row.text) for row in rows]


@pytest.fixture
def rows(seed: int) -> Rows:
    return [("neg" if number % 3 else "pos", f"été {number} of {seed}") for number in range(300)]


# ---------------------------------------------------------------------------------------------------------------------
# Labelled texts
# ---------------------------------------------------------------------------------------------------------------------


def test_given_parts(tmp_path: Path, rows: Rows) -> None:
    names = ("train", "validation", "test")
    configs = {name: labeled_file(tmp_path / f"{name}.tsv", rows[start::4]) for start, name in enumerate(names)}
    parts, rejected = read_labeled(LabeledRecipe(**configs))
    assert [pairs(getattr(parts, name)) for name in names] == [rows[start::4] for start in range(3)] and not rejected


def test_rows_are_set_apart_by_their_text(tmp_path: Path, rows: Rows) -> None:
    train = labeled_file(tmp_path / "a.tsv", rows)
    parts, _ = read_labeled(LabeledRecipe(train, validation_fraction=0.3))
    assert sorted(pairs(parts.train + parts.validation)) == sorted(rows)
    assert parts.train and parts.validation and not parts.test and parts.labels == ("neg", "pos") and not parts.notes
    again = [(label, unicodedata.normalize("NFD", text)) for label, text in reversed(rows)] + rows
    other, _ = read_labeled(LabeledRecipe(labeled_file(tmp_path / "b.tsv", again), validation_fraction=0.3))
    composed = {(label, unicodedata.normalize("NFC", text)) for label, text in pairs(other.validation)}
    assert composed == set(pairs(parts.validation)) and len(other.validation) == 2 * len(composed)


def test_a_label_of_set_apart_rows_alone_is_trained_on(tmp_path: Path, rows: Rows) -> None:
    """It would be refused as unknown otherwise, and the user could not mend it."""
    plain, _ = read_labeled(LabeledRecipe(labeled_file(tmp_path / "a.tsv", rows), validation_fraction=0.3))
    rare = {text for _, text in pairs(plain.validation)[:2]}
    changed = [("rare" if text in rare else label, text) for label, text in rows]
    parts, _ = read_labeled(LabeledRecipe(labeled_file(tmp_path / "b.tsv", changed), validation_fraction=0.3))
    assert set(pairs(parts.train)) == set(pairs(plain.train)) | {("rare", text) for text in rare}
    assert len(parts.validation) == len(plain.validation) - 2 and "rare" in parts.labels
    assert "2 rows are not set apart" in parts.notes[0]


def test_bad_training_rows_are_listed(tmp_path: Path, rows: Rows) -> None:
    mixed = [*rows[:5], ("", "no label"), *rows[5:9], ("pos", "")]
    held_out = labeled_file(tmp_path / "b.tsv", rows[9:])
    train = labeled_file(tmp_path / "a.tsv", mixed)
    parts, rejected = read_labeled(LabeledRecipe(train, held_out, max_rejected_fraction=0.2))
    assert pairs(parts.train) == rows[:9]
    assert [(row["line"], row["reason"]) for row in rejected] == [(7, "no label"), (12, "empty text")]
    with pytest.raises(DataError, match="18.18% of the training rows"):
        read_labeled(LabeledRecipe(train, held_out, max_rejected_fraction=0.18))


def test_a_bad_row_of_a_part_that_is_scored_stops_the_run(tmp_path: Path, rows: Rows) -> None:
    train = labeled_file(tmp_path / "a.tsv", rows)
    for bad, reason in ((("pos", ""), "empty text"), (("odd", "text"), "unknown label 'odd'")):
        held_out = labeled_file(tmp_path / "b.tsv", [*rows[:3], bad])
        for parts in ({"validation": held_out}, {"validation": train, "test": held_out}):
            with pytest.raises(DataError, match=rf"b\.tsv:5: {reason}: correct or remove"):
                read_labeled(LabeledRecipe(train, **parts))


def test_declared_labels(tmp_path: Path, rows: Rows) -> None:
    train = labeled_file(tmp_path / "a.tsv", [*rows, ("odd", "x")], labels=["pos", "neg", "mixed"])
    held_out = labeled_file(tmp_path / "b.tsv", [("mixed", "text")])
    parts, rejected = read_labeled(LabeledRecipe(train, held_out))
    assert parts.labels == ("mixed", "neg", "pos") and pairs(parts.train) == rows
    assert [row["reason"] for row in rejected] == ["unknown label 'odd'"]


def test_a_sample_is_chosen_by_text_and_knows_all_labels(tmp_path: Path) -> None:
    rows = [("early" if number < 45 else "late", f"text {number}") for number in range(50)]
    held_out = labeled_file(tmp_path / "b.tsv", [("early", "x"), ("late", "y")])
    parts, _ = read_labeled(LabeledRecipe(labeled_file(tmp_path / "a.tsv", rows), held_out, num_samples=3))
    chosen = pairs(parts.train)
    assert len(chosen) == 3 and chosen == [row for row in rows if row in chosen] and chosen != rows[:3]
    assert parts.labels == ("early", "late") and len(parts.validation) == 2
    parts, _ = read_labeled(LabeledRecipe(labeled_file(tmp_path / "a.tsv", rows[::-1]), held_out, num_samples=3))
    assert pairs(parts.train) == chosen[::-1]


def test_nothing_to_train_on(tmp_path: Path, rows: Rows) -> None:
    with pytest.raises(DataError, match=r"no row is left to train on \(1 × empty text"):
        read_labeled(LabeledRecipe(labeled_file(tmp_path / "a.tsv", [("pos", "")])))


def test_labels_that_nobody_has(tmp_path: Path) -> None:
    (tmp_path / "none.tsv").write_text("text\tlabel\n" + "".join(f"a{n}\t\n" for n in range(20)))
    config = LabeledTextConfig(file=str(tmp_path / "none.tsv"), multi_label=True)
    with pytest.raises(DataError, match="no training row has a label"):
        LabeledRecipe(train=config, validation_fraction=0.2).read(RejectionLog())


def test_several_labels(tmp_path: Path) -> None:
    train = labeled_file(tmp_path / "a.tsv", [("x,y", "one"), ("", "two"), ("z", "three")], multi_label=True)
    held_out = labeled_file(tmp_path / "b.tsv", [("z,x", "four"), ("", "five")], multi_label=True)
    parts, _ = read_labeled(LabeledRecipe(train, held_out))
    assert parts.labels == ("x", "y", "z") and pairs(parts.validation) == [("x,z", "four"), ("", "five")]


def test_the_digest_knows_what_the_rows_depend_on(tmp_path: Path, rows: Rows) -> None:
    train, held_out = labeled_file(tmp_path / "a.tsv", rows[:50]), labeled_file(tmp_path / "b.tsv", rows[50:])
    digest = LabeledRecipe(train, held_out).digest()
    assert LabeledRecipe(train, held_out).digest() == digest
    others = [
        LabeledRecipe(train, None, held_out), LabeledRecipe(train, held_out, num_samples=3),
        LabeledRecipe(train.model_copy(update={"label_column": "x"}), held_out), LabeledRecipe(train, held_out, validation_fraction=0.1),
    ]  # fmt: skip
    digests = {recipe.digest() for recipe in others}
    labeled_file(tmp_path / "b.tsv", rows[51:])
    digests |= {digest, LabeledRecipe(train, held_out).digest()}
    assert len(digests) == 6


# ---------------------------------------------------------------------------------------------------------------------
# Tagged sentences
# ---------------------------------------------------------------------------------------------------------------------


def read_tagged(recipe: TaggedRecipe) -> TaggedSplits:
    return recipe.read(RejectionLog())


def tags(rows: tuple[TaggedText, ...]) -> list[str]:
    return [" ".join(row.tags) for row in rows]


def test_entity_tags_of_a_type_belong_together(tmp_path: Path) -> None:
    train = tagged_file(tmp_path / "a.conll", ["a/B-X b/O", "c/O d/B-creative-work e/I-creative-work"])
    held_out = tagged_file(tmp_path / "b.conll", ["a/B-X b/I-X"])
    parts = read_tagged(TaggedRecipe(train, held_out, held_out))
    assert parts.are_entities
    assert parts.labels == ("B-X", "B-creative-work", "I-X", "I-creative-work", "O")
    assert tags(parts.validation) == tags(parts.test) == ["B-X I-X"]
    assert entity_labels(["O"]) == ("O",) and entity_labels(["B"]) == ("B", "I", "O")


def test_each_file_is_converted_and_said(tmp_path: Path) -> None:
    train = tagged_file(tmp_path / "a.conll", ["a/I-X b/I-X c/B-X"])
    held_out = tagged_file(tmp_path / "b.conll", ["a/O b/B-X"])
    parts = read_tagged(TaggedRecipe(train, held_out))
    assert tags(parts.train) == ["B-X I-X B-X"] and tags(parts.validation) == ["O B-X"]
    assert ["IOB1" in note for note in parts.notes] == [True, False]


def test_a_file_without_entities_follows_the_training_file(tmp_path: Path) -> None:
    train = tagged_file(tmp_path / "a.conll", ["a/B-X"])
    parts = read_tagged(TaggedRecipe(train, tagged_file(tmp_path / "b.conll", ["a/O"])))
    assert parts.are_entities
    free = read_tagged(
        TaggedRecipe(tagged_file(tmp_path / "c.conll", ["a/N b/V"]), tagged_file(tmp_path / "d.conll", ["a/N"]))
    )
    assert not free.are_entities and free.labels == ("N", "V")


def test_an_unknown_tag_of_a_part_that_is_scored_stops_the_run(tmp_path: Path) -> None:
    train = tagged_file(tmp_path / "a.conll", ["a/B-X", "b/O"])
    for sentence, tag in (("a/O b/B-Y", "B-Y"), ("a/O b/NOUN", "NOUN")):
        held_out = tagged_file(tmp_path / "b.conll", ["x/O", sentence])
        with pytest.raises(DataError, match=rf"b\.conll:4: unknown tag '{tag}': correct or remove"):
            read_tagged(TaggedRecipe(train, held_out))


def test_bad_training_sentences_are_listed_with_the_line_of_the_word(tmp_path: Path) -> None:
    train = tagged_file(tmp_path / "a.conll", ["a/B-X b/I-X", "c/O d/VERB e/O", "f/O"])
    held_out = tagged_file(tmp_path / "b.conll", ["a/O"])
    file = io.StringIO()
    parts = TaggedRecipe(train, held_out, max_rejected_fraction=0.4).read(RejectionLog(file))
    assert tags(parts.train) == ["B-X I-X", "O"]
    assert [json.loads(line) for line in file.getvalue().splitlines()] == [
        {"file": train.file, "line": 5, "reason": "unknown tag 'VERB'"}
    ]


# ---------------------------------------------------------------------------------------------------------------------
# The Bible
# ---------------------------------------------------------------------------------------------------------------------


def test_the_bible_has_its_own_parts() -> None:
    labeled = LabeledRecipe(LabeledTextConfig(bible=["bbe"]))
    tagged = TaggedRecipe(TaggedTextConfig(bible=["bbe"]))
    assert labeled.files() == tagged.files() and len(labeled.files()) == 1
    for parts in (labeled.read(RejectionLog()), tagged.read(RejectionLog())):
        for name in ("train", "validation", "test"):
            rows = getattr(parts, name)
            assert rows
            for row in rows:
                book, chapter = map(int, row.file.split(" ")[2].split(":"))
                assert split_of_chapter(book, chapter) == name
