"""What the planner says a step computes and keeps, held against real steps of tiny models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from planned_steps import (
    KINDS,
    autocast,
    checkpoint_blocks,
    config_file,
    real_step,
    watching_saved_tensors,
    workload_of,
)
from torch.utils.flop_counter import FlopCounterMode

from transformer_architectures.planning.losses import TENSORS_OF_MULTI_LABEL_LOSS
from transformer_architectures.planning.memory import memory_of
from transformer_architectures.planning.workload import Workload, fill_budget
from transformer_architectures.tasks.images.multi_label_loss import MultiLabelLossConfig, multi_label_loss
from transformer_architectures.training.optimization import build_ema, build_optimizer
from transformer_architectures.transformer_blocks import TransformerBlock

# Not in the closed forms: masks, indices of packed rows, scalars. Tiny models have more of them for their size than large ones.
MARGIN = 0.15

FORMS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS),
    *((kind, {"attention_backend": "sdpa", "dropout": 0.0}) for kind in KINDS),
    ("vanilla", {"attention_backend": "math", "attention_dropout": 0.2, "activation_dropout": 0.1}),
    ("vanilla", {"attention": "additive"}),
    ("vanilla", {"activation": "gelu", "pre_layernorm": False, "tie_weights": False, "output_bias": True}),
    ("vit", {"pooling": "mean", "num_registers": 2, "positions": "sincos"}),
    ("vit", {"stochastic_depth": 0.2, "dropout": 0.1, "pooler": True}),
    ("documents", {"pre_layernorm": False, "attention_dropout": 0.1, "positions": "sinusoidal", "token_types": 0}),
    ("texts", {"pooling": "mean"}),
    ("texts", {"pooling": "max"}),
]


def kept_by_loss(workload: Workload, kind: str, num_rows: int) -> int:
    """Bytes of what the loss keeps to the backward pass, not of what it has for a moment."""
    parts = workload.loss_bytes(num_rows)
    return parts["gradients"] if "gradients" in parts else parts["logits"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_flops_are_those_that_torch_counts(seed: int, tmp_path: Path, kind: str, accumulation: int) -> None:
    """All matrix products, exactly. Rows of the vocabulary loss come in multiples of 32, those of a text in rectangles of 16."""
    workload = workload_of(config_file(tmp_path / "a.yaml", kind, accumulation_steps=accumulation), kind)
    for num_rows in {workload.num_rows, 4}:
        step = real_step(workload, kind, num_rows)
        with FlopCounterMode(display=False) as counter:
            step.loss().backward()  # type: ignore[no-untyped-call]
        assert workload.flops(num_rows) == counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_computes_the_blocks_forward_once_more(seed: int, tmp_path: Path, kind: str) -> None:
    """torch stops as soon as it has what the backward pass needs: before the last product of a block."""
    workload = workload_of(config_file(tmp_path / "a.yaml", kind), kind)
    step = real_step(workload, kind, 4)
    blocks = [module for module in step.model.modules() if isinstance(module, TransformerBlock)]
    checkpoint_blocks(blocks)  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        step.loss().backward()  # type: ignore[no-untyped-call]
    counted = counter.get_total_flops() - workload.flops(4)
    assert counted <= workload.recomputed_flops(4) <= 1.3 * counted


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "model"), FORMS, ids=str)
def test_activations_are_those_that_autograd_saves(
    seed: int, tmp_path: Path, kind: str, model: dict[str, Any], precision: str
) -> None:
    workload = workload_of(config_file(tmp_path / "a.yaml", kind, model, precision=precision), kind)
    num_rows = workload.num_rows
    step = real_step(workload, kind, num_rows)
    with watching_saved_tensors(step.model) as kept, autocast(workload):
        step.loss()
    measured = kept.total + sum(tensor.nbytes for tensor in step.batch.values())
    planned = workload.activations(num_rows, False) + workload.cast_weights() + kept_by_loss(workload, kind, num_rows)
    assert planned == pytest.approx(measured, rel=MARGIN)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointed_blocks_keep_their_input(seed: int, tmp_path: Path, kind: str) -> None:
    """And one of them all the rest, while it is computed again."""
    workload = workload_of(config_file(tmp_path / "a.yaml", kind), kind)
    num_rows = workload.num_rows
    step = real_step(workload, kind, num_rows)
    blocks = [module for module in step.model.modules() if isinstance(module, TransformerBlock)]
    checkpoint_blocks(blocks)  # type: ignore[arg-type]
    with watching_saved_tensors(step.model) as kept:
        step.loss()
    measured = (
        kept.total + sum(tensor.nbytes for tensor in step.batch.values()) - kept_by_loss(workload, kind, num_rows)
    )
    largest = max(
        sum(part.kept.values()) - part.block_input for part in workload.parts(num_rows) if part.block_input is not None
    )
    assert workload.activations(num_rows, True) - largest == pytest.approx(measured, rel=MARGIN)
    assert workload.activations(num_rows, True) < workload.activations(num_rows, False)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_optimizer_and_averaged_weights_are_exact(seed: int, tmp_path: Path, kind: str) -> None:
    workload = workload_of(config_file(tmp_path / "a.yaml", kind, ema_decay=0.9), kind)
    step = real_step(workload, kind, 4)
    model, memory = step.model, memory_of(workload, workload.num_rows, 1, False)
    optimizer, ema = build_optimizer(model, workload.training), build_ema(model, workload.training)
    step.loss().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert ema is not None
    tensors = [*model.parameters(), *model.buffers()]
    assert memory.weights == sum(tensor.nbytes for tensor in tensors)
    assert memory.gradients == sum(
        parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None
    )
    assert memory.optimizer == sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    assert memory.ema == sum(tensor.nbytes for tensor in (*ema.module.parameters(), *ema.buffers()))
    assert memory.total == sum(getattr(memory, name) for name in memory.__dataclass_fields__)


def test_no_multi_label_loss_keeps_more_than_is_planned(seed: int) -> None:
    shape = (32, 40)
    kinds: list[dict[str, Any]] = [
        {"kind": "bce"},
        {"kind": "focal", "unknown": "negative"},
        {"kind": "asymmetric", "unknown": "selective", "top_k": 2, "gamma_unknown": 2.0},
        {"kind": "softmax"},
    ]
    most = 0
    for kind in kinds:
        logits = torch.randn(shape, requires_grad=True)
        labels = torch.eye(shape[1])[torch.randint(shape[1], (shape[0],))]
        masks = torch.ones(shape) if kind["kind"] == "softmax" else torch.randint(2, shape).float()
        with watching_saved_tensors(torch.nn.Identity()) as kept:
            multi_label_loss(logits, labels, masks, MultiLabelLossConfig.model_validate(kind))
        most = max(most, kept.total)
    assert 0.7 * TENSORS_OF_MULTI_LABEL_LOSS * 4 * 32 * 40 < most <= TENSORS_OF_MULTI_LABEL_LOSS * 4 * 32 * 40


def test_rows_fill_the_budget() -> None:
    assert fill_budget(2048, 130, 2) == (8, 128)
    assert fill_budget(1024, 128) == (8, 128)
    assert fill_budget(100, 130, 2) == (1, 130)  # a row that is longer than the budget is a batch alone
