"""A sharded model, in a group of one process: what it computes, and checkpoints that go from one form to the other.

Several processes: `test_ranks.py` and `faults/test_many_processes.py`.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.tensor import DTensor
from toy_task import ToyData, ToyTask

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import CheckpointError
from transformer_architectures.feedforward import FeedForwardConfig
from transformer_architectures.sublayer import ResidualConfig
from transformer_architectures.training.blocks import checkpoint_activations, compile_blocks
from transformer_architectures.training.checked_files import digest_path, write_with_digest
from transformer_architectures.training.checkpointing import load_checkpoint, read_checkpoint
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed import CommunicationError, SummedLoss
from transformer_architectures.training.finish import saved_weights
from transformer_architectures.training.grad_logging import count
from transformer_architectures.training.loop import Fit
from transformer_architectures.training.optimization import build_optimizer, build_scheduler
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.run_folder import RunFolder, Start
from transformer_architectures.training.sharded_checkpoints import read_index
from transformer_architectures.training.sharding import (
    PlainCopies,
    fully_sharded,
    is_sharded,
    whole,
)
from transformer_architectures.training.signals import StopRequest
from transformer_architectures.training.step import TrainingStep
from transformer_architectures.transformer_blocks import TransformerBlock, TransformerBlockConfig

CPU = torch.device("cpu")
DIM, VOCABULARY = 16, 11


pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module", autouse=True)
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Tied(nn.Module):
    """Embedding, blocks, and a head that is the embedding; a method of its own for the loss."""

    def __init__(self) -> None:
        super().__init__()
        block = TransformerBlockConfig(
            DIM, AttentionConfig(num_heads=2), FeedForwardConfig(ff_dim=24), ResidualConfig(dropout=0.3)
        )
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.encoder = Encoder(block, num_layers=2)
        self.head = nn.Linear(DIM, VOCABULARY)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.register_buffer("positions", torch.linspace(0, 1, DIM))

    def features(self, tokens: Tensor) -> Tensor:
        return self.encoder(self.embedding(tokens) * self.scale + self.positions)


class Batch:
    """Tokens, each of which is its own label."""

    def __init__(self, tokens: Tensor, number: int = 0) -> None:
        self.tokens, self.indices = tokens, (number,)
        self.num_labels = self.num_tokens = self.num_positions = tokens.numel()

    def to(self, device: torch.device) -> "Batch":
        return self


def loss_of(model: Tied, batch: Batch) -> Tensor:
    logits = model.head(model.features(batch.tokens))
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch.tokens.flatten(), reduction="sum")


def batches(number: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(3)
    return [Batch(torch.randint(VOCABULARY, (4, 6), generator=draw), n) for n in range(number)]


def trained(
    build: Callable[[], Tied] = Tied,
    precision: Precision = Precision(CPU, None),
    *,
    is_sharded: bool = False,
    cpu_offload: bool = False,
    recompute: bool = False,
    compile: bool = False,
) -> tuple[list[float], Tensor]:
    """The losses of four steps of two micro-batches, and all weights after them in one vector."""
    torch.manual_seed(1)
    model = build()
    names = list(model.state_dict())
    if compile:
        compile_blocks(model)
    if recompute:
        checkpoint_activations(model)
    summed_loss = SummedLoss(model, loss_of)
    if is_sharded:
        fully_sharded(summed_loss, precision, cpu_offload)
        assert any(isinstance(weight, DTensor) for weight in model.parameters())
    assert list(model.state_dict()) == names
    config = TrainingConfig(max_steps=4, warmup_steps=0, learning_rate=0.01, weight_decay=0.1)
    optimizer = build_optimizer(model, config)
    step = TrainingStep(model, summed_loss, optimizer, build_scheduler(optimizer, config), precision, clip_norm=0.5)
    torch.manual_seed(2)
    work = batches(8)
    losses = [step(work[number : number + 2]).loss for number in range(0, 8, 2)]
    return losses, torch.cat([whole(weight.detach()).flatten() for weight in model.parameters()])


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"cpu_offload": True}], ids=str)
def test_steps_are_those_of_a_model_that_is_not_sharded(options: dict[str, bool]) -> None:
    """Dropout included: what is computed again drops the same units."""
    expected, found = trained(), trained(is_sharded=True, **options)
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


def test_activations_that_are_computed_again_change_no_bit() -> None:
    expected, found = trained(), trained(recompute=True)
    assert expected[0] == found[0] and torch.equal(expected[1], found[1])


def test_a_block_computes_again_when_gradients_need_it() -> None:
    model = Tied()
    checkpoint_activations(model)
    calls: list[nn.Module] = []
    for block in model.encoder.blocks:
        block.self_attention.register_forward_hook(lambda module, *unused: calls.append(module))
    first, second = (block.self_attention for block in model.encoder.blocks)
    loss = loss_of(model, batches(1)[0])
    assert calls == [first, second]
    loss.backward()
    assert calls == [first, second, second, first]


class Simplest(TransformerBlock):
    """A block that can be compiled here: not so the checks of shapes that tests turn on."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, hidden_states: Tensor, *unused: Any) -> Tensor:
        return hidden_states + nn.functional.dropout(self.linear(hidden_states), 0.3, self.training)


class TiedOfSimplest(Tied):
    """As `Tied`, of other blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(Simplest(), Simplest())


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_may_be_computed_again_and_sharded(monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()  # runs the graph as it is, so no kernel of another order of sums
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    expected = trained(TiedOfSimplest)
    found = trained(TiedOfSimplest, is_sharded=True, recompute=recompute, compile=True)
    assert counter.frame_count > 0
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


def test_bf16_is_near_what_autocast_computes() -> None:
    precision = Precision(CPU, torch.bfloat16)
    expected, found = trained(precision=precision), trained(precision=precision, is_sharded=True)
    assert found[0] == pytest.approx(expected[0], rel=0.05, abs=1e-3)
    assert found[1].dtype == torch.float32  # what is kept and updated
    assert float((found[1] - expected[1]).abs().mean()) < 0.002


def test_a_plain_copy_has_the_weights_and_ties_of_the_original() -> None:
    model = Tied()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copies = PlainCopies(model)
    assert all(parameter.is_meta for parameter in copies.skeleton.parameters())
    fully_sharded(SummedLoss(model, loss_of), Precision(CPU, None))
    copy = copies.of(model, CPU)
    assert not is_sharded(copy) and copy.head.weight is copy.embedding.weight and float(copy.scale) == 2.0
    assert all(torch.equal(copy.state_dict()[name], tensor) for name, tensor in expected.items())
    assert copy.state_dict().keys() == expected.keys()


def test_histograms_count_every_value_once() -> None:
    model = Tied()
    expected = count(model, 1)
    summed_loss = fully_sharded(SummedLoss(model, loss_of), Precision(CPU, None))
    summed_loss(batches(1)[0]).backward()
    found = count(model, 1)
    assert found.names == expected.names and (found.parameters == expected.parameters).all()
    assert found.gradients.sum(axis=1).tolist() == [parameter.numel() for parameter in model.parameters()]


# -------------------------------------------------------------------- checkpoints
class Data(ToyData):
    """The same batches in each epoch."""

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> list[Batch]:
        return batches(self.batches)[start_batch:]


class Echo(ToyTask):
    """Of the tokens that it is given."""

    def build_model(self) -> Tied:
        return Tied()

    def learning_rate_scale(self, model: Any, parameter: str) -> float:
        return 0.5 if "head" in parameter else 1.0  # several groups

    def loss(self, model: Any, batch: Any) -> Tensor:
        return loss_of(model, batch)

    def validate(self, model: Any, work: Any) -> dict[str, float]:
        with torch.no_grad():
            return {"score": -float(loss_of(model, batches(6)[-1]))}


MakeFit = Callable[..., Fit]


def make_fit(root: Path, sharding: str, start: Start = Start(), **changes: Any) -> Fit:
    """A run whose folder is `<root>/toy/run_000000`."""
    settings = {"max_steps": 8, "warmup_steps": 2, "ema_decay": 0.8, "accumulation_steps": 2, **changes}
    config = TrainingConfig(sharding=sharding, checkpoint_root=str(root), checkpoint_interval=2, **settings)
    return Fit(Echo(), Data(), config, Precision(CPU, None), None, StopRequest(), start)


@pytest.fixture(scope="module", autouse=True)
def active_run() -> Iterator[None]:
    import mlflow

    run = SimpleNamespace(info=SimpleNamespace(run_id="0" * 32, run_name="run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow, "active_run", lambda: run)
        yield


@pytest.fixture
def fit(tmp_path: Path) -> MakeFit:
    return partial(make_fit, tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that has come to its end. To be copied, not changed."""
    root = tmp_path_factory.mktemp("finished")
    make_fit(root, "fsdp").run()
    return root


@pytest.fixture
def saved(finished: Path, tmp_path: Path) -> Path:
    """The last checkpoint of a copy of that run; the one before is `epoch_2.json`."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return folder(tmp_path).path / "step_8.json"


def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "toy" / "run_000000")


def newest(tmp_path: Path) -> Start:
    found = folder(tmp_path).newest_intact()
    assert found is not None
    return Start(folder(tmp_path), *found)


def numbers_of(fit: Fit) -> list[float]:
    """All weights, averages and moments."""
    assert fit.ema is not None
    moments = [value for state in fit.optimizer.state.values() for value in state.values()]
    tensors = [*fit.model.parameters(), *fit.ema.parameters(), *moments, *fit.ema.buffers()]
    return torch.cat([whole(tensor.detach()).flatten().double() for tensor in tensors]).tolist()


@pytest.mark.parametrize("forms", [["fsdp"], ["fsdp", "ddp"], ["ddp", "fsdp"]], ids=str)
def test_a_run_goes_on_in_the_same_or_the_other_form(
    fit: MakeFit, finished: Path, tmp_path: Path, forms: list[str]
) -> None:
    start = Start()
    for number, last in enumerate((*sorted(random.sample(range(1, 8), 2)), 8)):
        fit(forms[number % len(forms)], start, max_steps=last).run()
        start = newest(tmp_path)
    expected, found = make_fit(finished, "fsdp", newest(finished)), fit(forms[-1], start)
    if forms == ["fsdp"]:
        assert numbers_of(found) == numbers_of(expected)
    assert numbers_of(found) == pytest.approx(numbers_of(expected), rel=1e-4, abs=1e-5)
    for name in ("epoch", "batch_in_epoch", "global_step", "num_tokens"):
        assert getattr(found.state, name) == getattr(expected.state, name)


@pytest.mark.parametrize("forms", [("fsdp", "ddp"), ("ddp", "fsdp")], ids=str)
def test_a_checkpoint_is_not_written_again_in_another_form(
    fit: MakeFit, tmp_path: Path, forms: tuple[str, str]
) -> None:
    """It would count twice among those that are kept, and in their mean."""
    fit(forms[0], max_steps=2).run()
    run = fit(forms[1], newest(tmp_path), max_steps=4, keep_checkpoints=4)
    run.run()
    assert [Path(name).stem for name in run.state.scheduled] == ["step_2", "epoch_1", "step_4"]
    assert sorted(path.stem for path in folder(tmp_path).checkpoints()) == ["epoch_1", "step_2", "step_4"]


def test_what_lies_on_the_disk(fit: MakeFit, tmp_path: Path) -> None:
    """Safetensors and JSON, each under a digest, and nothing of a checkpoint that was removed."""
    run = fit("fsdp", keep_checkpoints=2)
    run.tracker = SimpleNamespace(  # type: ignore[assignment]
        run_folder=folder(tmp_path).path, log_metrics=lambda *_: None, log_table=lambda *_: None
    )
    run.run()
    path = folder(tmp_path).path
    assert {file.name for file in folder(tmp_path).checkpoints()} == {"step_8.json", "epoch_2.json"}
    assert len(list(path.glob("*.shares"))) == 2 and len(list(path.glob("*.json.sha256"))) == 2
    (shares,) = path.glob("step_8-*.shares")
    (file,) = shares.iterdir()
    with safe_open(file, framework="pt") as tensors:
        names = set(tensors.keys())
    assert {"model.embedding.weight", "ema.embedding.weight", "optimizer.embedding.weight.exp_avg"} <= names
    assert json.loads((path / "step_8.json").read_text())["shares"]["folder"] == shares.name


def test_one_process_loads_the_model_from_python(fit: MakeFit, tmp_path: Path) -> None:
    run = fit("fsdp")
    run.run()
    path = folder(tmp_path).path / "step_8.json"
    model = Tied()
    optimizer = build_optimizer(model, run.config, lambda name: Echo().learning_rate_scale(model, name))
    assert load_checkpoint(path, model, optimizer, build_scheduler(optimizer, run.config)) == (2, 8, "0" * 32)
    for mine, shared in zip(model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(mine, whole(shared))
        for key, value in optimizer.state[mine].items():
            assert torch.equal(value, whole(run.optimizer.state[shared][key])), key
    weights = saved_weights(path, Tied())
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in weights.items())


def test_another_model_or_optimizer_is_refused(fit: MakeFit, tmp_path: Path) -> None:
    run = fit("fsdp", ema_decay=None)
    run.run()
    path = folder(tmp_path).path / "step_8.json"
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, nn.Linear(3, 3))
    model = Tied()
    model.head.bias = nn.Parameter(torch.zeros(VOCABULARY + 1))
    with pytest.raises(CheckpointError, match="does not fit.*head.bias"):
        load_checkpoint(path, model)
    with pytest.raises(CheckpointError, match="groups of parameters"):
        model = Tied()
        load_checkpoint(path, model, torch.optim.AdamW(model.parameters()))
    for sharding in ("fsdp", "ddp"):
        with pytest.raises(CheckpointError, match="no moving average"):
            fit(sharding, newest(tmp_path))


def test_a_rank_that_is_lost_meanwhile_is_no_damage(
    fit: MakeFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`process_group` names it: it must be told from what is wrong with the file."""
    fit("fsdp", max_steps=2).run()

    def closed(*unused: Any, **also: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("transformer_architectures.training.sharded_checkpoints.load", closed)
    with pytest.raises(CommunicationError, match="closed by peer"):
        fit("fsdp", newest(tmp_path))


def damaged(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    length = 64 if file.suffix == ".sha256" else len(content)  # what stands behind a digest is nothing to it
    if how == "flipped":
        content[random.randrange(length)] ^= 1 << random.randrange(8)
        file.write_bytes(content)
    elif how == "truncated":
        file.write_bytes(content[: random.randrange(length)])
    elif how == "removed":
        file.unlink()
    else:
        file.with_name("shard-9.safetensors").write_bytes(content)


WAYS_OF_DAMAGE = [(which, how) for which in ("share", "index", "digest") for how in ("flipped", "truncated", "removed")]


@pytest.mark.parametrize(("which", "how"), [*WAYS_OF_DAMAGE, ("share", "added")])
def test_damage_is_found_and_survived(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, which: str, how: str
) -> None:
    (share,) = next(saved.parent.glob("step_8-*.shares")).iterdir()
    damaged({"share": share, "index": saved, "digest": digest_path(saved)}[which], how)
    with pytest.raises(CheckpointError):
        read_checkpoint(saved)
    assert newest(tmp_path).path == saved.with_name("epoch_2.json")
    if saved.exists():
        assert "step_8.json" in caplog.text


def test_shares_of_another_checkpoint_are_found_out(saved: Path) -> None:
    (newer,), (older,) = (list(saved.parent.glob(f"{name}-*.shares")) for name in ("step_8", "epoch_2"))
    for file in older.iterdir():
        (newer / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(saved)


@pytest.mark.parametrize("name", ["..", ".", "", "../step_6.shares", "/etc", "step_8/../../x", None, 3])
def test_shares_lie_beside_their_index(saved: Path, name: Any) -> None:
    index = json.loads(saved.read_text())
    index["shares"]["folder"] = name
    write_with_digest(saved, lambda file: file.write(json.dumps(index).encode()))
    with pytest.raises(CheckpointError, match="which files"):
        read_index(saved)


def test_lost_shares_are_removed_and_those_of_a_damaged_index_stay(saved: Path, tmp_path: Path) -> None:
    saved.with_name("mine.shares").mkdir()  # not a checkpoint's
    before = set(saved.parent.glob("*.shares"))
    lost = saved.with_name("step_3-00000000.shares")
    lost.mkdir()
    (lost / "shard.safetensors").write_bytes(b"half")
    saved.write_bytes(b"{")
    assert folder(tmp_path).lock()
    assert set(saved.parent.glob("*.shares")) == before


@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_what_cannot_be_written_leaves_the_older_one(
    fit: MakeFit, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    run = fit("fsdp", newest(tmp_path))
    before = read_checkpoint(saved)

    def no_space(*unused: Any, **also: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if operation == "write":
            patch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", no_space)
        elif operation == "fsync":
            patch.setattr("os.fsync", no_space)
        else:
            patch.setattr(Path, "replace", no_space)
        with pytest.raises(CheckpointError, match="No space left"):
            run.save(saved.name)
    after = read_checkpoint(saved)
    assert after["shares"] == before["shares"]
    assert not list(saved.parent.glob("*.tmp")) and len(list(saved.parent.glob("step_8-*"))) == 1
    run.save(saved.name)
    replaced = read_checkpoint(saved)
    assert replaced["shares"]["folder"] != before["shares"]["folder"]
    assert len(list(saved.parent.glob("step_8-*"))) == 1
