"""Mixup and cutmix where part of the labels is unknown.

- mixup: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2.
- cutmix: Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers", section 3 and appendix.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

Images = UInt8[Tensor, "batch 3 height width"]
Pairs = Float32[Tensor, "batch classes"]


class Box(NamedTuple):
    """Rows ``top:bottom`` and columns ``left:right`` of an image."""

    top: int
    bottom: int
    left: int
    right: int


# To numpy (seed, epoch, 0) is (seed, epoch), the order of the images: what mixes draws from numbers of its own.
STREAM = 0x4D17


@dataclass(frozen=True)
class ImageMixing:
    """Mixes each image of a batch with the one before it (the first with the last), all with the same share.

    Attributes:
        mixup, cutmix: parameter of the symmetric Beta distribution that the share is drawn from; 0 turns one off; with both, each
            batch takes one of them, either as often as the other.
        share_of_batches: how many batches are mixed.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    share_of_batches: float = 1.0

    @property
    def mixes(self) -> bool:
        """Whether there is anything to do."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self, images: Images, labels: Pairs, masks: Pairs, key: tuple[int, ...]
    ) -> tuple[Images, Pairs, Pairs]:
        """The mixture that belongs to a key, a pure function of it: (seed, epoch, first image of the batch)."""
        random = np.random.default_rng((STREAM, *key))
        kinds = [kind for kind, parameter in (("mixup", self.mixup), ("cutmix", self.cutmix)) if parameter > 0]
        if not kinds or random.random() >= self.share_of_batches:
            return images, labels, masks
        kind = kinds[random.integers(len(kinds))]
        share = float(random.beta(self.mixup, self.mixup) if kind == "mixup" else random.beta(self.cutmix, self.cutmix))
        if kind == "mixup":
            images = blend(images, share)
        else:
            box = random_box(images.shape[2], images.shape[3], 1 - share, random)
            images, share = paste(images, box)
        return images, *mix_labels(labels, masks, share)


def mix_labels(labels: Pairs, masks: Pairs, share: float) -> tuple[Pairs, Pairs]:
    """Labels and masks of ``share`` × each image + ``1 - share`` × the one before it::

        mask  = share × mask_a + (1 - share) × mask_b                                           how much is known
        label = (share × mask_a × label_a + (1 - share) × mask_b × label_b) / mask              the truth of what is known
                0 where the mask is 0

    **Why.** The usual mixture of fully known labels has the loss ``share × loss(a) + (1 - share) × loss(b)``: binary cross-entropy,
    focal and asymmetric loss are linear in the label. That form says what to do where a parent's label is unknown: *leave out
    that parent's term and nothing else*. ``mask × loss(label)`` with the two lines above is just this sum, with masks for weights. So

    - with all labels known it is the usual mixture; unknown in both parents is unknown (mask 0);
    - present in A and unknown in B is *present, with weight share*. A mixture of the labels alone, ``share × 1 + (1 - share) × 0``,
      would say "rather absent" of an object that B may well show: it would turn unknown into absent by the back door;
    - absent in A and unknown in B is absent with weight ``share``, not 1: B may show it;
    - it is unbiased: if each label is known with probability q whatever it is, the expected loss is q × that of full knowledge, as it
      is without mixing;
    - the masks of a batch add up to what they were: no label gains or loses weight on the whole.

    "Present if either parent shows it", the other reading of an image with the objects of both, was not taken: with
    known labels it is not mixup, and an object that fills a hundredth of the image would count as one that fills it.
    """
    other_masks = masks.roll(1, 0) * (1 - share)
    own_masks = masks * share
    mixed_masks = own_masks + other_masks
    present = own_masks * labels + other_masks * labels.roll(1, 0)
    mixed_labels = torch.where(mixed_masks > 0, present / mixed_masks, 0.0)
    return mixed_labels.clamp(max=1), mixed_masks.clamp(max=1)


def blend(images: Images, share: float) -> Images:
    """``share`` × each image + ``1 - share`` × the one before it, rounded to 8 bits."""
    blended = torch.empty_like(images)
    for index in range(len(images)):  # one at a time: the floats stay in the cache
        blended[index] = torch.lerp(images[index - 1].float(), images[index].float(), share).round_()
    return blended


def random_box(height: int, width: int, area: float, random: np.random.Generator) -> Box:
    """A box of the image's aspect, of a share ``area`` of it, its centre anywhere; what sticks out is cut off."""
    row, column = int(random.integers(height)), int(random.integers(width))
    half_height, half_width = int(0.5 * area**0.5 * height), int(0.5 * area**0.5 * width)
    return Box(
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )


def paste(images: Images, box: Box) -> tuple[Images, float]:
    """Each image with a box of the one before it, and the share of its own pixels that are left."""
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    pasted = images.clone()
    pasted[:, :, rows, columns] = images.roll(1, 0)[:, :, rows, columns]
    area = (box.bottom - box.top) * (box.right - box.left)
    return pasted, 1 - area / (images.shape[2] * images.shape[3])
