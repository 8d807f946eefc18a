"""What the ranks of a run hear when one of them ends before the others, and that they are together again in the next run."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from spawned_ranks import be_rank, free_port
from torch import nn

from transformer_architectures.errors import DataError, FailedRankError, LostRankError
from transformer_architectures.training.distributed.ranks import SummedLoss, data_parallel, process_group
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.seeds import train_seeds
from transformer_architectures.training.runs.signals import Stopped

CPU = torch.device("cpu")


def go_on_after_one_has_failed(rank: int, world_size: int) -> None:
    """A training of several ends on one rank, while the others wait for it: all hear of it, and are together again in the next."""

    def train(seed: int) -> FinishedRun:
        with process_group(CPU) as ranks:
            hold_in_a_cycle(data_parallel(SummedLoss(nn.Linear(1, 1), Mock()), ranks))
            if seed == 6 and rank == world_size - 1:
                raise DataError("a disk\nis full")
            found = ranks.gather((seed, rank))
            assert found == [(seed, rank) for rank in range(world_size)]
        return FinishedRun(Path(), {})

    first, second, third = train_seeds([5, 6, 7], train)
    assert first.error is None and third.error is None
    assert second.error is not None
    if rank == world_size - 1:
        assert second.error == r"a disk\nis full"
    else:
        assert second.error.startswith(f"rank {rank}: rank {world_size - 1} (process "), second.error
        assert second.error.endswith(r" has failed: a disk\nis full"), second.error


def hear_of_one_that_ends(rank: int, world_size: int) -> None:
    """By a signal, or by an error that is none of the library's."""
    with pytest.raises(Stopped) as stopped, process_group(CPU) as ranks:
        if rank == world_size - 1:
            raise Stopped(143)
        ranks.gather(rank)
    assert stopped.value.code == 143
    with pytest.raises((FailedRankError, OSError)) as caught, process_group(CPU) as ranks:
        if rank == world_size - 1:
            raise OSError("an odd disk")
        ranks.gather(rank)
    assert "an odd disk" in str(caught.value) and isinstance(caught.value, OSError) == (rank == world_size - 1)


def hold_in_a_cycle(module: nn.Module) -> None:
    """As models and their hooks may: only the garbage collector ends it, and with it the connections that it holds."""
    module.__dict__["itself"] = module


def wait_for_one_that_does_not_come(rank: int, world_size: int) -> None:
    """To a later training: a mistake that only it has found may have ended it."""
    if rank == world_size - 1:
        return
    with pytest.raises(LostRankError) as caught, process_group(CPU, hang_timeout=3.0):
        pass
    assert str(caught.value).startswith(f"rank {rank}: after 3 seconds "), caught.value
    if rank == 0:  # who keeps the store may be gone when the others ask who is missing
        assert f"rank {world_size - 1} did not come" in str(caught.value)
    assert not dist.is_initialized()


def work(rank: int, world_size: int, port: int) -> None:
    be_rank(rank, world_size, port)
    go_on_after_one_has_failed(rank, world_size)
    hear_of_one_that_ends(rank, world_size)
    wait_for_one_that_does_not_come(rank, world_size)


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_hear_of_one_that_ends(world_size: int) -> None:
    """Of four, one is no neighbour of the one that ends: it hears of it from those who have heard."""
    multiprocessing.spawn(work, (world_size, free_port()), nprocs=world_size)
