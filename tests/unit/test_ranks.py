"""Two processes take the very step of one: gradients, weights and reports agree with accumulation in a single process."""

import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed import Ranks, process_group
from transformer_architectures.training.optimization import build_optimizer, build_scheduler
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.step import StepReport, TrainingStep

STEPS, WORLD_SIZE = 3, 2


class Rows:
    """A micro-batch with an uneven number of labels."""

    def __init__(self, number: int) -> None:
        self.features = torch.randn(3 + number % 4, 5, generator=torch.Generator().manual_seed(number)).double()
        self.num_labels = self.num_tokens = self.num_positions = len(self.features)
        self.indices = tuple(range(len(self.features)))

    def to(self, device: torch.device) -> "Rows":
        return self


def loss(model: nn.Module, batch: Rows) -> Tensor:
    output: Tensor = model(batch.features)
    return output.square().sum()


def trained(ranks: Ranks, numbers_of_steps: list[list[int]]) -> tuple[list[Tensor], list[StepReport]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    config = TrainingConfig(max_steps=STEPS, warmup_steps=0)
    optimizer = build_optimizer(model, config)
    step = TrainingStep(
        model,
        loss,
        optimizer,
        build_scheduler(optimizer, config),
        Precision(torch.device("cpu"), None),
        clip_norm=0.5,
        ranks=ranks,
    )
    reports = [step([Rows(number) for number in numbers]) for numbers in numbers_of_steps]
    return [parameter.detach() for parameter in model.parameters()], reports


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(WORLD_SIZE), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")) as ranks:
        result = trained(ranks, [[WORLD_SIZE * step + ranks.rank] for step in range(STEPS)])
        assert ranks.gather(rank) == [0, 1] and ranks.agree(f"from {rank}") == "from 0"
        assert ranks.any(rank == 1) and not ranks.any(False) and dist.is_initialized()
        torch.save((result[0], [vars(report) for report in result[1]]), Path(folder) / f"{rank}.pt")


def test_two_ranks_are_accumulation_of_two(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=WORLD_SIZE)
    weights, reports = trained(Ranks(), [[WORLD_SIZE * step, WORLD_SIZE * step + 1] for step in range(STEPS)])
    for rank in range(WORLD_SIZE):
        theirs, their_reports = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for ours, other in zip(weights, theirs, strict=True):
            torch.testing.assert_close(other, ours, rtol=0, atol=1e-12)
        for report, other in zip(reports, their_reports, strict=True):
            assert other["num_labels"] == report.num_labels
            assert abs(other["loss"] - report.loss) < 1e-12 and abs(other["grad_norm"] - report.grad_norm) < 1e-12
