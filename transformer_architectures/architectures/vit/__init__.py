"""The Vision Transformer, and the classification of images with many labels by it."""

from transformer_architectures.architectures.vit.data import (
    Example,
    LabeledBatch,
    MultiLabelDataCollator,
    OpenImagesDataset,
    TransformerDataModule,
    VitDataConfig,
)
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformer,
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.datasets.images.augmentation import (
    AugmentationConfig,
    ImagePreparation,
    TrainingAugmentation,
)
from transformer_architectures.datasets.images.data_config import DigitsConfig, ImageFilesConfig
from transformer_architectures.datasets.images.mixing import ImageMixing
from transformer_architectures.tasks.image_classification import ImageClassifier
from transformer_architectures.tasks.images.label_map import LabelMap
from transformer_architectures.utils.moved import renamed

__all__ = [
    "AugmentationConfig",
    "DigitsConfig",
    "Example",
    "LabeledBatch",
    "LabelMap",
    "MultiLabelDataCollator",
    "OpenImagesDataset",
    "ImageClassifier",
    "ImageFilesConfig",
    "ImageMixing",
    "ImagePreparation",
    "TrainingAugmentation",
    "TransformerDataModule",
    "VisionTransformer",
    "VisionTransformerForImageClassification",
    "VitDataConfig",
    "VitModelConfig",
]

__getattr__ = renamed(
    __name__,
    {
        "Labeling": "LabelMap",
        "PictureClassifier": "ImageClassifier",
        "PictureFilesConfig": "ImageFilesConfig",
        "PictureMixing": "ImageMixing",
        "PicturePreparation": "ImagePreparation",
    },
)
