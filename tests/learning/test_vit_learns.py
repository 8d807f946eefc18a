"""Does a Vision Transformer learn from labels of which a part is unknown? Only if positions, attention and masks are right."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from short_training import train
from torch import Tensor

from transformer_architectures.architectures.vit.data import LabeledBatch
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.datasets.images.augmentation import ImagePreparation
from transformer_architectures.tasks.images.multi_label_loss import MultiLabelLossConfig, multi_label_loss

GRID, PATCH = 4, 4
PREPARATION = ImagePreparation(height=GRID * PATCH, width=GRID * PATCH)
LOSS = MultiLabelLossConfig()


def drawn(size: int, known: float) -> LabeledBatch:
    """A red and a green square somewhere. Labels: red is left of green, red is above green; a part of them is unknown."""
    pixels = torch.randint(0, 60, (size, 3, GRID * PATCH, GRID * PATCH), dtype=torch.uint8)
    labels = torch.zeros(size, 2)
    for image, label in zip(pixels, labels, strict=True):
        (red_row, green_row), (red_column, green_column) = (random.sample(range(GRID), 2) for _ in range(2))
        for colour, row, column in ((0, red_row, red_column), (1, green_row, green_column)):
            image[colour, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)] = 255
        label[0], label[1] = red_column < green_column, red_row < green_row
    masks = (torch.rand(size, 2) < known).float()
    return LabeledBatch(pixels, labels * masks, masks, tuple(range(size)), PREPARATION)


def loss(model: VisionTransformerForImageClassification, batch: LabeledBatch) -> Tensor:
    return multi_label_loss(model(batch.images), batch.labels, batch.masks, LOSS)


@pytest.mark.parametrize("form", [{"pooling": "mean"}, {"num_registers": 2}], ids=str)
def test_where_things_are_is_found(seed: int, form: dict[str, Any]) -> None:
    sizes = {"patch_size": PATCH, "image_size": GRID * PATCH, "embed_dim": 32, "num_heads": 4, "ff_dim": 64}
    model = VisionTransformerForImageClassification(
        VitModelConfig.model_validate({**sizes, "num_layers": 2, "num_labels": 2, "positions": "sincos", **form})
    )

    def batches() -> Iterator[LabeledBatch]:
        while True:
            yield drawn(64, known=0.6)

    losses = train(model, loss, batches(), steps=450, learning_rate=6e-3)
    held_out = drawn(400, known=1.0)
    with torch.no_grad():
        right = float(((model.eval()(held_out.images) > 0) == (held_out.labels == 1)).float().mean())
    assert right > 0.9, (right, losses[0], losses[-1])
