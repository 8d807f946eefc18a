"""Images that a user names, decoded and prepared for the model: in order, and what cannot be used with its reason."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from transformer_architectures.datasets.images.augmentation import ImagePreparation
from transformer_architectures.datasets.images.image_decoding import (
    RejectedImage,
    decode_image,
    decode_image_bytes,
    read_image_file,
)
from transformer_architectures.datasets.images.image_source import IMAGE_SUFFIXES, ImageSource, images_below
from transformer_architectures.datasets.items_in_order import items_in_order
from transformer_architectures.errors import DataError, UsageError

Input = str | os.PathLike[str] | Image.Image | Tensor  # a tensor: uint8 (3, height, width)
Prepared = Tensor | str  # pixels, or why there are none


def prepared_images(
    inputs: Sequence[Input], preparation: ImagePreparation, source: ImageSource | None = None
) -> Iterator[Prepared]:
    """The model's input for each image, in order, or the reason why it cannot be used; by several processes if there are many.

    Args:
        source: where images are looked up; then the inputs are ids.
    """
    return items_in_order(_Preparation(inputs, preparation, source), len(inputs))


def images_of(path: str) -> list[str]:
    """A file as it is; of a folder all images in it, at any depth, sorted.

    Raises:
        DataError: there is no image in the folder.
    """
    if not os.path.isdir(path):
        return [path]
    found = sorted(images_below(Path(path)))
    if not found:
        raise DataError(f"{path}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) are in it")
    return [os.path.join(path, name) for name in found]


class _Preparation:
    """Item ``i`` is the ``i``-th input, decoded and prepared."""

    def __init__(self, inputs: Sequence[Input], preparation: ImagePreparation, source: ImageSource | None) -> None:
        self.inputs, self.preparation, self.source = inputs, preparation, source

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Prepared:
        try:
            return self.preparation(self._decoded(self.inputs[index]))
        except RejectedImage as rejection:
            return rejection.reason

    def _decoded(self, given: Input) -> UInt8[Tensor, "3 height width"]:
        if isinstance(given, Tensor):
            if given.dtype != torch.uint8 or given.dim() != 3 or given.shape[0] != 3:
                raise UsageError(
                    f"an image as a tensor is uint8 of (3, height, width), not {given.dtype} of {tuple(given.shape)}"
                )
            if 0 in given.shape:
                raise RejectedImage("no pixels")
            return given.cpu()
        if not isinstance(given, (str, os.PathLike, Image.Image)):
            raise UsageError(f"an image is a path, a Pillow image or a tensor, not {type(given).__name__}")
        if isinstance(given, Image.Image):
            return decode_image(given)
        if self.source is not None:
            return decode_image_bytes(self.source.read(os.fspath(given)))
        return decode_image_bytes(read_image_file(Path(given)))
