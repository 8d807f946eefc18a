"""Folders that are made once: errors name the file that they are about, and what was damaged later is noticed."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from transformer_architectures.datasets import cached_folder as module
from transformer_architectures.datasets.cached_folder import SIZES, cached_folder
from transformer_architectures.errors import DataError


def make(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "a.txt").write_text("made")


def test_made_once(tmp_path: Path) -> None:
    folder = cached_folder(tmp_path / "cache" / "f", make)
    assert (folder / "below" / "a.txt").read_text() == "made"
    assert json.loads((folder / SIZES).read_text()) == {"below/a.txt": 4}
    assert cached_folder(folder, lambda _: pytest.fail("it is there")) == folder
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"f", "f.lock"}


def remove(folder: Path) -> None:
    (folder / "below" / "a.txt").unlink()


def cut(folder: Path) -> None:
    (folder / "below" / "a.txt").write_text("mad")


def spoil_the_list(folder: Path) -> None:
    (folder / SIZES).write_text("[")


def empty_the_list(folder: Path) -> None:
    (folder / SIZES).write_text("[]")


@pytest.mark.parametrize("damage", [remove, cut, spoil_the_list, empty_the_list])
def test_a_damaged_folder_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = cached_folder(tmp_path / "f", make)
    damage(folder)
    with pytest.raises(DataError, match=f"{folder}: damaged .*: delete this folder"):
        cached_folder(folder, make)


def test_a_folder_of_an_earlier_version_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = cached_folder(tmp_path / "f", make)
    (folder / SIZES).unlink()
    remove(folder)
    assert cached_folder(folder, make) == folder


def test_an_error_names_the_file_that_it_is_about(tmp_path: Path) -> None:
    def read_what_is_missing(folder: Path) -> None:
        (tmp_path / "input.txt").read_text()

    def write_on_a_full_disk(folder: Path) -> None:
        raise OSError("7 requested and 0 written")  # as numpy says it: without a number, without a name

    def message(make: Callable[[Path], None]) -> str:
        with pytest.raises(DataError) as caught:
            cached_folder(tmp_path / "f", make)
        assert {path.name for path in tmp_path.iterdir()} == {"f.lock"}
        return str(caught.value)

    folder, missing = tmp_path / "f", tmp_path / "input.txt"
    assert message(read_what_is_missing) == f"{missing}: No such file or directory (while {folder} was made)"
    assert message(write_on_a_full_disk) == f"{folder}: 7 requested and 0 written (while {folder} was made)"


def test_a_cache_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as caught:
        cached_folder(tmp_path / "file" / "f", make)
    assert str(caught.value) == f"{tmp_path / 'file'}: cannot be used as Data.cache_dir (File exists)"


def test_the_new_name_is_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[Path, bool]] = []
    folder = tmp_path / "f"
    monkeypatch.setattr(module, "flush_to_disk", lambda path: flushed.append((path, os.path.exists(folder))))
    cached_folder(folder, make)
    assert flushed[-1] == (tmp_path, True)
    assert {path.name for path, is_there in flushed if not is_there} >= {"below", "a.txt", SIZES}


def test_threads_take_turns(tmp_path: Path) -> None:
    made = []

    def make_slowly(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.1)
        make(folder)

    threads = [threading.Thread(target=cached_folder, args=(tmp_path / "f", make_slowly)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and (tmp_path / "f" / "below" / "a.txt").read_text() == "made"


def fork_and_hang(folder: Path) -> None:
    """A maker that has workers, and is killed."""
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    (folder.parent / "worker").write_text(str(worker.pid))
    (folder.parent / "worker").rename(folder.parent / "worker_is_there")
    time.sleep(60)


def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_maker(tmp_path: Path) -> None:
    maker = multiprocessing.get_context("fork").Process(target=cached_folder, args=(tmp_path / "f", fork_and_hang))
    maker.start()
    while not (tmp_path / "worker_is_there").exists():
        time.sleep(0.01)
    assert maker.pid is not None
    os.kill(maker.pid, signal.SIGKILL)
    maker.join()
    try:
        started = time.monotonic()
        assert cached_folder(tmp_path / "f", make).is_dir()
        assert time.monotonic() - started < 30
    finally:
        os.kill(int((tmp_path / "worker_is_there").read_text()), signal.SIGKILL)
