"""Several processes take the very steps of one: losses, gradients and scores of every architecture agree."""

import itertools
import json
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from PIL import Image
from poison import Poison
from spawned_ranks import be_rank, free_port
from torch import Tensor, nn

from transformer_architectures.architectures import bert, vanilla, vit
from transformer_architectures.datasets.loading import Loading
from transformer_architectures.errors import NonFiniteError
from transformer_architectures.planning.memory import largest_shard
from transformer_architectures.planning.ways import Way, bytes_sent
from transformer_architectures.planning.workload import Workload
from transformer_architectures.tasks.image_classification import ImageClassificationTask, ImageTrainingConfig
from transformer_architectures.tasks.images.multi_label_loss import multi_label_loss
from transformer_architectures.tasks.masked_language_model import MaskedLanguageModelTask
from transformer_architectures.tasks.text_task import TextTrainingConfig
from transformer_architectures.tasks.translation import TranslationTask, TranslationTrainingConfig
from transformer_architectures.training.blocks import checkpoint_activations
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.parallelism import DataParallel, build_parallelism
from transformer_architectures.training.distributed.ranks import (
    DistributedMapBatches,
    Ranks,
    SummedLoss,
    process_group,
)
from transformer_architectures.training.distributed.sharding import (
    full_tensor,
    fully_sharded,
    local_shard,
)
from transformer_architectures.training.optimization import build_optimizer, build_scheduler, gradients
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.step import TrainingStep

STEPS = 20
ACCUMULATION = 2
CPU = torch.device("cpu")
SYLLABLES = ["ba", "lo", "mi", "tu", "ké", "sa", "ro", "ne"]


# -------------------------------------------------------------------- three tiny tasks
def write_data(folder: Path) -> None:
    """Sentences, documents and images; few enough that every epoch ends with an uneven batch."""
    words = ["".join(random.choices(SYLLABLES, k=2)) for _ in range(30)]
    lines = [" ".join(random.choices(words, k=random.randint(1, 9))) for _ in range(45)]
    (folder / "pairs.tsv").write_text("".join(f"{line} {n}\t{line[::-1]} {n}\n" for n, line in enumerate(lines)))
    (folder / "documents.txt").write_text("\n\n".join(lines))
    for number in range(47):
        path = folder / "images" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.randint(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def translation(folder: Path, loading: Loading) -> tuple[Any, Any]:
    config = {
        "train": {"file": str(folder / "pairs.tsv")},
        "cache_dir": str(folder / "cache"),
        "num_workers": 1,
        "validation_fraction": 0.2,
    }
    data = vanilla.TransformerDataModule(
        vanilla.VanillaDataConfig.model_validate(config), 120, seed=3, batch_tokens=130, loading=loading
    )
    data.setup()
    sizes = {"vocab_size": 120, "embed_dim": 16, "num_heads": 2, "ff_dim": 32, "num_layers": 1, "dropout": 0.0}
    settings = TranslationTrainingConfig(max_steps=STEPS)
    return TranslationTask(vanilla.Transformer, vanilla.VanillaModelConfig(**sizes), settings, data), data


class Images(ImageClassificationTask):
    """In the numbers of the model."""

    def loss(self, model: Any, batch: Any) -> Tensor:
        dtype = next(model.parameters()).dtype
        logits = model(batch.images.to(dtype))
        return multi_label_loss(logits, batch.labels.to(dtype), batch.masks.to(dtype), self.config.loss, None)


def images(folder: Path, loading: Loading) -> tuple[Any, Any]:
    config = {
        "train": {"image_folder": str(folder / "images")},
        "cache_dir": str(folder / "cache"),
        "validation_fraction": 0.3,
        "augmentation": {"mixup": 0.4, "cutmix": 1.0},
    }
    data = vit.TransformerDataModule(
        vit.VitDataConfig.model_validate_json(json.dumps(config)), (16, 16), seed=3, batch_size=6, loading=loading
    )
    data.setup()
    sizes = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "ff_dim": 16, "num_layers": 1}
    model = vit.VitModelConfig(**sizes, dropout=0.0)
    return Images(vit.VisionTransformerForImageClassification, model, ImageTrainingConfig(max_steps=STEPS), data), data


def masked_texts(folder: Path, loading: Loading) -> tuple[Any, Any]:
    config = {
        "train": {"documents": {"files": [str(folder / "documents.txt")]}},
        "cache_dir": str(folder / "cache"),
        "validation_fraction": 0.2,
        "max_length": 20,
    }
    data = bert.TransformerDataModule(
        bert.BertDataConfig.model_validate(config), 100, seed=3, batch_tokens=70, loading=loading
    )
    data.setup()
    sizes = {"vocab_size": 100, "embed_dim": 16, "num_heads": 2, "ff_dim": 32, "num_layers": 1, "max_positions": 32}
    return (
        MaskedLanguageModelTask(
            bert.BertForMaskedLM, bert.BertModelConfig(**sizes, dropout=0.0), TextTrainingConfig(max_steps=1), data
        ),
        data,
    )


TASKS = {"translation": translation, "images": images, "masked texts": masked_texts}


# -------------------------------------------------------------------- what one process, or a rank, does
def batches_from(data: Any, step: int) -> Iterator[list[Any]]:
    """The micro-batches of each step, from one on: epochs end where they end."""
    done = 0
    for epoch in range(10_000):
        micro_batches = list(data.train_dataloader(epoch=epoch))
        for start in range(0, len(micro_batches), ACCUMULATION):
            if done >= step:
                yield micro_batches[start : start + ACCUMULATION]
            done += 1


def train(name: str, folder: Path, ranks: Ranks, dtype: torch.dtype, is_sharded: bool = False) -> dict[str, Any]:
    """Losses, the rows of each step, all gradients of each step in one vector, and scores at the end.

    Args:
        is_sharded: ranks share the model. With fp64, and where it is shared, blocks compute their activations again.
    """
    task, data = TASKS[name](folder, Loading(ranks.rank, ranks.world_size))
    torch.manual_seed(1)
    model = task.build_model().to(dtype)
    config = TrainingConfig(max_steps=STEPS, warmup_steps=0, learning_rate=0.01)
    precision = Precision(CPU, None)
    parallelism = build_parallelism(
        TrainingConfig(max_steps=1, sharding="fsdp" if is_sharded else "ddp"), precision, ranks
    )
    parallelism.place(model)
    if ranks.world_size > 1 and (is_sharded or dtype is torch.float64):
        checkpoint_activations(model)
    parallel = parallelism.wrap(model, task.loss, ema=None)
    optimizer = build_optimizer(model, config)
    step = TrainingStep(
        model, parallel, optimizer, build_scheduler(optimizer, config), precision, 0.5, parallelism=parallelism
    )
    losses, rows, found, sent = [], [], [], BytesSent(ranks.world_size)
    for micro_batches, _ in zip(batches_from(data, 0), range(STEPS), strict=False):
        with nullcontext() if losses else sent:
            losses.append(step(micro_batches).loss)
        rows.append([tuple(batch.indices) for batch in micro_batches])
        found.append(torch.cat([full_tensor(gradient).flatten() for gradient in gradients(model.parameters())]).clone())
    share = sum(local_shard(parameter).numel() for parameter in model.parameters())
    model = parallelism.full_model(model)
    model.eval()
    scores = task.validate(model.float(), DistributedMapBatches(ranks, lambda: None))
    found_bytes = {"share": share, "sent": sent.total}
    return {"losses": losses, "rows": rows, "gradients": torch.stack(found), "scores": scores, **found_bytes}


class BytesSent:
    """Inside the block, what FSDP gathers and scatters is counted, as a ring of ranks would send it: a share to each of the others."""

    def __init__(self, world_size: int) -> None:
        self.total, self.others, self.patch = 0, world_size - 1, pytest.MonkeyPatch()

    def __enter__(self) -> None:
        self.count("all_gather_single", "all_gather_into_tensor")
        self.count("reduce_scatter_single", "reduce_scatter_tensor")

    def __exit__(self, *unused: object) -> None:
        self.patch.undo()

    def count(self, name: str, name_before: str) -> None:
        """torch 2.15 gave the two functions new names."""
        name = name if hasattr(dist, name) else name_before
        call = getattr(dist, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            tensors = [value for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
            self.total += min(tensor.nbytes for tensor in tensors) * self.others  # the other one is whole
            return call(*arguments, **options)

        self.patch.setattr(dist, name, counted)


def work(rank: int, world_size: int, port: int, folder: str) -> None:
    be_rank(rank, world_size, port)
    with process_group(CPU) as ranks:
        assert ranks.gather(rank) == list(range(world_size)) and ranks.agree(f"from {rank}") == "from 0"
        assert ranks.any(rank == 1) and not ranks.any(False)
        refuse_what_is_not_finite(Path(folder), ranks)
        sum_bf16_gradients_in_fp32(rank)
        for name in TASKS:
            for dtype in (torch.float64, torch.float32):
                for is_sharded in (False, True):
                    found = train(name, Path(folder), ranks, dtype, is_sharded)
                    torch.save(found, Path(folder) / f"{name}_{dtype}_{is_sharded}_{rank}.pt")


def sum_bf16_gradients_in_fp32(rank: int) -> None:
    """The sum of two numbers of bf16 has more bits than they have."""
    bf16 = Precision(CPU, torch.bfloat16)
    summed_loss = SummedLoss(nn.Linear(8, 8), lambda model, batch: model(batch).square().sum())
    fully_sharded(summed_loss, bf16)
    with bf16.autocast():
        loss = summed_loss(torch.randn(4, 8, generator=torch.Generator().manual_seed(rank)))
    loss.backward()
    for gradient in map(full_tensor, gradients(summed_loss.parameters())):
        assert gradient.dtype == torch.float32 and not torch.equal(gradient, gradient.bfloat16().float())


def refuse_what_is_not_finite(folder: Path, ranks: Ranks) -> None:
    """A bad loss, and a bad gradient of a finite loss, in one micro-batch of one rank: no rank takes the step."""
    task, data = masked_texts(folder, Loading(ranks.rank, ranks.world_size))
    for bad_rank, bad_batch, in_gradient in itertools.product(
        range(ranks.world_size), range(ACCUMULATION), (False, True)
    ):
        torch.manual_seed(1)
        model = task.build_model()
        asked: list[int] = []

        def loss(model: Any, batch: Any) -> Tensor:
            asked.append(1)
            value = task.loss(model, batch)
            if ranks.rank != bad_rank or len(asked) != bad_batch + 1:
                return value
            weight = random.choice(list(model.parameters()))
            return value + 0 * Poison.apply(weight).sum() if in_gradient else value * torch.nan

        config = TrainingConfig(max_steps=STEPS, warmup_steps=0)
        parallelism = DataParallel(ranks)
        summed_loss = parallelism.wrap(model, loss, ema=None)
        optimizer = build_optimizer(model, config)
        step = TrainingStep(
            model,
            summed_loss,
            optimizer,
            build_scheduler(optimizer, config),
            Precision(CPU, None),
            parallelism=parallelism,
        )
        micro_batches = next(batches_from(data, 0))
        before = [weight.detach().clone() for weight in model.parameters()]
        with pytest.raises(NonFiniteError) as caught:
            step(micro_batches)
        rows = [index for batch in micro_batches for index in batch.indices]
        assert all(str(row) in str(caught.value) for row in itertools.chain(*ranks.gather(rows)))
        assert all(map(torch.equal, before, model.parameters())) and not optimizer.state


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.faults)])
def test_ranks_take_the_steps_of_one(seed: int, tmp_path: Path, world_size: int) -> None:
    write_data(tmp_path)
    one = {
        (name, dtype): train(name, tmp_path, Ranks(), dtype)
        for name in TASKS
        for dtype in (torch.float64, torch.float32)
    }
    multiprocessing.spawn(work, (world_size, free_port(), str(tmp_path)), nprocs=world_size)
    for (name, dtype), is_sharded in itertools.product(one, (False, True)):
        expected = one[name, dtype]
        files = [tmp_path / f"{name}_{dtype}_{is_sharded}_{rank}.pt" for rank in range(world_size)]
        ranks = [torch.load(file, weights_only=True) for file in files]
        parameters = list(TASKS[name](tmp_path, Loading(0, 1))[0].build_model().parameters())
        assert ranks[0]["share"] == largest_shard(parameters, world_size if is_sharded else 1)
        if is_sharded:
            assert ranks[0]["sent"] == pytest.approx(planned(name, tmp_path, dtype, world_size), rel=0.03)  # padding
        for found in ranks:
            assert found["scores"] == expected["scores"] or dtype is torch.float32, name
            check_close(found["gradients"], expected["gradients"], 1e-10 if dtype is torch.float64 else 1e-5, name)
            assert np.allclose(found["losses"], expected["losses"], rtol=0, atol=1e-4), name
            assert torch.equal(found["gradients"], ranks[0]["gradients"])  # ranks never drift apart
        for step, of_one in enumerate(expected["rows"]):
            shares = [found["rows"][step] for found in ranks]
            assert [tuple(row for part in parts for row in part) for parts in zip(*shares, strict=True)] == of_one


def planned(name: str, folder: Path, dtype: torch.dtype, world_size: int) -> int:
    """What a plan says that FSDP sends, in fp32; products and sums of fp64 have twice the bytes."""
    model = TASKS[name](folder, Loading(0, 1))[0].build_model()
    training = SimpleNamespace(accumulation_steps=ACCUMULATION)
    workload = Mock(spec=Workload, model=model, training=training, product_bytes=4)
    return bytes_sent(Way("fsdp", world_size, False), workload) * dtype.itemsize // 4


def check_close(found: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    """The first step's gradients: later ones differ by what the weights differ by, and Adam makes much of little."""
    error = (found[0] - expected[0]).norm() / expected[0].norm()
    assert float(error) <= tolerance, f"{name}: {float(error)}"
