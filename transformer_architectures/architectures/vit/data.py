"""Data of the image task, under the names that all architectures use; see `datasets.images.data_module`."""

from transformer_architectures.datasets.images.data_config import ImageDataConfig
from transformer_architectures.datasets.images.data_module import Example as Example
from transformer_architectures.datasets.images.data_module import ImageBatch, ImageDataModule, ImageDataset
from transformer_architectures.datasets.images.data_module import MultiLabelDataCollator as MultiLabelDataCollator

LabeledBatch = ImageBatch
OpenImagesDataset = ImageDataset
TransformerDataModule = ImageDataModule
TransformerDataset = ImageDataset
VitDataConfig = ImageDataConfig
