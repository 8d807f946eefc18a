"""Does a BERT encoder learn to fill masks in packed sequences? Only if positions, attention within a sequence and masks are right."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from short_training import train
from torch import Tensor

from transformer_architectures.architectures.bert.data import LabeledBatch, TransformerDataCollator
from transformer_architectures.architectures.bert.transformer import BertForMaskedLM, BertModelConfig
from transformer_architectures.datasets.text.packed_batches import TokenRow
from transformer_architectures.datasets.text.windowed_text import WindowedText
from transformer_architectures.kernels.cross_entropy import linear_cross_entropy
from transformer_architectures.tasks.masked_language_model import masked_features

PAD, MASK, FIRST, SYMBOLS = 0, 1, 2, 10


def row() -> TokenRow:
    """A sequence that counts up from somewhere, one of its tokens masked: what it was only its own sequence tells."""
    length = random.randint(3, 9)
    token_ids = FIRST + (random.randrange(SYMBOLS) + np.arange(length)) % SYMBOLS
    places = np.array([random.randrange(length)])
    labels = token_ids[places]
    token_ids[places] = MASK
    text = WindowedText(token_ids, (length,), np.arange(length), np.ones(1, np.float32))
    return TokenRow(text, places, labels)


def drawn(size: int) -> LabeledBatch:
    return TransformerDataCollator(PAD)([(number, row()) for number in range(size)])


def loss(model: BertForMaskedLM, batch: LabeledBatch) -> Tensor:
    decoder = model.masked_lm_head.decoder
    return linear_cross_entropy(masked_features(model, batch), decoder.weight, decoder.bias, batch.labels, 0.0)


@pytest.mark.parametrize("pre_layernorm", [True, False])
def test_masks_are_filled(seed: int, pre_layernorm: bool) -> None:
    sizes = {"vocab_size": FIRST + SYMBOLS, "embed_dim": 32, "num_heads": 4, "ff_dim": 64, "num_layers": 2}
    model = BertForMaskedLM(
        BertModelConfig.model_validate(
            {**sizes, "dropout": 0.0, "positions": "sinusoidal", "pre_layernorm": pre_layernorm}
        )
    )

    def batches() -> Iterator[LabeledBatch]:
        while True:
            yield drawn(64)

    losses = train(model, loss, batches(), steps=350, learning_rate=6e-3)
    held_out = drawn(400)
    decoder = model.masked_lm_head.decoder
    with torch.no_grad():
        logits = masked_features(model.eval(), held_out) @ decoder.weight.T + decoder.bias
    right = float((logits.argmax(dim=1) == held_out.labels).float().mean())
    assert right > 0.9, (right, losses[0], losses[-1])
