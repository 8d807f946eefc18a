"""A sharded model, in a group of one process: what it computes. With several: `test_ranks.py` and `faults/test_many_processes.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tied_model import DIM, Tied, batches, group_of_one, loss_of
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.tensor import DTensor

from transformer_architectures.training.blocks import checkpoint_activations, compile_blocks
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.parallelism import FullySharded, Parallelism
from transformer_architectures.training.distributed.ranks import Ranks, SummedLoss
from transformer_architectures.training.distributed.sharding import (
    FullModel,
    full_tensor,
    fully_sharded,
    is_sharded,
    local_shard,
)
from transformer_architectures.training.grad_logging import count
from transformer_architectures.training.optimization import build_optimizer, build_scheduler
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.step import TrainingStep
from transformer_architectures.transformer_blocks import TransformerBlock

CPU = torch.device("cpu")


__all__ = ["group_of_one"]  # the fixture
pytestmark = pytest.mark.usefixtures("seed")


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
    parallelism = FullySharded(Ranks(), precision, cpu_offload) if is_sharded else Parallelism(Ranks(), precision)
    step = TrainingStep(
        model,
        summed_loss,
        optimizer,
        build_scheduler(optimizer, config),
        precision,
        clip_norm=0.5,
        parallelism=parallelism,
    )
    torch.manual_seed(2)
    work = batches(8)
    losses = [step(work[number : number + 2]).loss for number in range(0, 8, 2)]
    return losses, torch.cat([full_tensor(weight.detach()).flatten() for weight in model.parameters()])


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
    copies = FullModel(model)
    assert all(parameter.is_meta for parameter in copies.skeleton.parameters())
    fully_sharded(SummedLoss(model, loss_of), Precision(CPU, None))
    copy = copies.from_shards(model, CPU)
    assert not is_sharded(copy) and copy.head.weight is copy.embedding.weight and float(copy.scale) == 2.0
    assert all(torch.equal(copy.state_dict()[name], tensor) for name, tensor in expected.items())
    assert copy.state_dict().keys() == expected.keys()


def test_histograms_count_every_value_once() -> None:
    model = Tied()
    expected = count(model, 1)
    summed_loss = fully_sharded(SummedLoss(model, loss_of), Precision(CPU, None))
    summed_loss(batches(1)[0]).backward()
    found = count(model, 1, local_shard, Ranks().sum_tensor)
    assert found.names == expected.names and (found.parameters == expected.parameters).all()
    assert found.gradients.sum(axis=1).tolist() == [parameter.numel() for parameter in model.parameters()]
