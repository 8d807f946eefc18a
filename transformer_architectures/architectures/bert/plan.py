"""What a step of each of BERT's tasks computes and keeps: for `tarch plan`."""

from dataclasses import dataclass
from typing import Any

import torch

from transformer_architectures.architectures.bert.data import BertDataConfig
from transformer_architectures.architectures.bert.training import BERT
from transformer_architectures.architectures.bert.transformer import BertModelConfig
from transformer_architectures.architectures.train import open_config
from transformer_architectures.attention.packed import rounded_length
from transformer_architectures.datasets.text.data_config import Kind
from transformer_architectures.errors import UsageError
from transformer_architectures.kernels.linear import count_product_weights
from transformer_architectures.planning.block_costs import (
    FP32,
    Bytes,
    Sequences,
    add_bytes,
    block_activations,
    block_flops,
    dropout_activations,
    norm_activations,
)
from transformer_architectures.planning.losses import (
    TENSORS_OF_CROSS_ENTROPY,
    classification_bytes,
    linear_cross_entropy_bytes,
)
from transformer_architectures.planning.workload import Part, Workload, fill_budget
from transformer_architectures.tasks.text_task import TextTrainingConfig

INDEX = 8  # bytes of a token id, and of its position
USUAL_CLASSES = 2  # where neither config nor command line say how many there are


@dataclass(frozen=True)
class TextWorkload(Workload):
    """Packed rows, each one window of full length.

    Attributes:
        kind: which of the tasks.
        length: tokens of a window; num_labels: how many of them, or of windows, have a label.
    """

    kind: Kind = "documents"
    length: int = 0
    num_labels: int = 0

    @property
    def config(self) -> BertModelConfig:
        """Of the model."""
        return self._model.config

    @property
    def _model(self) -> Any:
        return self.model

    def parts(self, num_rows: int) -> list[Part]:
        """Embeddings, blocks, and the head of the task."""
        c, positions = self.config, num_rows * self.length
        block = c.block()
        sequences = Sequences(num_rows, self.length, packed_length=rounded_length(self.length))
        numbers = self.numbers(block.attention, self.length, self.length)
        embedding = add_bytes(
            {"token ids": 2 * INDEX * positions},
            norm_activations(positions, c.embed_dim),
            dropout_activations(c.dropout, positions * c.embed_dim),
        )
        return [
            Part("embeddings", 0, embedding),
            Part(
                "block",
                block_flops(block, sequences),
                block_activations(block, sequences, numbers),
                c.num_layers,
                FP32 * positions * c.embed_dim,
            ),
            Part("final norm", 0, norm_activations(positions, c.embed_dim) if c.pre_layernorm else {}),
            Part("head", 6 * self._head_weights() * num_rows * self.num_labels, self._head_bytes(num_rows)),
        ]

    def estimate_flops(self) -> int:
        """Of a window."""
        arguments = (self.length, self.num_labels) if self.kind == "documents" else (self.length,)
        return self._model.estimate_flops(*arguments)

    def loss_bytes(self, num_rows: int) -> Bytes:
        """Of masked tokens, or of classes."""
        c, rows = self.config, num_rows * self.num_labels
        if self.kind == "documents":
            return linear_cross_entropy_bytes(rows, c.vocab_size, c.embed_dim, True, self.product_bytes, self.device)
        return classification_bytes(rows, c.num_labels, TENSORS_OF_CROSS_ENTROPY)

    def num_product_weights(self) -> int:
        """All but the output layer's of the masked language model: the loss casts that."""
        output = self.config.vocab_size * self.config.embed_dim if self.kind == "documents" else 0
        return super().num_product_weights() - output

    def _head_weights(self) -> int:
        return count_product_weights(self.model) - count_product_weights(self._model.backbone)

    def _head_bytes(self, num_rows: int) -> Bytes:
        c, rows = self.config, num_rows * self.num_labels
        width = rows * c.embed_dim
        if self.kind == "documents":  # dense layer, activation, norm
            dense = {"projections": self.product_bytes * 2 * width}
            return add_bytes(dense, norm_activations(rows, c.embed_dim, self.product_bytes))
        kept = {"projections": self.product_bytes * width, **dropout_activations(c.dropout_before_classifier, width)}
        if self.kind == "texts" and c.pooling == "cls":
            kept["projections"] += 2 * self.product_bytes * width  # the pooler's input, and its tanh
        elif self.kind == "texts" and c.pooling == "max":
            kept["pooled"] = FP32 * num_rows * self.length * c.embed_dim
        return kept


def workload(path: str, overrides: list[str], length: int | None, num_labels: int | None) -> Workload:
    """Of a config.

    Args:
        length: tokens of a window; `Data.max_length` unless given.
        num_labels: classes of the data.

    Raises:
        ConfigError: the config is wrong.
        UsageError: a number of classes is given for pre-training.
    """
    opened = open_config(BERT, path, overrides)
    sections, pretrained = opened.sections, opened.pretrained
    config = sections.of(BertModelConfig) if pretrained is None else pretrained.model_config
    data, training = sections.of(BertDataConfig), sections.of(TextTrainingConfig)
    kind = data.train.kind
    if kind == "documents" and num_labels is not None:
        raise UsageError("--num-labels does not belong to pre-training: its classes are Model.vocab_size")
    tokens = data.max_length if length is None else length
    num_rows, tokens = fill_budget(training.batch_tokens, tokens)
    assumptions = [f"every window has {tokens} tokens: shorter ones cost as much memory in total, and less attention"]
    labels = {"documents": max(1, round(data.masking.rate * tokens)), "texts": 1, "tags": tokens}[kind]
    if kind == "tags":
        assumptions.append("every token is a word")
    classes = 0 if kind == "documents" else USUAL_CLASSES if num_labels is None else num_labels
    if classes and num_labels is None:
        assumptions.append(f"there are {classes} classes (--num-labels): the data say how many")
    with torch.device("meta"):
        model = BERT.models[opened.task](config.model_copy(update={"num_labels": classes}))
    shapes = {"tokens of a window": tokens, "labels of a window": labels}
    if classes:
        shapes["classes"] = classes
    return TextWorkload(model, training, num_rows, "windows", shapes, assumptions, kind, tokens, labels)
