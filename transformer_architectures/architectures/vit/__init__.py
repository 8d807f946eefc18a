"""The Vision Transformer, and classification of pictures with it."""

from transformer_architectures.architectures.vit.config import VitModelConfig
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformer,
    VisionTransformerForImageClassification,
)

__all__ = ["VisionTransformer", "VisionTransformerForImageClassification", "VitModelConfig"]
