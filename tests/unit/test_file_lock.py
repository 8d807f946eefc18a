"""One holder at a time, among threads and processes; what a process leaves behind when it forks, or dies, holds nothing."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from transformer_architectures.file_lock import holding

fork = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


def hold(path: Path, is_held: Event) -> None:
    with holding(path) as held:
        assert held
        is_held.set()
        time.sleep(60)


def test_another_process_waits_until_the_holder_is_dead(path: Path) -> None:
    is_held = fork.Event()
    process = fork.Process(target=hold, args=(path, is_held))
    process.start()
    assert is_held.wait(30)
    with holding(path, wait=False) as held:
        assert not held
    os.kill(process.pid or 0, signal.SIGKILL)
    with holding(path) as held:
        assert held
    process.join()


def test_threads_of_one_process_take_turns(path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with holding(path):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_forked_worker_does_not_keep_what_is_given_back(path: Path) -> None:
    with holding(path):
        worker = fork.Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        with holding(path, wait=False) as held:
            assert held
    finally:
        worker.kill()
        worker.join()


def test_an_error_gives_it_back(path: Path) -> None:
    with pytest.raises(ValueError), holding(path):
        raise ValueError
    with holding(path, wait=False) as held:
        assert held
