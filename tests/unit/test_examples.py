"""The examples of a file that is scored: read as in training, every one of them, or an error with its line."""

from pathlib import Path

import pytest

from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.examples import (
    document_examples,
    labeled_examples,
    pair_examples,
    tagged_examples,
)
from transformer_architectures.datasets.text.labeled_text import LabeledText
from transformer_architectures.datasets.text.parallel_text import Pair, ParallelTextConfig
from transformer_architectures.errors import DataError

BAD = "correct or remove it"


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_labeled_texts(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", "review\tstars\ngood\ta\nbad\tb\n")
    columns = {"text_column": "review", "label_column": "stars"}
    assert labeled_examples(file, ["a", "b"], **columns) == (
        LabeledText(str(file), 2, "good", ("a",)),
        LabeledText(str(file), 3, "bad", ("b",)),
    )
    with pytest.raises(DataError, match=rf"a\.tsv:3: unknown label 'b': {BAD}"):
        labeled_examples(file, ["a"], **columns)
    several = write(tmp_path / "b.tsv", "text\tlabel\nx\tb;a\n")
    (row,) = labeled_examples(several, ["a", "b"], multi_label=True, label_separator=";")
    assert row.labels == ("a", "b")


def test_tagged_sentences(tmp_path: Path) -> None:
    file = write(tmp_path / "a.conll", "Ann B-PER\nsleeps O\n\nin O\nRome B-LOC\n")
    rows, notes = tagged_examples(file, ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], are_entities=True)
    assert rows == (
        TaggedText(str(file), (1, 2), ("Ann", "sleeps"), ("B-PER", "O")),
        TaggedText(str(file), (4, 5), ("in", "Rome"), ("O", "B-LOC")),
    )
    assert len(notes) == 1 and "BIO" in notes[0]
    with pytest.raises(DataError, match=rf"a\.conll:5: unknown tag 'B-LOC': {BAD}"):
        tagged_examples(file, ["O", "B-PER"], are_entities=False, word_column=0, tag_column=1)


def test_documents(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "One. Two.\n\n\tThree\n")
    assert [row.sentences for row in document_examples(file)] == [("One.", "Two."), ("Three",)]
    (whole,) = document_examples(file, "exact", "file")
    assert "".join(whole.sentences) == "One. Two.\n\n\tThree\n"
    write(file, "good\n\udcff\n")
    with pytest.raises(DataError, match=rf"a\.txt:2: not UTF-8: {BAD}"):
        list(document_examples(file))


def test_pairs(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", "a\tb\nc\t\n")
    found = pair_examples(ParallelTextConfig(file=str(file)), "en", "fr")
    assert next(found) == Pair(str(file), 1, "a", "b")
    with pytest.raises(DataError, match=rf"a\.tsv:2: empty target: {BAD}"):
        next(found)
