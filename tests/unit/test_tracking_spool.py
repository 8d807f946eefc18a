"""The journal: what is written is read, in order and whole, whatever the disk or a killed machine does."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from transformer_architectures.training.tracking.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "tracking")
    spool.open()
    return spool


def contents(spool: Spool, offset: int = 0) -> list[dict]:
    return [entry.content for entry in spool.read(offset)]


def test_entries_come_back_in_order_and_can_be_read_from_any_of_them(spool: Spool) -> None:
    for step in range(5):
        spool.append(metrics={"loss": step / 3}, step=step, time=step)
    entries = list(spool.read())
    assert [entry.content["metrics"]["loss"] for entry in entries] == [step / 3 for step in range(5)]
    assert [entry.content["step"] for entry in spool.read(entries[2].start)] == [2, 3, 4]
    assert [entry.start for entry in entries[1:]] == [entry.end for entry in entries[:-1]]


def test_threads_do_not_mix_their_lines(spool: Spool) -> None:
    def write(name: str) -> None:
        for step in range(100):
            spool.append(tags={name: "x" * step}, step=step)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "abcd":
        assert [entry["step"] for entry in contents(spool) if name in entry["tags"]] == list(range(100))


@pytest.mark.parametrize("torn", [b'{"step": 3', b"\x00" * 7, b"{"])
def test_a_torn_last_line_is_not_read_and_not_continued(spool: Spool, torn: bytes) -> None:
    spool.append(step=1)
    with spool.path.open("ab") as file:
        file.write(torn)
    assert contents(spool) == [{"step": 1}]
    again = Spool(spool.folder)
    again.open()
    again.append(step=2)
    assert contents(again) == [{"step": 1}, {"step": 2}]


def test_a_damaged_line_costs_only_itself(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    for step in range(3):
        spool.append(step=step)
    lines = spool.path.read_bytes().splitlines(keepends=True)
    spool.path.write_bytes(lines[0] + b"\x00" * (len(lines[1]) - 1) + b"\n" + lines[2])
    assert contents(spool) == [{"step": 0}, {}, {"step": 2}]
    assert "damaged" in caplog.text


def test_a_disk_that_refuses_loses_nothing_once_it_takes_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    write, is_full = os.write, True

    def write_some(descriptor: int, data: bytes) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data[:10])  # a short write is no error

    monkeypatch.setattr(os, "write", write_some)
    spool.append(step=1)
    spool.append(step=2)
    assert contents(spool) == []
    is_full = False
    for step in range(3, 9):
        spool.append(step=step)
    monkeypatch.undo()
    spool.append(step=9)
    assert contents(spool) == [{"step": step} for step in range(1, 10)]


def test_what_a_disk_refused_is_written_at_the_end(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, is_full = os.write, True

    def write_some(descriptor: int, data: bytes) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data[:10])

    monkeypatch.setattr(os, "write", write_some)
    for step in range(3):
        spool.append(step=step)
    assert caplog.text.count("no space left") == 1  # once for each time that it is full
    is_full = False
    spool.close()
    assert contents(spool) == [{"step": step} for step in range(3)] and "lost" not in caplog.text


def test_what_is_lost_is_said(spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "write", refuse)
    spool.append(step=1)
    spool.append(step=2)
    spool.close()
    assert "2 entries are lost" in caplog.text


def test_a_file_is_there_before_its_entry(spool: Spool) -> None:
    spool.add_file(b"one", "samples/table.json")
    spool.add_file(b"two", "samples/table.json")
    files = [entry["file"] for entry in contents(spool)]
    assert [(spool.folder / file).read_bytes() for file in files] == [b"one", b"two"]
    assert all(entry["artifact"] == "samples/table.json" for entry in contents(spool))
    assert all(Path(file).name == "table.json" for file in files)


def test_after_the_end_an_entry_is_refused_with_a_warning(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    spool.append(step=1)
    spool.close()
    spool.append(step=2)
    assert contents(spool) == [{"step": 1}] and "closed" in caplog.text


def test_lines_are_json(spool: Spool) -> None:
    spool.append(tags={"name": "naïve\nüñ"}, value=float("inf"))
    (line,) = spool.path.read_text().splitlines()
    assert json.loads(line) == {"tags": {"name": "naïve\nüñ"}, "value": float("inf")}
