"""The Vision Transformer, and the classification of pictures with many labels by it."""

from transformer_architectures.architectures.vit.augmentation import (
    AugmentationConfig,
    PicturePreparation,
    TrainingAugmentation,
)
from transformer_architectures.architectures.vit.classifier import Labeling, PictureClassifier
from transformer_architectures.architectures.vit.config import VitModelConfig
from transformer_architectures.architectures.vit.data import (
    Example,
    LabeledBatch,
    MultiLabelDataCollator,
    OpenImagesDataset,
    TransformerDataModule,
)
from transformer_architectures.architectures.vit.data_config import DigitsConfig, PictureFilesConfig, VitDataConfig
from transformer_architectures.architectures.vit.mixing import PictureMixing
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformer,
    VisionTransformerForImageClassification,
)

__all__ = [
    "AugmentationConfig",
    "DigitsConfig",
    "Example",
    "LabeledBatch",
    "Labeling",
    "MultiLabelDataCollator",
    "OpenImagesDataset",
    "PictureClassifier",
    "PictureFilesConfig",
    "PictureMixing",
    "PicturePreparation",
    "TrainingAugmentation",
    "TransformerDataModule",
    "VisionTransformer",
    "VisionTransformerForImageClassification",
    "VitDataConfig",
    "VitModelConfig",
]
