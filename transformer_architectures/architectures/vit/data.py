"""Data of the picture task: from files of pictures and labels to batches."""

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
from torch.utils.data import DataLoader, Dataset

from transformer_architectures.architectures.vit.augmentation import PicturePreparation, TrainingAugmentation
from transformer_architectures.architectures.vit.data_config import VitDataConfig
from transformer_architectures.architectures.vit.mixing import PictureMixing
from transformer_architectures.architectures.vit.picture_parts import PicturePart, prepare_parts
from transformer_architectures.datasets.picture_check import ColorStatistics
from transformer_architectures.datasets.picture_labels import PictureLabels
from transformer_architectures.datasets.pictures import RejectedPicture, decode_picture
from transformer_architectures.datasets.splitting import Part
from transformer_architectures.errors import DataError
from transformer_architectures.loading import Loading, Share
from transformer_architectures.samplers import ShuffledBatchSampler


class Example(NamedTuple):
    """One picture as the model sees it, before normalisation, and what is known of its labels."""

    row: int
    pixels: UInt8[Tensor, "3 height width"]
    labels: Float32[np.ndarray, "classes"]
    masks: Float32[np.ndarray, "classes"]


@dataclass(frozen=True, eq=False)
class OpenImagesDataset(Dataset[Example]):
    """The pictures of one part with their labels, in the size of the model's input.

    Attributes:
        part: pictures that can be used; row ``i`` of its labels belongs to item ``i``.
        augmentation: what is done while training; without it a picture is only prepared, the same way each time.
        seed, epoch: together with a picture's index they settle its augmentation.
    """

    part: PicturePart
    preparation: PicturePreparation
    augmentation: TrainingAugmentation | None = None
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> Example:
        picture = self.picture(index)
        if self.augmentation is None:
            pixels = self.preparation(picture)
        else:
            pixels = self.augmentation(picture, (self.seed, self.epoch, index))
        return Example(index, pixels, *self.labels.targets(index))

    @property
    def labels(self) -> PictureLabels:
        """What is known of the labels of all pictures."""
        return self.part.labels

    def picture(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """A whole picture as it is in its file.

        Raises:
            DataError: it could be used when the pictures were checked, and now it cannot.
        """
        part = self.part
        if part.pixels is not None and part.places is not None:
            return part.pixels[int(part.places[index])]
        picture_id = self.labels.picture_ids[index]
        try:
            return decode_picture(part.source.read(picture_id))
        except RejectedPicture as rejection:
            raise DataError(f"the picture {picture_id} has changed since it was checked: {rejection.reason}") from None


@dataclass(frozen=True)
class LabeledBatch:
    """Pictures and what is known of their labels.

    Attributes:
        pixels: 8-bit, as they travel; `images` is what the model takes.
        labels: 1 present, 0 absent **or unknown**; between for a mixture of two pictures.
        masks: 1 verified, 0 unknown; between for a mixture: how much of it is known. They weigh the terms of the loss.
        indices: which rows of the dataset these are; a mixture counts as the picture that it is named for.
        preparation: how pixels are normalised.
    """

    pixels: UInt8[Tensor, "batch 3 height width"]
    labels: Float32[Tensor, "batch classes"]
    masks: Float32[Tensor, "batch classes"]
    indices: tuple[int, ...]
    preparation: PicturePreparation

    @cached_property
    def images(self) -> Float32[Tensor, "batch 3 height width"]:
        """Normalised, on the device where the pixels are."""
        return self.preparation.normalize(self.pixels)

    @property
    def num_labels(self) -> int:
        """What the summed loss is divided by: pictures. Each has a term for each of its labels, see `count_loss_terms`."""
        return len(self.indices)

    @property
    def num_tokens(self) -> int:
        """Pictures: what throughput counts."""
        return len(self.indices)

    @property
    def num_positions(self) -> int:
        """Pictures; there is no padding."""
        return len(self.indices)

    def to(self, device: torch.device) -> "LabeledBatch":
        """The batch on a device."""
        if self.pixels.device == device:
            return self
        tensors = {name: getattr(self, name).to(device, non_blocking=True) for name in ("pixels", "labels", "masks")}
        return replace(self, **tensors)

    def pin_memory(self) -> "LabeledBatch":
        """In memory that a GPU reads without a detour; the loader calls this."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in ("pixels", "labels", "masks")})


@dataclass(frozen=True)
class MultiLabelDataCollator:
    """Stacks examples."""

    preparation: PicturePreparation

    def __call__(self, examples: Sequence[Example]) -> LabeledBatch:
        return LabeledBatch(
            pixels=torch.stack([example.pixels for example in examples]),
            labels=torch.from_numpy(np.stack([example.labels for example in examples])),
            masks=torch.from_numpy(np.stack([example.masks for example in examples])),
            indices=tuple(example.row for example in examples),
            preparation=self.preparation,
        )


@dataclass(frozen=True)
class MixedShares:
    """A rank's pictures of a batch, each mixed with the one before it in the *whole* batch (the first with the last).

    So the mixtures are the same for any number of ranks. They are drawn by (seed, epoch, first picture of the batch), which no other
    batch has.
    """

    preparation: PicturePreparation
    mixing: PictureMixing
    seed: int
    epoch: int

    def rows(self, share: Share) -> Sequence[int]:
        """The share's rows; where partners are needed, behind the one that stands before the first."""
        rows = share.rows
        if not self.mixing.mixes or len(rows) == len(share.batch):
            return rows
        return (share.batch[share.batch.index(rows[0]) - 1], *rows)

    def batch(self, share: Share, items: Sequence[Example]) -> LabeledBatch:
        """Mixed; the partner of the first goes, as it belongs to another rank."""
        batch = MultiLabelDataCollator(self.preparation)(items)
        key = (self.seed, self.epoch, share.batch[0])
        pixels, labels, masks = self.mixing(batch.pixels, batch.labels, batch.masks, key)
        own = slice(len(items) - len(share.rows), None)
        return LabeledBatch(pixels[own], labels[own], masks[own], batch.indices[own], self.preparation)


class TransformerDataModule:
    """Everything between the `Data:` section and the batches.

    Args:
        image_size: height and width of the model's input.
        color_statistics: mean and standard deviation of each channel, where a model exists that was trained with them; those
            of the training part unless given.
        loading: which share of each batch this process loads.
        rejected_path: where the list of rejected pictures goes.
    """

    def __init__(
        self,
        config: VitDataConfig,
        image_size: tuple[int, int],
        *,
        seed: int,
        batch_size: int,
        color_statistics: ColorStatistics | None = None,
        loading: Loading = Loading(),
        rejected_path: Path | None = None,
    ) -> None:
        self.config, self.image_size, self.seed, self.batch_size = config, image_size, seed, batch_size
        self.color_statistics = color_statistics
        self.loading, self.rejected_path = loading, rejected_path
        self._datasets: dict[Part, OpenImagesDataset] = {}

    def setup(self) -> None:
        """Reads the labels, examines every picture (or finds the result of an earlier run), and settles the normalisation.

        Raises:
            DataError: a file is missing or bad, too many pictures of a part are, or there is nothing to train or to validate on.
        """
        prepared = prepare_parts(self.config, self.rejected_path)
        mean, std = self.color_statistics or prepared.color_statistics
        config, (height, width) = self.config, self.image_size
        self.preparation = PicturePreparation(
            height=height,
            width=width,
            resize=config.resize,
            crop_fraction=config.crop_fraction,
            interpolation=config.interpolation,
            mean=mean,
            std=std,
        )
        self._rejected = prepared.rejected
        self._datasets = {part: OpenImagesDataset(files, self.preparation) for part, files in prepared.parts.items()}
        self.sampler = ShuffledBatchSampler(len(self._datasets["train"]), self.batch_size, self.seed)
        if self.loading.rank == 0:
            for note in prepared.notes:
                print(note, file=sys.stderr)

    def row_counts(self) -> dict[str, int]:
        """Pictures of each part, and of each reason for which some cannot be used."""
        counts = {str(part): len(dataset) for part, dataset in self._datasets.items()}
        return counts | {f"rejected: {reason}": count for reason, count in self._rejected.most_common()}

    @property
    def digest(self) -> str:
        """Of the training pictures' names and colours, and of their labels."""
        labels = self._datasets["train"].labels
        digest = hashlib.sha256(repr((labels.classes, self.preparation)).encode())
        for array in (labels.offsets, labels.class_index, labels.is_positive):
            digest.update(array.tobytes())
        for picture_id in labels.picture_ids:
            digest.update(f"{picture_id}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names for the machine, in the order of the model's outputs; `names` are those to show."""
        return self._datasets["train"].labels.classes

    @property
    def names(self) -> tuple[str, ...]:
        """What to call the classes, in the same order."""
        return self._datasets["train"].labels.names

    def dataset(self, part: Part) -> OpenImagesDataset:
        """The pictures of a part, not augmented."""
        return self._datasets[part]

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> DataLoader[LabeledBatch]:
        """This rank's share of an epoch's batches, from a position on: the same ones whatever came before."""
        config = self.config.augmentation
        dataset = replace(
            self._datasets["train"],
            augmentation=TrainingAugmentation(config, self.preparation),
            seed=self.seed,
            epoch=epoch,
        )
        mixing = PictureMixing(config.mixup, config.cutmix, config.mixed)
        return self.loading.shares(
            dataset,
            self.sampler.at(epoch, start_batch),
            MixedShares(self.preparation, mixing, self.seed, epoch),
            num_workers=self.config.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[LabeledBatch]:
        """All validation pictures in a fixed order."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[LabeledBatch] | None:
        """All test pictures in a fixed order; None where there is no test part."""
        return self._evaluation_loader("test") if "test" in self._datasets else None

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of that epoch."""
        return len(self.sampler.at(epoch))

    def _evaluation_loader(self, part: Part) -> DataLoader[LabeledBatch]:
        dataset = self._datasets[part]
        sampler = ShuffledBatchSampler(len(dataset), self.batch_size, shuffle=False)
        return self.loading.whole(
            dataset,
            sampler,
            MultiLabelDataCollator(self.preparation),
            num_workers=self.config.num_workers,
            seed=self.seed,
        )
