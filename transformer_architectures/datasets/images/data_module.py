"""Images with labels: dataset, batches and data module."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from transformer_architectures.datasets.data_module import Batch, DataModule
from transformer_architectures.datasets.images.augmentation import ImagePreparation, TrainingAugmentation
from transformer_architectures.datasets.images.data_config import ImageDataConfig
from transformer_architectures.datasets.images.image_check import ColorStatistics
from transformer_architectures.datasets.images.image_decoding import RejectedImage, decode_image_bytes
from transformer_architectures.datasets.images.image_labels import ImageLabels
from transformer_architectures.datasets.images.image_splits import ImageSplit, prepare_splits
from transformer_architectures.datasets.images.mixing import ImageMixing
from transformer_architectures.datasets.loading import BatchSlice, Loading
from transformer_architectures.errors import DataError
from transformer_architectures.samplers import ShuffledBatchSampler


class Example(NamedTuple):
    """An image in the size of the model's input, before normalisation, and what is known of its labels."""

    row: int
    pixels: UInt8[Tensor, "3 height width"]
    labels: Float32[np.ndarray, "classes"]
    masks: Float32[np.ndarray, "classes"]


@dataclass(frozen=True, eq=False)
class ImageDataset(Dataset[Example]):
    """The images of one split with their labels, in the size of the model's input.

    Attributes:
        split: the images that can be used, and their labels.
        augmentation: of training images; without it an image is only prepared, always in the same way.
        seed, epoch: an image's augmentation is a pure function of them and its index.
    """

    split: ImageSplit
    preparation: ImagePreparation
    augmentation: TrainingAugmentation | None = None
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Example:
        image = self.image(index)
        if self.augmentation is None:
            pixels = self.preparation(image)
        else:
            pixels = self.augmentation(image, (self.seed, self.epoch, index))
        return Example(index, pixels, *self.labels.targets(index))

    @property
    def labels(self) -> ImageLabels:
        """The labels of all images, as far as they are known."""
        return self.split.labels

    def image(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """A whole image, as in its file.

        Raises:
            DataError: it could be used when the images were checked, and now it cannot.
        """
        split = self.split
        if split.pixels is not None and split.places is not None:
            return split.pixels[int(split.places[index])]
        image_id = self.labels.image_ids[index]
        try:
            return decode_image_bytes(split.source.read(image_id))
        except RejectedImage as rejection:
            raise DataError(f"the image {image_id} has changed since it was checked: {rejection.reason}") from None


@dataclass(frozen=True)
class ImageBatch(Batch):
    """Images and what is known of their labels.

    Attributes:
        pixels: 8-bit; `images` are the model's input.
        labels: 1 present, 0 absent **or unknown**; between for a mixture of two images.
        masks: 1 verified, 0 unknown; between for a mixture: how much of it is known. They weigh the terms of the loss.
        indices: which examples of the dataset these are; a mixture has the index of its first image.
        preparation: how pixels are normalised.
    """

    pixels: UInt8[Tensor, "batch 3 height width"]
    labels: Float32[Tensor, "batch classes"]
    masks: Float32[Tensor, "batch classes"]
    indices: tuple[int, ...]
    preparation: ImagePreparation

    @cached_property
    def images(self) -> Float32[Tensor, "batch 3 height width"]:
        """Normalised, on the device where the pixels are."""
        return self.preparation.normalize(self.pixels)

    @property
    def num_labels(self) -> int:
        """What the summed loss is divided by: images. Each has a term for each of its labels, see `count_loss_terms`."""
        return len(self.indices)

    @property
    def num_tokens(self) -> int:
        """Images: what throughput counts."""
        return len(self.indices)

    @property
    def num_positions(self) -> int:
        """Images; there is no padding."""
        return len(self.indices)


@dataclass(frozen=True)
class MultiLabelDataCollator:
    """Stacks examples."""

    preparation: ImagePreparation

    def __call__(self, examples: Sequence[Example]) -> ImageBatch:
        return ImageBatch(
            pixels=torch.stack([example.pixels for example in examples]),
            labels=torch.from_numpy(np.stack([example.labels for example in examples])),
            masks=torch.from_numpy(np.stack([example.masks for example in examples])),
            indices=tuple(example.row for example in examples),
            preparation=self.preparation,
        )


@dataclass(frozen=True)
class MixedSlices:
    """A rank's images of a batch, each mixed with the one before it in the *whole* batch (the first with the last).

    So the mixtures are the same for any number of ranks. They are a pure function of (seed, epoch, first image of the batch), which no
    other batch has.
    """

    preparation: ImagePreparation
    mixing: ImageMixing
    seed: int
    epoch: int

    def rows(self, batch_slice: BatchSlice) -> Sequence[int]:
        """The slice's images; if they are mixed, after the one that precedes the first in the batch."""
        rows = batch_slice.rows
        if not self.mixing.mixes or len(rows) == len(batch_slice.batch):
            return rows
        return (batch_slice.batch[batch_slice.batch.index(rows[0]) - 1], *rows)

    def batch(self, batch_slice: BatchSlice, items: Sequence[Example]) -> ImageBatch:
        """The mixed images, without the one that belongs to another rank."""
        batch = MultiLabelDataCollator(self.preparation)(items)
        key = (self.seed, self.epoch, batch_slice.batch[0])
        pixels, labels, masks = self.mixing(batch.pixels, batch.labels, batch.masks, key)
        own = slice(len(items) - len(batch_slice.rows), None)
        return ImageBatch(pixels[own], labels[own], masks[own], batch.indices[own], self.preparation)


class ImageDataModule(DataModule[ImageDataConfig, ImageDataset, ImageBatch]):
    """Everything between the `Data:` section and the batches.

    Args:
        image_size: height and width of the model's input.
        color_statistics: mean and standard deviation of each channel that a pretrained model was trained with; those of the training
            images unless given.
        seed, loading, rejected_path: see `DataModule`.
    """

    def __init__(
        self,
        config: ImageDataConfig,
        image_size: tuple[int, int],
        *,
        seed: int,
        batch_size: int,
        color_statistics: ColorStatistics | None = None,
        loading: Loading = Loading(),
        rejected_path: Path | None = None,
    ) -> None:
        super().__init__(config, seed=seed, loading=loading, rejected_path=rejected_path)
        self.image_size, self.batch_size, self.color_statistics = image_size, batch_size, color_statistics

    def setup(self) -> None:
        """See `DataModule.setup`. Every image is examined, and the normalisation is determined."""
        prepared = prepare_splits(self.config, self.rejected_path)
        mean, std = self.color_statistics or prepared.color_statistics
        config, (height, width) = self.config, self.image_size
        self.preparation = ImagePreparation(
            height=height,
            width=width,
            resize=config.resize,
            crop_fraction=config.crop_fraction,
            interpolation=config.interpolation,
            mean=mean,
            std=std,
        )
        self._rejected = prepared.rejected
        self._datasets = {
            str(split): ImageDataset(images, self.preparation) for split, images in prepared.splits.items()
        }
        self.sampler = ShuffledBatchSampler(len(self.dataset("train")), self.batch_size, self.seed)
        if self.loading.rank == 0:
            for note in prepared.notes:
                print(note, file=sys.stderr)

    def row_counts(self) -> dict[str, int]:
        """See `DataModule.row_counts`."""
        counts = {split: len(dataset) for split, dataset in self._datasets.items()}
        return counts | {f"rejected: {reason}": count for reason, count in self._rejected.most_common()}

    @property
    def digest(self) -> str:
        """A hash of the training images' names and colours, and of their labels."""
        labels = self.dataset("train").labels
        digest = hashlib.sha256(repr((labels.classes, self.preparation)).encode())
        for array in (labels.offsets, labels.class_index, labels.is_positive):
            digest.update(array.tobytes())
        for image_id in labels.image_ids:
            digest.update(f"{image_id}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """Identifiers of the classes, in the order of the model's outputs; `names` are those to show."""
        return self.dataset("train").labels.classes

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the same order."""
        return self.dataset("train").labels.names

    def collator(self) -> MultiLabelDataCollator:
        """Stacks examples."""
        return MultiLabelDataCollator(self.preparation)

    def training_dataset(self, epoch: int) -> ImageDataset:
        """Augmented for that epoch."""
        augmentation = TrainingAugmentation(self.config.augmentation, self.preparation)
        return replace(self.dataset("train"), augmentation=augmentation, seed=self.seed, epoch=epoch)

    def slice_reader(self, epoch: int) -> MixedSlices:
        """Mixes images."""
        config = self.config.augmentation
        mixing = ImageMixing(config.mixup, config.cutmix, config.mixed)
        return MixedSlices(self.preparation, mixing, self.seed, epoch)

    def evaluation_sampler(self, dataset: ImageDataset) -> ShuffledBatchSampler:
        """In the order of the dataset."""
        return ShuffledBatchSampler(len(dataset), self.batch_size, shuffle=False)
