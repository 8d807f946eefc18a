"""Label files of OpenImages: the same as reading them row by row; what is bad is named with its file and line."""

import gzip
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_images import write_tree

from transformer_architectures.datasets.images import label_rows
from transformer_architectures.datasets.images.image_labels import ImageLabels
from transformer_architectures.datasets.images.image_source import open_images
from transformer_architectures.datasets.images.openimages import read_class_descriptions, read_openimages
from transformer_architectures.datasets.rejections import Rejection, RejectionLog
from transformer_architectures.errors import DataError

HEADER = "ImageID,Source,LabelName,Confidence\n"
Table = dict[str, dict[str, bool]]


class KeptLog(RejectionLog):
    """Remembers what is rejected."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int | None, str]] = []

    def add(self, rejection: Rejection) -> None:
        super().add(rejection)
        self.found.append((Path(rejection.file).name, rejection.line, rejection.reason))


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def rows(*cells: tuple[str, str, object]) -> str:
    return HEADER + "".join(f"{image},verification,{label},{confidence}\n" for image, label, confidence in cells)


def table(labels: ImageLabels) -> Table:
    assert list(labels.image_ids) == sorted(set(labels.image_ids))
    found: Table = {}
    for number, image_id in enumerate(labels.image_ids):
        classes, is_positive = labels.row(number)
        assert classes.tolist() == sorted(set(classes.tolist())) and len(classes)
        found[image_id] = dict(zip([labels.classes[c] for c in classes], is_positive.tolist(), strict=True))
    return found


def data_error(*arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_openimages(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# What is read
# ---------------------------------------------------------------------------------------------------------------------

Row = tuple[str, str, int, bool]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["0000000000000000", "00b36a942779ffd0", "ffffffffffffffff", "photo 1", "ü"]),
        st.sampled_from(["/m/a", "/m/b", "/g/c", "tree"]),
        st.integers(0, 1),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


def row_by_row(rows_: Sequence[Row]) -> Table:
    """What the docstring says, in the plainest way."""
    human, machine = defaultdict(set), set()
    for image, label, confidence, is_machine in rows_:
        if is_machine and confidence:
            machine.add((image, label))
        elif not is_machine:
            human[image, label].add(bool(confidence))
    verdicts = {pair: said.pop() for pair, said in human.items() if len(said) == 1}
    verdicts |= {pair: True for pair in machine if pair not in human}
    expected: Table = defaultdict(dict)
    for (image, label), verdict in verdicts.items():
        expected[image][label] = verdict
    return dict(expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=ROWS, block_bytes=st.sampled_from([200, 2**20]), is_packed=st.booleans())
def test_equal_to_reading_row_by_row(tmp_path: Path, drawn: list[Row], block_bytes: int, is_packed: bool) -> None:
    label_rows.BLOCK_BYTES, before = block_bytes, label_rows.BLOCK_BYTES
    ending = ".csv.gz" if is_packed else ".csv"
    human = write(tmp_path / f"human{ending}", rows(*(row[:3] for row in drawn if not row[3])))
    machine = write(tmp_path / f"machine{ending}", rows(*((p, c, 0.9 if s else 0.3) for p, c, s, is_ in drawn if is_)))
    try:
        if not any(not is_machine or confidence for *_, confidence, is_machine in drawn):
            assert "no usable label" in data_error(human, None, machine_labels=machine)
        elif not row_by_row(drawn):
            assert "contradict" in data_error(human, None, machine_labels=machine)
        else:
            labels = read_openimages(human, None, machine_labels=machine, machine_confidence=0.5)
            assert table(labels) == row_by_row(drawn)
            assert labels.classes == labels.names == tuple(sorted({row[1] for row in drawn}))
    finally:
        label_rows.BLOCK_BYTES = before


def test_many_rows_in_any_order(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rows, "BLOCK_BYTES", 5000)
    expected: Table = {
        f"{random.getrandbits(64):016x}": {
            f"/m/{number}": random.random() < 0.5 for number in random.sample(range(300), random.randint(1, 9))
        }
        for _ in range(400)
    }
    cells = [(image, label, int(present)) for image, row in expected.items() for label, present in row.items()]
    assert table(read_openimages(write(tmp_path / "sorted.csv", rows(*cells)), None)) == expected
    random.shuffle(cells)
    first, second = rows(*cells[:700]), rows(*cells[700:])
    labels = read_openimages([write(tmp_path / "1.csv", first), write(tmp_path / "2.csv.gz", second)], None)
    assert table(labels) == expected and labels.class_index.dtype == np.uint16 and not labels.notes


def test_contradictions_are_unknown_and_counted(tmp_path: Path) -> None:
    human = rows(
        ("1", "a", 1), ("1", "b", 1), ("2", "a", 0), ("1", "a", 0), ("1", "b", 1), ("3", "a", 1), ("3", "a", 0)
    )
    machine = rows(("1", "a", 0.99), ("2", "a", 0.99), ("2", "b", 0.99), ("4", "b", 0.79))
    labels = read_openimages(write(tmp_path / "h", human), None, machine_labels=write(tmp_path / "m", machine))
    # A machine does not decide what humans differ on, overrules nobody, and must be sure.
    assert table(labels) == {"1": {"b": True}, "2": {"a": False, "b": True}}
    assert [note.split()[0] for note in labels.notes] == ["1", "2"]
    assert "machine" in labels.notes[0] and "contradict" in labels.notes[1]


def test_classes(tmp_path: Path) -> None:
    human = write(tmp_path / "h.csv", rows(("1", "/m/b", 1), ("1", "/m/a", 1), ("2", "/m/c", 0)))
    described = write(tmp_path / "d.csv.gz", 'LabelName,DisplayName\n/m/c,"Cat, or dog"\n/m/b,Bee\n/m/a,Ant\n/m/z,\n')
    trainable = write(tmp_path / "t.txt", "/m/c\n\n/m/b \n/m/x\n")

    labels = read_openimages(human, None, described)
    assert labels.classes == ("/m/a", "/m/b", "/m/c", "/m/z") and labels.names == ("Ant", "Bee", "Cat, or dog", "/m/z")
    assert table(labels) == {"1": {"/m/a": True, "/m/b": True}, "2": {"/m/c": False}}

    labels = read_openimages(human, None, described, trainable)
    assert labels.classes == ("/m/b", "/m/c", "/m/x") and labels.names == ("Bee", "Cat, or dog", "/m/x")
    assert table(labels) == {"1": {"/m/b": True}, "2": {"/m/c": False}} and labels.notes[0].startswith("1 ")

    labels = read_openimages(human, None, described, classes=["/m/c", "/m/a"])
    assert labels.classes == ("/m/a", "/m/c") and table(labels) == {"1": {"/m/a": True}, "2": {"/m/c": False}}
    assert read_openimages(human, None, classes_trainable=trainable).names == ("/m/b", "/m/c", "/m/x")


def test_classes_that_are_described_alike(tmp_path: Path) -> None:
    human = write(tmp_path / "h.csv", rows(("1", "/m/a", 1)))
    described = write(tmp_path / "d.csv", "/m/b,Bat\n/m/a,Bat\n/m/c,Cat\n")
    assert read_openimages(human, None, described).names == ("Bat (/m/a)", "Bat (/m/b)", "Cat")


def test_a_described_name_may_look_like_one_of_ours(tmp_path: Path) -> None:
    described = write(tmp_path / "d.csv", "/m/0,x\n/m/1,x\n/m/2,x (/m/0)\n")
    path = write(tmp_path / "h.csv", rows(("1", "/m/0", 1)))
    names = read_openimages(path, None, described).names
    assert len(set(names)) == 3 and names[1] == "x (/m/1)"


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "h.csv", "ImageID,LabelName,LabelName,Confidence\n1,/m/a,/m/b,1\n")
    assert "several columns are called LabelName" in data_error(path, None)


def test_a_header_of_windows_and_a_long_one(tmp_path: Path) -> None:
    windows = HEADER.replace("Source", "Confidence").replace("\n", "\r\n")  # the last column is the second of its name
    assert "several columns are called Confidence" in data_error(write(tmp_path / "w.csv", windows), None)
    good = rows(("1", "/m/a", 1), ("2", "/m/a", 0)).replace("\n", "\r\n")
    assert table(read_openimages(write(tmp_path / "g.csv", good), None)) == {"1": {"/m/a": True}, "2": {"/m/a": False}}
    long = HEADER.replace("Source", "S" * 300)
    twice = long.replace("Confidence", "Confidence,LabelName")
    assert "several columns are called LabelName" in data_error(write(tmp_path / "t.csv", twice), None)
    quoted = long.replace("Confidence", '"Confidence"') + '"1,2",x,/m/a,1\n'
    assert set(table(read_openimages(write(tmp_path / "q.csv", quoted), None))) == {"1,2"}


def test_of_several_files_none_alone_is_blamed(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.csv", rows(("1", "/m/a", 7))) for number in range(2)]
    machine = write(tmp_path / "m.csv", HEADER)
    assert data_error(paths, None).startswith(f"{paths[0]} and 1 more: no usable label")
    message = data_error(paths, None, machine_labels=machine, max_rejected_fraction=0.5)
    assert f"rows of {paths[0]} and 2 more" in message


def test_class_descriptions_with_and_without_header(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", "\ufeff/m/a,Ant\r\n/m/b,Bee\r\n")
    assert read_class_descriptions(plain) == {"/m/a": "Ant", "/m/b": "Bee"}
    headed = write(tmp_path / "b.csv.gz", "LabelName,DisplayName\n/m/a,Ant\n\n")
    assert read_class_descriptions(headed) == {"/m/a": "Ant"}
    for bad in (b"/m/a\n", b"/m/a,Ant,3\n", b",Ant\n", b"/m/a,\xff\n", b"/m/a," + b"x" * 200_000):
        with pytest.raises(DataError, match=":2:"):
            read_class_descriptions(write(tmp_path / "c.csv", b"/m/b,Bee\n" + bad))


def test_only_images_with_a_file(tmp_path: Path) -> None:
    source = open_images(write_tree(tmp_path / "p", {"b.jpg": b"", "x/c.png": b"", "d.jpg": b"", "e.jpg": b""}))
    human = write(tmp_path / "h.csv", rows(("c", "/m/1", 1), ("a", "/m/1", 0), ("b", "/m/2", 0)))
    labels = read_openimages(human, source)
    assert table(labels) == {"b": {"/m/2": False}, "c": {"/m/1": True}} and labels.classes == ("/m/1", "/m/2")
    assert labels.notes == ("1 images have labels but no file", "2 images have a file but no labels")
    assert "none of the 1 images" in data_error(write(tmp_path / "h2.csv", rows(("a", "/m/1", 1))), source)


def test_columns_in_another_order_and_quoted(tmp_path: Path) -> None:
    other = "Confidence,LabelName,Extra,ImageID\n1,/m/a,x,p1\n0.0,/m/b,y,p1\n"
    assert table(read_openimages(write(tmp_path / "a.csv", other), None)) == {"p1": {"/m/a": True, "/m/b": False}}
    quoted = '"ImageID","Source","LabelName","Confidence"\r\n"p,1","v","/m/a","1"\r\n'
    assert table(read_openimages(write(tmp_path / "b.csv", quoted), None)) == {"p,1": {"/m/a": True}}


def test_real_photos() -> None:
    folder = Path(os.environ.get("OPENIMAGES_DIR", "../shared/data/miml_openimages"))
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    for part, size in (("train", 1500), ("validation", 200)):
        annotations = folder / "annotations" / f"{part}-annotations-human-imagelabels.csv"
        log = KeptLog()
        source = open_images(folder / part)
        labels = read_openimages(annotations, source, folder / "annotations" / "class-descriptions.csv", rejections=log)
        assert len(labels) == size and labels.names == ("Desert", "Mountains", "Sea", "Sunset", "Trees")
        assert not labels.notes and not log.found
        assert labels.class_frequencies().annotated.tolist() == [size] * 5


# ---------------------------------------------------------------------------------------------------------------------
# What is rejected
# ---------------------------------------------------------------------------------------------------------------------


def test_bad_rows_are_named_with_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rows, "BLOCK_BYTES", 64)
    lines: list[tuple[bytes, str | None]] = [
        (b"1,v,/m/a,1", None),
        (b"1,v,/m/a", "3 columns instead of 4"),
        (b"1,v,/m/q,1", "class /m/q is not in the class descriptions"),
        (b"", None),
        (b"2,v,/m/a,yes", "confidence is not 0 or 1"),
        (b"2,v,/m/a,0.5", "confidence is not 0 or 1"),
        (b"2,v,/m/a,nan", "confidence is not 0 or 1"),
        (b"2,v,/m/a,", "confidence is not 0 or 1"),
        (b'"3,v,/m/a,0', None),
        (b"1,v,/m/a,1,1,1", "6 columns instead of 4"),
        (b"4\xff,v,/m/a,1", "not UTF-8"),
        (b"4,v,/m/\xff,1", "not UTF-8"),
        (b"4,v\xff,/m/a,0", None),
        (b"4,v,,0", "no LabelName"),
        (b"\xff\xff,v,/m", "3 columns instead of 4"),
        (b",v,/m/a,0", "no ImageID"),
        (b"5,v,/m/b,0", None),
    ]
    described = write(tmp_path / "d.csv", "/m/a,Ant\n/m/b,Bee\n")
    content = HEADER.encode() + b"\n".join(line for line, _ in lines)
    for ending in (".csv", ".csv.gz"):
        log = KeptLog()
        path = write(tmp_path / f"h{ending}", content)
        labels = read_openimages(path, None, described, rejections=log)
        assert table(labels) == {"1": {"/m/a": True}, '"3': {"/m/a": False}, "4": {"/m/a": False}, "5": {"/m/b": False}}
        expected = [(path.name, number, reason) for number, (_, reason) in enumerate(lines, start=2) if reason]
        assert sorted(log.found) == expected and len(log) == len(expected)


def test_too_many_bad_rows_stop_and_rows_of_other_classes_are_good(tmp_path: Path) -> None:
    cells = [("1", "/m/a", 1), *((str(number), "/m/other", 1) for number in range(98)), ("1", "/m/a", "maybe")]
    path = write(tmp_path / "h.csv", rows(*cells))
    assert table(read_openimages(path, None, classes=["/m/a"], max_rejected_fraction=0.01)) == {"1": {"/m/a": True}}
    message = data_error(path, None, classes=["/m/a"], max_rejected_fraction=0.009)
    assert message.startswith(f"1.00% of the rows of {path} were rejected")


def test_machine_confidences(tmp_path: Path) -> None:
    log = KeptLog()
    human = write(tmp_path / "h.csv", rows(("1", "/m/a", 1)))
    cells = [("2", "/m/a", 0.6), ("3", "/m/a", 0.59), ("4", "/m/a", 1.5), ("5", "/m/a", "x"), ("6", "/m/a", "nan")]
    machine = write(tmp_path / "m.csv", rows(*cells))
    labels = read_openimages(human, None, machine_labels=[machine], machine_confidence=0.6, rejections=log)
    assert set(table(labels)) == {"1", "2"}
    assert [(name, line) for name, line, _ in log.found] == [("m.csv", 4), ("m.csv", 5), ("m.csv", 6)]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    assert data_error(path, None) == f"{path}: cannot be read (No such file or directory)"
    for content in ("", "\n\n", "ImageID,LabelName\n1,/m/a\n", "a,b,c,d\n1,2,3,4\n"):
        assert "cannot be read as a label file" in data_error(write(path, content), None)
    assert "no usable label" in data_error(write(path, HEADER), None)
    assert "1 × confidence is not 0 or 1" in data_error(write(path, rows(("1", "/m/a", 7))), None)
    packed = write(tmp_path / "h.csv.gz", rows(*[(str(number), "/m/a", 1) for number in range(99)]))
    packed.write_bytes(packed.read_bytes()[:-20])
    assert "h.csv.gz" in data_error(packed, None)
    assert "h.csv.gz" in data_error(write(tmp_path / "x", HEADER).rename(packed), None)
    assert "contradict" in data_error(write(path, rows(("1", "/m/a", 1), ("1", "/m/a", 0))), None)
    good = write(path, rows(("1", "/m/a", 1)))
    assert "t.txt:2: not UTF-8" in data_error(good, None, None, write(tmp_path / "t.txt", b"/m/a\n\xff\n"))
    assert "missing" in data_error(good, None, tmp_path / "missing")
    assert "missing" in data_error(good, None, None, tmp_path / "missing")


def test_at_least_one_file_of_labels_is_named() -> None:
    assert data_error([], None).startswith("no annotations are named")
