"""Labelled texts from tables: every form, plain and compressed; what is bad is listed with its line, and no row is shifted by it."""

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.text.labeled_text import LabeledText, LabeledTextConfig, read_labeled_text
from transformer_architectures.datasets.text.tables import TableRow, read_table
from transformer_architectures.errors import DataError

SENTIMENT = Path(os.environ.get("SENTIMENT_DIR", "../shared/data/sentiment"))


def write(path: Path, content: bytes) -> str:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def read(file: str, **config: Any) -> list[LabeledText | Rejection]:
    return list(read_labeled_text(LabeledTextConfig.model_validate({"file": file, **config}), "train"))


def good(found: list[LabeledText | Rejection]) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(row.line, row.text, row.labels) for row in found if isinstance(row, LabeledText)]


def bad(found: list[LabeledText | Rejection]) -> list[tuple[int | None, str]]:
    return [(row.line, row.reason) for row in found if isinstance(row, Rejection)]


# ---------------------------------------------------------------------------------------------------------------------
# Forms
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gz", ["", ".gz"])
class TestForms:
    def test_tsv(self, tmp_path: Path, gz: str) -> None:
        content = '\ufefflabel\tid\ttext\npos\t1\t a "9 inch" screen, \n\nneg\t2\t\u2028bad\u0085\r\n'
        file = write(tmp_path / f"a.tsv{gz}", content.encode())
        assert read(file) == [
            LabeledText(file, 2, 'a "9 inch" screen,', ("pos",)),
            LabeledText(file, 4, "bad", ("neg",)),
        ]

    def test_csv(self, tmp_path: Path, gz: str) -> None:
        content = 'text,label\r\n"a, ""b""\nc",pos\r\n\nit"s,neg\r\n'
        file = write(tmp_path / f"a.csv{gz}", content.encode())
        assert good(read(file)) == [(2, 'a, "b"\nc', ("pos",)), (5, 'it"s', ("neg",))]

    @pytest.mark.parametrize("ending", ["json", "jsonl"])
    def test_json_lines(self, tmp_path: Path, gz: str, ending: str) -> None:
        lines = ['{"text": "a\\nb", "label": 1, "more": []}', "", '{"label": " x ", "text": "c"}']
        file = write(tmp_path / f"a.{ending}{gz}", "\n".join(lines).encode())
        assert good(read(file)) == [(1, "a\nb", ("1",)), (3, "c", ("x",))]

    def test_named_columns(self, tmp_path: Path, gz: str) -> None:
        file = write(tmp_path / f"a.tsv{gz}", b"a\tb\nx\ty\n")
        assert good(read(file, text_column="b", label_column="a")) == [(2, "y", ("x",))]


def test_several_labels(tmp_path: Path) -> None:
    content = "text\tlabel\nA\tx, y\nB\t\nC\ty,x,,y\nD\tz\n"
    file = write(tmp_path / "a.tsv", content.encode())
    expected = [("x", "y"), (), ("x", "y"), ("z",)]
    assert [labels for _, _, labels in good(read(file, multi_label=True))] == expected
    assert bad(read(file))[0] == (3, "no label") and good(read(file))[0] == (2, "A", ("x, y",))
    lines = [json.dumps({"text": "t", "label": label}) for label in (["y", "x"], [], ["x", 3, "x"], "a,b")]
    file = write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    assert [labels for _, _, labels in good(read(file, multi_label=True))] == [("x", "y"), (), ("3", "x"), ("a,b",)]
    assert bad(read(file)) == [(line, "a list of labels, without multi_label") for line in (1, 2, 3)]
    file = write(tmp_path / "b.csv", b"text,label\nA,x|y\n")
    assert good(read(file, multi_label=True, label_separator="|")) == [(2, "A", ("x", "y"))]


@pytest.mark.parametrize(
    "config",
    [
        {}, {"file": "a", "bible": ["web"]}, {"bible": ["web"], "text_column": "x"}, {"file": "a", "label_separator": ";"},
        {"file": "a", "labels": []}, {"file": "a", "column": "x"}, {"file": "a", "multi_label": True, "label_separator": ""},
    ],
)  # fmt: skip
def test_configs_that_say_nothing_or_two_things(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LabeledTextConfig.model_validate(config)


# ---------------------------------------------------------------------------------------------------------------------
# Damage
# ---------------------------------------------------------------------------------------------------------------------


def test_bad_rows_of_a_tsv_are_named_and_shift_nothing(tmp_path: Path) -> None:
    content = b"label\ttext\npos\tone\nneg\npos\tbad \xff\nneg\t \n\ttext\npos\ta\tb\npos\ttwo\nodd\tthree\n"
    found = read(write(tmp_path / "a.tsv", content), labels=["pos", "neg"])
    assert good(found) == [(2, "one", ("pos",)), (8, "two", ("pos",))]
    assert bad(found) == [
        (3, "1 columns instead of 2"), (4, "not UTF-8"), (5, "empty text"), (6, "no label"), (7, "3 columns instead of 2"),
        (9, "unknown label 'odd'"),
    ]  # fmt: skip


def test_bad_rows_of_json_lines(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one", "label": "x"}', b'{"text": "one"}', b'{"label": "x"}', b"{", b'"text"', b'{"text": 3, "label": "x"}',
        b'{"text": "a", "label": null}', b'{"text": "a", "label": true}', b'{"text": "a", "label": 1.5}', b"\xff",
        b'{"text": "\\ud800", "label": "x"}', b'{"text": "a", "label": ""}', b'{"text": "two", "label": "x"}',
    ]  # fmt: skip
    found = read(write(tmp_path / "a.jsonl", b"\n".join(lines)))
    assert [line for line, _, _ in good(found)] == [1, 13]
    reasons = [reason for _, reason in bad(found)]
    assert [line for line, _ in bad(found)] == list(range(2, 13))
    assert (
        reasons[:2] == ["no label", "no text"]
        and reasons[2].startswith("not JSON")
        and reasons[3] == "no text and no label"
    )
    assert reasons[4:] == ["text is not text", *["label is no label"] * 3, "not UTF-8", "not UTF-8", "no label"]


def test_an_open_quote_costs_its_own_line_only(tmp_path: Path) -> None:
    lines = ["text,label", '"never closed,x', "fine,x", '"two\nlines",y', 'a "b" c,z', '"ab"c,x', "last,x"]
    found = read(write(tmp_path / "a.csv", "\n".join(lines).encode()))
    assert good(found) == [(3, "fine", ("x",)), (4, "two\nlines", ("y",)), (6, 'a "b" c', ("z",)), (8, "last", ("x",))]
    assert [line for line, _ in bad(found)] == [2, 7]


def test_many_open_quotes_in_a_long_file(tmp_path: Path) -> None:
    lines = ["text,label", *(f'"never closed {number},x' if number % 50 == 49 else "fine,x" for number in range(5000))]
    found = read(write(tmp_path / "a.csv", "\n".join(lines).encode()))
    # Two open quotes enclose what stands between them, but the text behind the second is no end of a cell.
    assert len(good(found)) == 4900 and len(bad(found)) == 100


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", b""), ("a.tsv", b"positive\tvery good\n"), ("a.csv", b"text\tlabel\na\tb\n"), ("a.tsv", b"text\tlabel\ttext\n"),
        ("a.tsv.gz", b"\x1f\x8b broken"), ("missing.tsv", None), ("a.csv", b'"text,label\n'),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_at_all(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


cells = st.text(st.sampled_from('ab,"\n\u2028é\ufeff '), max_size=6)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(cells, cells), max_size=8))
def test_what_pythons_writer_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["left", "right"])
    writer.writerows(rows)
    path = Path(write(tmp_path_factory.mktemp("csv") / "a.csv", stream.getvalue().encode()))
    found = list(read_table(path, ["right", "left"]))
    assert [row.cells for row in found if isinstance(row, TableRow)] == [row[::-1] for row in rows]
    lines = [2]
    for row in rows:
        lines.append(lines[-1] + 1 + sum(cell.count("\n") for cell in row))
    assert [row.line for row in found] == lines[:-1]


table_cells = st.text(st.sampled_from("ab é\u2028"), max_size=4)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.one_of(st.tuples(table_cells, table_cells), st.sampled_from([b"x", b"x\ty\tz", b"\xff\tx", b""])),
        max_size=12,
    )
)
def test_rows_are_never_shifted(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str] | bytes]) -> None:
    lines = [row if isinstance(row, bytes) else "\t".join(row).encode() for row in rows]
    file = write(tmp_path_factory.mktemp("tsv") / "a.tsv", b"\n".join([b"text\tlabel", *lines]))
    found = read(file)
    expected = {
        line: (row[0].strip(), (row[1].strip(),))
        for line, row in enumerate(rows, start=2)
        if not isinstance(row, bytes) and row[0].strip() and row[1].strip()
    }
    assert {line: (text, labels) for line, text, labels in good(found)} == expected
    empty = {line for line, content in enumerate(lines, start=2) if not content}
    assert {line for line, _ in bad(found)} == set(range(2, len(rows) + 2)) - set(expected) - empty


# ---------------------------------------------------------------------------------------------------------------------
# Real files
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SENTIMENT.is_dir(), reason="the sentiment data is not there")
def test_sentiment() -> None:
    for part, count in (("train", 8025), ("dev", 1002)):
        found = read(str(SENTIMENT / f"{part}.tsv.gz"))
        assert len(good(found)) == count and not bad(found)
        assert {labels for _, _, labels in good(found)} == {("negative",), ("positive",)}
        assert [line for line, _, _ in good(found)] == list(range(2, count + 2))
