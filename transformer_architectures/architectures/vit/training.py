"""Trains the Vision Transformer.

uv run python -m transformer_architectures.architectures.vit.training [--config F] [--set S.k=v] [--resume auto|PATH] [--device D]
"""

from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.train import main
from transformer_architectures.architectures.vit.published import FORMATS
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.tasks.image_classification import ImageClassificationTask

VIT = Architecture(
    name="vit",
    model_config=VitModelConfig,
    models={ImageClassificationTask: VisionTransformerForImageClassification},
    published=FORMATS,
)

if __name__ == "__main__":
    main(VIT)
