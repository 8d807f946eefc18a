"""Real steps of tiny models, as the planner sees them: what they compute, what they keep, and the plan that they are held against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from transformer_architectures.architectures.bert.data import LabeledBatch as TextBatch
from transformer_architectures.architectures.bert.training import BERT as BERT_DECLARATION
from transformer_architectures.architectures.vanilla.data import LabeledBatch as PairBatch
from transformer_architectures.masking import Segments
from transformer_architectures.planning.workload import Workload
from transformer_architectures.tasks.images.multi_label_loss import multi_label_loss
from transformer_architectures.tasks.translation import TranslationTask

TRAINING = {"max_steps": 10, "device": "cpu", "precision": "fp32"}
BERT = {"architecture": "bert", "vocab_size": 96, "embed_dim": 32, "num_heads": 2, "ff_dim": 96, "num_layers": 3}
SECTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "vanilla": {
        "Model": {"architecture": "vanilla", "vocab_size": 96, "embed_dim": 32, "num_heads": 2, "ff_dim": 64,
                  "num_encoder_layers": 3, "num_decoder_layers": 2},
        "Training": {"batch_tokens": 384},
        "Data": {"train": {"file": "pairs.tsv"}, "max_length": 31},
    },
    "vit": {
        "Model": {"architecture": "vit", "image_size": 24, "patch_size": 4, "embed_dim": 32, "num_heads": 2, "ff_dim": 96,
                  "num_layers": 3, "num_labels": 7},
        "Training": {"batch_size": 6, "loss": {"kind": "asymmetric", "unknown": "selective", "top_k": 2}},
        "Data": {"train": {"image_folder": "train"}},
    },
    "documents": {"Model": BERT, "Training": {"batch_tokens": 256},
                  "Data": {"train": {"documents": {"files": ["corpus.txt"]}}, "max_length": 32, "masking": {"rate": 0.25}}},
    "texts": {"Model": BERT, "Training": {"batch_tokens": 256},
              "Data": {"train": {"texts": {"file": "train.tsv"}}, "max_length": 32}},
    "tags": {"Model": BERT, "Training": {"batch_tokens": 256},
             "Data": {"train": {"tags": {"file": "train.conll"}}, "max_length": 32}},
}  # fmt: skip
KINDS = tuple(SECTIONS)
TASKS: Any = {task.kind: task for task in BERT_DECLARATION.models}  # type: ignore[attr-defined]


def config_file(path: Path, kind: str, model: dict[str, Any] | None = None, **training: Any) -> str:
    """A tiny config of this kind; no file that it names exists."""
    sections = SECTIONS[kind]
    content = {
        "Model": {**sections["Model"], **(model or {})},
        "Training": {**TRAINING, **sections["Training"], **training},
        "Data": sections["Data"],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def workload_of(config: str, kind: str, **options: Any) -> Workload:
    """The planner's view of it."""
    architecture = kind if kind in ("vanilla", "vit") else "bert"
    plan_of = import_module(f"transformer_architectures.architectures.{architecture}.plan")
    given = {"length": None, "num_labels": 5 if kind in ("texts", "tags") else None, **options}
    workload: Workload = plan_of.workload(config, [], given["length"], given["num_labels"])
    return workload


class Step(NamedTuple):
    """A model with numbers, what its loss is, and the batch itself."""

    model: nn.Module
    loss: Callable[[], Tensor]
    batch: dict[str, Tensor]


def real_step(workload: Workload, kind: str, num_rows: int) -> Step:
    """Model, loss and data of the workload's sizes, random."""
    planned: Any = workload.model
    model: Any = type(planned)(planned.config)
    if kind == "vanilla":
        source, target = workload.shapes["source tokens"], workload.shapes["target tokens"]
        ids = torch.randint(3, planned.config.vocab_size, (num_rows, source))
        labels = torch.randint(3, planned.config.vocab_size, (num_rows, target))
        pairs = PairBatch(ids, torch.ones_like(ids, dtype=torch.bool), labels.clone(), labels, tuple(range(num_rows)))
        task = SimpleNamespace(config=SimpleNamespace(label_smoothing=0.1))
        return Step(model, lambda: TranslationTask.loss(task, model, pairs), {})  # type: ignore[arg-type]
    if kind == "vit":
        config: Any = SECTIONS["vit"]["Training"]["loss"]
        images = torch.randn(num_rows, 3, *planned.config.height_and_width)
        known, masks = (torch.randint(2, (num_rows, planned.config.num_labels)).float() for _ in range(2))
        loss_config = type(workload.training.loss).model_validate(config)  # type: ignore[attr-defined]
        return Step(model, lambda: multi_label_loss(model(images), known, masks, loss_config), {"images": images})
    return Step(model, _text_loss(workload, kind, model, num_rows), {})


def _text_loss(workload: Workload, kind: str, model: Any, num_rows: int) -> Callable[[], Tensor]:
    length, per_row = workload.shapes["tokens of a window"], workload.shapes["labels of a window"]
    segments = Segments((length,) * num_rows)
    vocab_size = model.config.vocab_size
    positions = (torch.arange(num_rows)[:, None] * length + torch.randperm(length)[:per_row].sort().values).flatten()
    batch = TextBatch(
        token_ids=torch.randint(5, vocab_size, (1, segments.num_rows)),
        segments=segments,
        text_of_segment=torch.arange(num_rows),
        weight_of_segment=torch.ones(num_rows),
        positions=positions,
        labels=torch.randint(vocab_size if kind == "documents" else 5, (num_rows * per_row,)),
        labels_of_text=(per_row,) * num_rows,
        indices=tuple(range(num_rows)),
    )
    task: Any = SimpleNamespace(is_multi_label=False)
    return lambda: TASKS[kind].loss(task, model, batch)


def autocast(workload: Workload) -> Any:
    """As the training enters it."""
    return torch.autocast("cpu", torch.bfloat16) if workload.precision == "bf16" else nullcontext()


class Kept(NamedTuple):
    """Bytes of storages that autograd saved: of what is no parameter or buffer."""

    storages: dict[int, Tensor]

    @property
    def total(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.storages.values())


@contextmanager
def watching_saved_tensors(model: nn.Module) -> Iterator[Kept]:
    """Notes what is saved for the backward pass, every storage once. Keeping the tensors keeps their addresses unique."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = Kept({})

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept.storages[address] = tensor.detach()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def checkpoint_blocks(blocks: list[nn.Module]) -> None:
    """Each computes its forward pass again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    for block in blocks:
        forward = block.forward
        block.forward = lambda *inputs, _forward=forward, **named: checkpoint(_forward, *inputs, use_reentrant=False, **named)  # type: ignore[method-assign]
