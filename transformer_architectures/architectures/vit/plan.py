"""What a step of the image task computes and keeps: for `tarch plan`."""

from dataclasses import dataclass
from typing import cast

import torch

from transformer_architectures.architectures.train import open_config
from transformer_architectures.architectures.vit.training import VIT
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformerForImageClassification,
    VitModelConfig,
)
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
from transformer_architectures.planning.losses import TENSORS_OF_MULTI_LABEL_LOSS, classification_bytes
from transformer_architectures.planning.workload import Part, Workload
from transformer_architectures.tasks.image_classification import ImageTrainingConfig


@dataclass(frozen=True)
class ImageWorkload(Workload):
    """Images of one size."""

    @property
    def _model(self) -> VisionTransformerForImageClassification:
        return cast(VisionTransformerForImageClassification, self.model)

    def parts(self, num_rows: int) -> list[Part]:
        """Patches, blocks (the last one for the class token alone where that stands for all), and the head."""
        c = self._model.config
        patches = c.grid[0] * c.grid[1]
        length = c.num_prefix + patches
        last_queries = 1 if c.pooling == "cls" else length
        patch_weights = self._model.backbone.patch_embedding.weight.numel()
        pixels = num_rows * c.num_channels * c.height_and_width[0] * c.height_and_width[1]
        block = c.blocks()[0]
        numbers = self.numbers(block.attention, length, length)
        all_tokens = Sequences(num_rows, length)
        last = Sequences(num_rows, length, num_queries=last_queries)
        block_input = FP32 * num_rows * length * c.embed_dim
        normed = num_rows * (1 if c.norms_after_pooling else last_queries)
        return [
            Part("images", 0, {"pixels": FP32 * pixels}),
            Part(
                "patches",
                4 * patch_weights * patches * num_rows,  # images need no gradient
                {
                    "projections": self.product_bytes * pixels,
                    **dropout_activations(c.dropout, num_rows * length * c.embed_dim),
                },
            ),
            Part(
                "block",
                block_flops(block, all_tokens),
                block_activations(block, all_tokens, numbers),
                c.num_layers - 1,
                block_input,
            ),
            Part("last block", block_flops(block, last), block_activations(block, last, numbers), 1, block_input),
            Part("final norm", 0, norm_activations(normed, c.embed_dim)),
            Part(
                "head",
                6 * self._head_weights() * num_rows,
                {"projections": self.product_bytes * num_rows * c.embed_dim},
            ),
        ]

    def estimate_flops(self) -> int:
        """Of an image."""
        return self._model.estimate_flops()

    def loss_bytes(self, num_rows: int) -> Bytes:
        """Labels may be unknown, so there are many tensors of a number for each image and class."""
        return classification_bytes(num_rows, self._model.config.num_labels, TENSORS_OF_MULTI_LABEL_LOSS)

    def num_product_weights(self) -> int:
        """Patches are projected by a weight that is no linear layer's."""
        return super().num_product_weights() + self._model.backbone.patch_embedding.weight.numel()

    def _head_weights(self) -> int:
        return count_product_weights(self._model) - count_product_weights(self._model.backbone)


def workload(path: str, overrides: list[str], length: int | None, num_labels: int | None) -> Workload:
    """Of a config.

    Args:
        num_labels: classes of the data; `Model.num_labels` unless given.

    Raises:
        ConfigError: the config is wrong.
        UsageError: a length is given.
    """
    if length is not None:
        raise UsageError("--length does not belong to images: their size is Model.image_size")
    opened = open_config(VIT, path, overrides)
    sections, pretrained = opened.sections, opened.pretrained
    config = sections.of(VitModelConfig) if pretrained is None else pretrained.model_config
    assumptions = []
    if num_labels is None and "num_labels" not in sections.of(VitModelConfig).model_fields_set:
        assumptions.append(f"there are {config.num_labels:,} classes (--num-labels): the data say how many")
    training = sections.of(ImageTrainingConfig)
    if num_labels is not None:
        config = config.model_copy(update={"num_labels": num_labels})
    with torch.device("meta"):
        model = VisionTransformerForImageClassification(config)
    height, width = config.height_and_width
    shapes = {
        "height": height,
        "width": width,
        "tokens of an image": config.num_prefix + config.grid[0] * config.grid[1],
        "classes": config.num_labels,
    }
    return ImageWorkload(model, training, training.batch_size, "images", shapes, assumptions)
