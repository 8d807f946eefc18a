"""An image classifier with random weights, and images for it."""

from typing import Any

import torch
from images_on_disk import CLASSES

from transformer_architectures.architectures.vit.transformer import (
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.datasets.images.augmentation import ImagePreparation
from transformer_architectures.tasks.image_classification import ImageClassifier
from transformer_architectures.tasks.images.label_map import LabelMap

SIZES = {"patch_size": 4, "embed_dim": 16, "num_heads": 2, "ff_dim": 16, "num_layers": 2}


def tiny_classifier(seed: int, dropout: float = 0.0, **labeling: Any) -> ImageClassifier:
    """For images of 16 × 24 pixels and the four classes of `images_on_disk`; every weight matters."""
    torch.manual_seed(seed)
    config = VitModelConfig(image_size=(16, 24), num_labels=len(CLASSES), dropout=dropout, **SIZES)
    model = VisionTransformerForImageClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    preparation = ImagePreparation(height=16, width=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    meaning = {"names": ("Apple", "Boat", "Cat", "Dog"), "thresholds": (0.2, 0.4, 0.6, 0.8), **labeling}
    return ImageClassifier(model.eval(), preparation, LabelMap(classes=CLASSES, **meaning))
