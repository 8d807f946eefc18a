"""What happens to one image on its way to the model: augmentation while training, preparation wherever it is scored.

* Pixels stay 8-bit until they are on the model's device: a quarter of the memory to copy, and a GPU scales them for nothing.
* **Every augmented image is a pure function of (seed, epoch, index of the image).** torchvision draws from torch's global
  generator, so that one is seeded for each image and put back afterwards: neither the number of workers, nor what was
  drawn before, nor a resumed run changes an image, and the trainer's own random numbers are not touched.
* Geometry runs on tensors, RandAugment and TrivialAugment on Pillow images, each where it is faster: at 224 pixels torchvision's
  RandAugment takes 1.7 ms on a tensor and 0.8 on a Pillow image, conversions to and fro counted (a core of Zen 4; at 32 pixels alike).
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.images.image_decoding import MAX_PIXELS

ResizeInterpolation = Literal["bilinear", "bicubic"]
Pixels = UInt8[Tensor, "3 height width"]


class AugmentationConfig(StrictModel):
    """What is done to training images, in this order; the mixing of whole images comes last, see `mixing.py`."""

    crop: Literal["random_resized", "padded", "none"] = Field(
        default="random_resized",
        description="a random part enlarged; the image moved by up to `padding`; or as in evaluation",
    )
    crop_scale: tuple[float, float] = Field(default=(0.08, 1.0), description="area of a random resized crop")
    crop_ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="width : height of a random resized crop"
    )
    padding: int = Field(default=4, ge=1, description="pixels on each side, for `crop: padded`")
    flip: float = Field(default=0.5, ge=0, le=1, description="share of images that are mirrored left to right")
    auto_augment: Literal["none", "randaugment", "trivial"] = "none"
    randaugment_operations: int = Field(default=2, ge=1)
    randaugment_magnitude: int = Field(default=9, ge=0, le=30)
    erasing: float = Field(default=0.0, ge=0, le=1, description="share of images of which a rectangle is wiped out")
    mixup: float = Field(default=0.0, ge=0, description="parameter of the Beta distribution; 0: never")
    cutmix: float = Field(default=0.0, ge=0, description="parameter of the Beta distribution; 0: never")
    mixed: float = Field(
        default=1.0, ge=0, le=1, description="share of batches that are mixed, where mixup or cutmix is on"
    )

    @model_validator(mode="after")
    def every_key_does_something(self) -> "AugmentationConfig":
        owners = {
            "crop: random_resized": (self.crop == "random_resized", ("crop_scale", "crop_ratio")),
            "crop: padded": (self.crop == "padded", ("padding",)),
            "auto_augment: randaugment": (
                self.auto_augment == "randaugment",
                ("randaugment_operations", "randaugment_magnitude"),
            ),
            "mixup or cutmix over 0": (self.mixup > 0 or self.cutmix > 0, ("mixed",)),
        }
        for owner, (is_there, names) in owners.items():
            for name in names:
                if not is_there and name in self.model_fields_set:
                    raise ValueError(f"{name} does nothing without {owner}")
        return self

    @model_validator(mode="after")
    def ranges_are_ranges(self) -> "AugmentationConfig":
        for name, (low, high), highest in (("crop_scale", self.crop_scale, 1.0), ("crop_ratio", self.crop_ratio, 1e3)):
            if not 0 < low <= high <= highest:
                raise ValueError(
                    f"{name} [{low}, {high}] must be two numbers in rising order, over 0, up to {highest:g}"
                )
        return self


class ImagePreparation(StrictModel):
    """From a decoded image to the model's input. Part of the model folder: `predict` does as validation did.

    Attributes:
        height, width: of the model's input, in pixels.
        resize: ``center_crop`` keeps the aspect: the image is scaled to cover the input and a margin, then cut to its centre;
            ``squash`` scales height and width on their own, so that nothing is cut off.
        crop_fraction: share of each side that the centre crop keeps; 1 has no margin.
        mean, std: of each channel over the training images, on the scale 0–1.
    """

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    resize: Literal["center_crop", "squash"] = "center_crop"
    crop_fraction: float = Field(1.0, ge=0.1, le=1)
    interpolation: ResizeInterpolation = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.5, 0.5, 0.5)

    def __call__(self, image: Pixels) -> UInt8[Tensor, "3 out_height out_width"]:
        """The part of an image that the model sees, in its size."""
        height, width = image.shape[1:]
        if (height, width) == (self.height, self.width) and self.crop_fraction == 1:
            return image
        size = [self.height, self.width]
        if self.resize == "center_crop":
            scale = max(self.height / height, self.width / width) / self.crop_fraction
            # Rounding may leave a pixel too few, of a very long image.
            size = [max(self.height, round(height * scale)), max(self.width, round(width * scale))]
            if size[0] * size[1] > MAX_PIXELS:  # long and thin: what would be cut off is not worth gigabytes
                image = functional.center_crop(
                    image, [_seen(height, self.height / scale), _seen(width, self.width / scale)]
                )
                size = [round(side * scale) for side in image.shape[1:]]
                size = [max(self.height, size[0]), max(self.width, size[1])]
        interpolation = v2.InterpolationMode(self.interpolation)
        resized = functional.resize(image, size, interpolation, antialias=True)
        return functional.center_crop(resized, [self.height, self.width])

    def normalize(self, pixels: UInt8[Tensor, "*batch 3 height width"]) -> Float32[Tensor, "*batch 3 height width"]:
        """(pixels / 255 − mean) / std, in fp32 on the device of the pixels."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return pixels.float().sub_(mean * 255).div_(std * 255)

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Of the model's input, in pixels."""
        return self.height, self.width

    @property
    def mean_color(self) -> tuple[int, int, int]:
        """The colour that is (nearly) zero after `normalize`: what stands where an image has nothing to show."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue


def _seen(length: int, wanted: float) -> int:
    """How many of ``length`` pixels a centre of ``wanted`` ones depends on, those beyond its borders included; the middle stays where it is."""
    seen = math.ceil(1.25 * wanted) + 16
    return min(length, seen + (length - seen) % 2)


class TrainingAugmentation:
    """Random variants of an image in the size of the model's input."""

    def __init__(self, config: AugmentationConfig, preparation: ImagePreparation) -> None:
        size, fill = [preparation.height, preparation.width], list(preparation.mean_color)
        interpolation = v2.InterpolationMode(preparation.interpolation)
        steps: list[Callable[[Tensor], Tensor]] = []
        if config.crop == "random_resized":
            crop = v2.RandomResizedCrop(size, config.crop_scale, config.crop_ratio, interpolation, antialias=True)
            steps.append(crop)
        else:
            steps.append(preparation)
        if config.crop == "padded":
            steps.append(_PaddedCrop(config.padding, preparation.mean_color))
        if config.flip:
            steps.append(v2.RandomHorizontalFlip(config.flip))
        if config.auto_augment == "randaugment":
            operations, magnitude = config.randaugment_operations, config.randaugment_magnitude
            steps.append(_OnPillowImages(v2.RandAugment(operations, magnitude, fill=fill)))
        if config.auto_augment == "trivial":
            steps.append(_OnPillowImages(v2.TrivialAugmentWide(fill=fill)))
        if config.erasing:
            steps.append(v2.RandomErasing(config.erasing, value=fill))
        self.steps = steps

    def __call__(self, image: Pixels, key: tuple[int, ...]) -> UInt8[Tensor, "3 out_height out_width"]:
        """The variant that belongs to a key: (seed, epoch, index of the image)."""
        with drawn_by(*key):
            for step in self.steps:
                image = step(image)
        return image


@contextmanager
def drawn_by(*key: int) -> Iterator[None]:
    """Inside the block torch's global CPU generator draws what belongs to the key; afterwards it is as it was before.

    Unlike `torch.manual_seed` it leaves the generators of other devices alone.
    """
    generator = torch.default_generator
    state = generator.get_state()
    # Hashed, because torch's CPU generator looks at 32 bits only, and neighbouring keys should have nothing in common.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    generator.manual_seed(int.from_bytes(digest, "big"))
    try:
        yield
    finally:
        generator.set_state(state)


class _PaddedCrop:
    """A crop at random of the image in a frame; torchvision's takes several times as long if the frame has a colour."""

    def __init__(self, padding: int, color: tuple[int, int, int]) -> None:
        self.padding, self.color = padding, torch.tensor(color, dtype=torch.uint8)[:, None, None]

    def __call__(self, image: Pixels) -> Pixels:
        padding, (height, width) = self.padding, image.shape[1:]
        framed = self.color.repeat(1, height + 2 * padding, width + 2 * padding)
        framed[:, padding : padding + height, padding : padding + width] = image
        top, left = torch.randint(2 * padding + 1, (2,)).tolist()
        return framed[:, top : top + height, left : left + width]


class _OnPillowImages:
    """Runs a torchvision transform on a Pillow image and gives a tensor again."""

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, image: Pixels) -> Pixels:
        transformed = self.transform(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        return torch.from_numpy(np.array(transformed)).permute(2, 0, 1)
