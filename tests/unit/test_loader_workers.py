"""Workers of loaders: none outlives the block that it was started in, and one that is lost is named."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from transformer_architectures.datasets.loading import Loading, iterate_with_timeout
from transformer_architectures.errors import LostWorkerError
from transformer_architectures.utils.processes import loader_workers


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 1_000

    def __getitem__(self, index: int) -> int:
        return index


def loader() -> DataLoader[torch.Tensor]:
    """Of tensors: to hand one over, a worker has to answer in the middle of it."""
    batches = [[index] for index in range(1_000)]
    return Loading().whole(Numbers(), batches, torch.tensor, num_workers=2, seed=1)


@pytest.fixture
def own_child() -> Iterator[multiprocessing.Process]:
    """A process that whoever calls the library has started."""
    child = multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    yield child
    child.kill()
    child.join()


Processes = set[BaseProcess]


@pytest.fixture
def others() -> Processes:
    """Those that were there before the test: another one may have left some."""
    return set(multiprocessing.active_children())


def stop_in_the_middle() -> None:
    """As a training that a signal ends."""
    batches = iter(loader())
    next(batches)
    raise SystemExit(143)


def test_none_is_left_by_an_exception(own_child: multiprocessing.Process, others: Processes) -> None:
    """Whose frames hold a loader in its middle: at its end Python would wait for workers that nobody tells to go."""
    with pytest.raises(SystemExit) as caught:
        with loader_workers():
            stop_in_the_middle()
    assert set(multiprocessing.active_children()) <= others and own_child.is_alive()
    assert caught.value.code == 143


def test_a_killed_worker_is_named(others: Processes) -> None:
    with pytest.raises(LostWorkerError) as caught:
        with loader_workers():
            for _ in loader():
                worker, *_ = set(multiprocessing.active_children()) - others
                os.kill(worker.pid or 0, signal.SIGKILL)
                time.sleep(0.1)
    assert str(worker.pid) in str(caught.value) and "lost" in str(caught.value)
    assert set(multiprocessing.active_children()) <= others


def test_a_stopped_worker_is_named_and_killed(others: Processes) -> None:
    with pytest.raises(LostWorkerError) as caught:
        with loader_workers():
            for number, _ in enumerate(iterate_with_timeout(loader(), 1.0)):
                if number == 0:
                    stopped, *_ = [worker.pid or 0 for worker in set(multiprocessing.active_children()) - others]
                    os.kill(stopped, signal.SIGSTOP)
    assert f"process {stopped} was stopped" in str(caught.value)
    assert set(multiprocessing.active_children()) <= others


def test_one_that_is_still_held_does_not_keep_python_from_its_end() -> None:
    """Which asks its children by SIGTERM to go, and waits: they hear nothing."""
    script = "from tests.unit.test_loader_workers import loader\nbatches = iter(loader())\nnext(batches)\nprint('end')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_one_that_is_stopped_after_its_last_batch_does_not_stay(others: Processes) -> None:
    with loader_workers():
        iterator = iter(loader())
        worker, *_ = set(multiprocessing.active_children()) - others
        os.kill(worker.pid or 0, signal.SIGSTOP)
        iterator._shutdown_workers()  # type: ignore[attr-defined]
        assert worker.is_alive()
    worker.join(10)
    assert not worker.is_alive()


def test_workers_hear_no_signal_from_their_first_moment_on(others: Processes) -> None:
    """A process that is forked gets the signals that are blocked from this one, which has them unblocked again."""
    with loader_workers():
        batches = iterate_with_timeout(loader(), 60.0)
        next(batches)
        workers = set(multiprocessing.active_children()) - others
        mask, *_ = {
            int(line.split()[1], 16)
            for worker in workers
            for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()
            if line.startswith("SigBlk")
        }
        assert all(mask & 1 << (number - 1) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGTERM)
        next(batches)
        del batches  # the workers end
