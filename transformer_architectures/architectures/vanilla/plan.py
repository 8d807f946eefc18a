"""What a step of the translation task computes and keeps: for `tarch plan`."""

from dataclasses import dataclass
from typing import cast

import torch

from transformer_architectures.architectures.train import open_config
from transformer_architectures.architectures.vanilla.data import VanillaDataConfig
from transformer_architectures.architectures.vanilla.training import VANILLA
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.errors import UsageError
from transformer_architectures.kernels.linear import count_product_weights
from transformer_architectures.planning.block_costs import (
    FP32,
    Bytes,
    Sequences,
    block_activations,
    block_flops,
    dropout_activations,
    norm_activations,
)
from transformer_architectures.planning.losses import linear_cross_entropy_bytes
from transformer_architectures.planning.workload import Part, Workload, fill_budget
from transformer_architectures.tasks.translation import LENGTH_MULTIPLE, TranslationTrainingConfig

INDEX = 8  # bytes of a token id


@dataclass(frozen=True)
class TranslationWorkload(Workload):
    """Pairs of sentences, all of one length on both sides."""

    length: int = 0

    @property
    def config(self) -> VanillaModelConfig:
        """Of the model."""
        return cast(Transformer, self.model).config

    def parts(self, num_rows: int) -> list[Part]:
        """Embeddings, both stacks, and the output layer."""
        c, positions = self.config, num_rows * self.length
        encoder, decoder = c.block(is_decoder=False), c.block(is_decoder=True)
        of_encoder = Sequences(num_rows, self.length)
        of_decoder = Sequences(num_rows, self.length, encoder_length=self.length)
        numbers = self.numbers(encoder.attention, self.length, self.length)
        block_input = FP32 * positions * c.embed_dim
        embedding = {"token ids": INDEX * positions, **dropout_activations(c.dropout, positions * c.embed_dim)}
        final_norm = norm_activations(positions, c.embed_dim) if c.pre_layernorm else {}
        # In fp32 all decoder blocks keep the encoder's output itself; under autocast each keeps its own copy of it.
        shared = {"encoder output": block_input if self.precision == "fp32" else 0}
        return [
            Part("embeddings", 0, embedding, 2),
            Part(
                "encoder block",
                block_flops(encoder, of_encoder),
                block_activations(encoder, of_encoder, numbers),
                c.encoder_layers,
                block_input,
            ),
            Part(
                "decoder block",
                block_flops(decoder, of_decoder),
                block_activations(decoder, of_decoder, numbers),
                c.decoder_layers,
                block_input,
            ),
            Part("final norms", 0, final_norm, 2),
            Part("encoder output", 0, shared),
            Part("output layer", 6 * c.vocab_size * c.embed_dim * positions, {}),
        ]

    def estimate_flops(self) -> int:
        """Of a pair."""
        return cast(Transformer, self.model).estimate_flops(self.length, self.length)

    def loss_bytes(self, num_rows: int) -> Bytes:
        """Every target position has a label."""
        c = self.config
        return linear_cross_entropy_bytes(
            num_rows * self.length, c.vocab_size, c.embed_dim, c.output_bias, self.product_bytes, self.device
        )

    def num_product_weights(self) -> int:
        """All but the output layer's: the loss casts that."""
        model = cast(Transformer, self.model)
        return count_product_weights(model.encoder) + count_product_weights(model.decoder)


def workload(path: str, overrides: list[str], length: int | None, num_labels: int | None) -> Workload:
    """Of a config.

    Args:
        length: tokens of a sentence; `Data.max_length` unless given.

    Raises:
        ConfigError: the config is wrong.
        UsageError: a number of classes is given.
    """
    if num_labels is not None:
        raise UsageError("--num-labels does not belong to translation: its classes are Model.vocab_size")
    opened = open_config(VANILLA, path, overrides)
    sections, pretrained = opened.sections, opened.pretrained
    config = sections.of(VanillaModelConfig) if pretrained is None else pretrained.model_config
    training = sections.of(TranslationTrainingConfig)
    tokens = (sections.of(VanillaDataConfig).max_length if length is None else length) + 1  # start or end token
    num_rows, tokens = fill_budget(training.batch_tokens, tokens + -tokens % LENGTH_MULTIPLE, num_sides=2)
    with torch.device("meta"):
        model = Transformer(config)
    return TranslationWorkload(
        model,
        training,
        num_rows,
        "sentence pairs",
        {"source tokens": tokens, "target tokens": tokens},
        [f"source and target have {tokens} tokens each: shorter ones cost as much memory in total, and less attention"],
        tokens,
    )
