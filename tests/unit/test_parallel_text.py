"""Readers of parallel text: every form, plain and compressed; what is bad is named with its file and line."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from transformer_architectures.datasets.lines import decode, read_lines
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.text.parallel_text import Pair, ParallelTextConfig, Row, read_pairs
from transformer_architectures.errors import DataError

TEXTS = [("one house", "une maison"), ("two\u2028houses", "deux\u0085maisons"), ("the\u00a0end", "la fin\x0b!")]


def write(path: Path, content: bytes) -> str:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def rows(**config: object) -> list[Row]:
    return list(read_pairs(ParallelTextConfig.model_validate(config), "train", "en", "fr"))


def places(found: list[Row]) -> list[tuple[str, int, str]]:
    return [(Path(row.file).name, row.line, row.reason) for row in found if isinstance(row, Rejection)]


def texts(found: list[Row]) -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in found if isinstance(row, Pair)]


def data_error(**config: object) -> str:
    with pytest.raises(DataError) as caught:
        rows(**config)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("gz", ["", ".gz"])
class TestForms:
    def test_two_files(self, tmp_path: Path, gz: str) -> None:
        source = write(tmp_path / f"a.en{gz}", "".join(f"{left}\n" for left, _ in TEXTS).encode())
        target = write(tmp_path / f"a.fr{gz}", "\n".join(right for _, right in TEXTS).encode())  # no last line feed
        found = rows(source=source, target=target)
        assert found == [Pair(source, number, *pair) for number, pair in enumerate(TEXTS, start=1)]

    def test_tsv(self, tmp_path: Path, gz: str) -> None:
        file = write(tmp_path / f"a.tsv{gz}", "".join(f"{left}\t{right}\tby me\n" for left, right in TEXTS).encode())
        assert rows(file=file) == [Pair(file, number, *pair) for number, pair in enumerate(TEXTS, start=1)]
        assert texts(rows(file=file, source_column=1, target_column=0)) == [pair[::-1] for pair in TEXTS]
        assert texts(rows(file=file, source_column=2)) == [("by me", right) for _, right in TEXTS]

    @pytest.mark.parametrize("ending", ["json", "jsonl"])
    def test_json_lines(self, tmp_path: Path, gz: str, ending: str) -> None:
        lines = [json.dumps({"en": left, "fr": right, "source": 3}) for left, right in TEXTS]
        file = write(tmp_path / f"a.{ending}{gz}", "\n".join(lines).encode())
        found = rows(file=file, source_column="en", target_column="fr")
        assert found == [Pair(file, number, *pair) for number, pair in enumerate(TEXTS, start=1)]
        named = write(tmp_path / f"b.{ending}{gz}", b'{"source": "a", "target": "b"}\n')
        assert texts(rows(file=named)) == [("a", "b")]

    def test_folder(self, tmp_path: Path, gz: str) -> None:
        for name, text in (("b-v7.fr-en", "second"), ("a", "first")):
            write(tmp_path / f"{name}.en{gz}", text.encode())
            write(tmp_path / f"{name}.fr", text.upper().encode())
        write(tmp_path / "lonely.en", b"no French")
        write(tmp_path / "README", b"words")
        folder = str(tmp_path)
        assert texts(rows(folder=folder)) == [("first", "FIRST"), ("second", "SECOND")]
        assert texts(rows(folder=folder, names=["b-v7.fr-en", "a"])) == [("second", "SECOND"), ("first", "FIRST")]
        assert "lonely" in data_error(folder=folder, names=["a", "lonely"])
        config = ParallelTextConfig(folder=folder)
        assert [path.name for path in config.paths("en", "fr")] == [f"a.en{gz}", "a.fr", f"b-v7.fr-en.en{gz}", "b-v7.fr-en.fr"]  # fmt: skip

    def test_sgml(self, tmp_path: Path, gz: str) -> None:
        source = b'<srcset setid="x">\n<doc docid="1">\n<p>\n<seg id="1">AT&amp;T &lt;said&gt;</seg>\n<SEG id="2"> two\nlines </SEG>\n'
        source += b'</p><seg id="3">last</seg></doc></srcset>'
        target = "<refset><seg id='1'>été</seg><seg id='2'>deux</seg>\n<seg id='3'>fin</seg>".encode()
        config = {"source": write(tmp_path / f"a.sgm{gz}", source), "target": write(tmp_path / f"b.sgm{gz}", target)}
        found = rows(**config)
        assert texts(found) == [("AT&T <said>", "été"), ("two lines", "deux"), ("last", "fin")]
        assert [row.line for row in found] == [4, 5, 7]

    def test_crlf_and_byte_order_mark(self, tmp_path: Path, gz: str) -> None:
        source = write(tmp_path / f"a{gz}", b"\xef\xbb\xbfone\r\ntwo\r\n")
        target = write(tmp_path / f"b{gz}", b"un\r\ndeux\r\n")
        assert texts(rows(source=source, target=target)) == [("one", "un"), ("two", "deux")]
        assert list(read_lines(Path(target))) == [b"un", b"deux"]
        tsv = write(tmp_path / f"c.tsv{gz}", b"\xef\xbb\xbfone\tun\r\ntwo\tdeux\r\n")
        assert texts(rows(file=tsv)) == [("one", "un"), ("two", "deux")]
        lines = write(tmp_path / f"d.jsonl{gz}", b'\xef\xbb\xbf{"source": "one", "target": "un"}\r\n')
        assert texts(rows(file=lines)) == [("one", "un")]

    def test_empty_file(self, tmp_path: Path, gz: str) -> None:
        for name in ("a.tsv", "a.jsonl"):
            assert rows(file=write(tmp_path / f"{name}{gz}", b"")) == []
        for name in ("a", "a.sgm"):
            empty = write(tmp_path / f"{name}{gz}", b"")
            assert rows(source=empty, target=empty) == []

    def test_missing_file(self, tmp_path: Path, gz: str) -> None:
        missing = str(tmp_path / f"missing.tsv{gz}")
        assert missing in data_error(file=missing)
        there = write(tmp_path / "there", b"x")
        assert missing in data_error(source=there, target=missing)
        assert "no such folder" in data_error(folder=str(tmp_path / "nowhere"))
        assert "en" in data_error(folder=str(tmp_path))

    def test_unequal_line_counts_name_the_shorter_file(self, tmp_path: Path, gz: str) -> None:
        long, short = write(tmp_path / f"long{gz}", b"1\n2\n3\n"), write(tmp_path / f"short{gz}", b"1\n2\n")
        for config in ({"source": long, "target": short}, {"source": short, "target": long}):
            message = data_error(**config)
            assert message.startswith(short) and "line 3" in message


# ---------------------------------------------------------------------------------------------------------------------
# Bad rows
# ---------------------------------------------------------------------------------------------------------------------


def test_bad_rows_of_two_files_name_the_file_that_is_bad(tmp_path: Path) -> None:
    source = write(tmp_path / "a.en", b"one\n  \nthree\nbad \xff\nfive\n\xc3\n")
    target = write(tmp_path / "a.fr", b"un\ndeux\n\t\nquatre\n\xe9t\xe9\n\xff\n")
    found = rows(source=source, target=target)
    assert places(found) == [
        ("a.en", 2, "empty source"),
        ("a.fr", 3, "empty target"),
        ("a.en", 4, "not UTF-8"),
        ("a.fr", 5, "not UTF-8"),
        ("a.en", 6, "not UTF-8"),
    ]
    assert texts(found) == [("one", "un")]


def test_bad_rows_of_tsv(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", b"a\tb\nalone\nx\ty\tz\n\tb\na\t \na\t\xff\n\nlast\tdernier")
    found = rows(file=file)
    assert places(found) == [
        ("a.tsv", 2, "1 columns instead of 2"),
        ("a.tsv", 3, "3 columns instead of 2"),
        ("a.tsv", 4, "empty source"),
        ("a.tsv", 5, "empty target"),
        ("a.tsv", 6, "not UTF-8"),
        ("a.tsv", 7, "1 columns instead of 2"),
    ]
    assert texts(found) == [("a", "b"), ("last", "dernier")]


def test_bad_rows_of_json_lines(tmp_path: Path) -> None:
    good = b'{"source": "a", "target": "b"}'
    bad = [
        b"{",
        b"",
        b"[1]",
        b'"text"',
        b'{"source": "a"}',
        b'{"source": "a", "target": 3}',
        b'{"source": " ", "target": "b"}',
        b'{"source": "a", "target": ""}',
        b'{"source": "\xff", "target": "b"}',
        b'{"source": "\\ud800", "target": "b"}',  # half a character
        b'{"source": ' + b"1" * 5000 + b"}",
        b'{"source": ' + b"[" * 100_000,
    ]
    file = write(tmp_path / "a.jsonl", b"\n".join([good, *bad, good]))
    found = rows(file=file)
    assert [line for _, line, _ in places(found)] == list(range(2, 2 + len(bad)))
    reasons = [reason for _, _, reason in places(found)]
    assert reasons[6:10] == ["empty source", "empty target", "not UTF-8", "not UTF-8"]
    assert all("keys source and target" in reason for reason in reasons[2:6])
    assert all(reason.startswith("not JSON") for reason in reasons[:2] + reasons[10:])
    assert texts(found) == [("a", "b")] * 2


def test_bad_segments_of_sgml(tmp_path: Path) -> None:
    source = write(tmp_path / "a.sgm", b"<doc>\n<seg>one</seg>\n<seg> </seg>\n<seg>\xff</seg>\n<seg>4</seg>\n")
    target = write(tmp_path / "b.sgm", b"<doc><p>\n\n<seg>un</seg>\n<seg>2</seg>\n<seg>3</seg>\n<seg></seg>\n")
    found = rows(source=source, target=target)
    assert texts(found) == [("one", "un")]
    assert places(found) == [("a.sgm", 3, "empty source"), ("a.sgm", 4, "not UTF-8"), ("b.sgm", 6, "empty target")]


# ---------------------------------------------------------------------------------------------------------------------
# Damaged archives
# ---------------------------------------------------------------------------------------------------------------------


def test_truncated_and_damaged_archives_are_one_line_errors(tmp_path: Path, seed: int) -> None:
    content = "".join(f"line {number * 7919 % 1000}\tligne\n" for number in range(2000)).encode()
    whole = gzip.compress(content)
    path = tmp_path / "a.tsv.gz"
    for damaged in (
        whole[: len(whole) // 2],  # truncated: EOFError
        whole[:-6],  # without its checksum
        b"no archive at all",  # BadGzipFile
        whole[:10] + b"\x07" + whole[11:],  # an impossible block: zlib.error
        whole[:-8] + bytes(4) + whole[-4:],  # a wrong checksum
    ):
        path.write_bytes(damaged)
        assert str(path) in data_error(file=str(path))


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert str(tmp_path) in data_error(source=str(tmp_path), target=str(tmp_path))


# ---------------------------------------------------------------------------------------------------------------------
# Declaration, and what any text must survive
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({}, "exactly one"),
        ({"file": "a.tsv", "folder": "b"}, "exactly one"),
        ({"source": "a"}, "belong together"),
        ({"target": "a", "file": "b"}, "belong together"),
        ({"file": "a.tsv", "source_column": -1}, "source_column"),
        ({"folder": "a", "source_column": 1}, "belong to file"),
        ({"file": "a.tsv", "names": ["a"]}, "belongs to folder"),
    ],
)
def test_contradicting_declarations_are_refused(config: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        ParallelTextConfig.model_validate(config)


def test_columns_are_numbers_in_tsv_and_keys_in_json(tmp_path: Path) -> None:
    assert "numbers" in data_error(file=write(tmp_path / "a.tsv", b"a\tb"), source_column="en")
    assert "keys" in data_error(file=write(tmp_path / "a.jsonl", b"{}"), source_column=0)


printable = st.text(st.characters(codec="utf-8", exclude_characters="\n")).filter(
    lambda text: text.strip() and not text.startswith("\ufeff")
)


@settings(deadline=None)
@given(st.lists(st.tuples(printable, printable), min_size=1, max_size=5))
def test_any_text_comes_back_from_every_form(pairs: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        expected = [(left.strip(), right.strip()) for left, right in pairs]
        for side, name in enumerate(("a.en", "a.fr")):
            (root / name).write_bytes("".join(f"{pair[side]}\n" for pair in pairs).encode())
        assert texts(rows(folder=folder)) == expected
        lines = "".join(f"{json.dumps({'source': left, 'target': right})}\n" for left, right in pairs)
        (root / "a.jsonl").write_text(lines)
        assert texts(rows(file=str(root / "a.jsonl"))) == expected


def test_decode() -> None:
    assert decode("été".encode()) == "été" and decode(b"\xff") is None
    assert decode(b"\xef\xbb\xbfa\xef\xbb\xbf") == "a\ufeff"
