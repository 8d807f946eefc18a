"""Mixup and cutmix: torchvision's where all labels are known, and no unknown label ever becomes an absent one."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.transforms import v2

from transformer_architectures.datasets.images.mixing import ImageMixing, blend, mix_labels, paste, random_box

shares = st.floats(0, 1, width=32)
seeds = st.integers(0, 2**31)


def partly_known(seed: int, known: float = 0.5, batch: int = 7, classes: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand(batch, classes, generator=generator) < known).float()
    return masks * torch.randint(0, 2, masks.shape, generator=generator), masks


def random_images(seed: int, batch: int = 7, height: int = 20, width: int = 30) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def summed_loss(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, labels, masks, reduction="sum")


@settings(deadline=None)
@given(seeds, shares)
def test_the_loss_is_the_mixture_of_the_parents_losses(seed: int, share: float) -> None:
    labels, masks = partly_known(seed)
    logits = 3 * torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed))
    expected = share * summed_loss(logits, labels, masks)
    expected += (1 - share) * summed_loss(logits, labels.roll(1, 0), masks.roll(1, 0))
    torch.testing.assert_close(summed_loss(logits, *mix_labels(labels, masks, share)), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(seeds, shares)
def test_labels_and_masks_stay_in_their_range(seed: int, share: float) -> None:
    labels, masks = partly_known(seed)
    mixed, weights = mix_labels(labels, masks, share)
    assert ((weights >= 0) & (weights <= 1) & (mixed >= 0) & (mixed <= 1)).all()
    assert (mixed[weights == 0] == 0).all()
    unknown_in_both = (masks == 0) & (masks.roll(1, 0) == 0)
    assert (weights[unknown_in_both] == 0).all()
    assert float(weights.sum()) == pytest.approx(
        float(masks.sum()), rel=1e-5
    )  # nothing gains or loses weight on the whole


@settings(deadline=None)
@given(seeds, st.floats(0.01, 0.99))
def test_unknown_never_speaks(seed: int, share: float) -> None:
    labels, masks = partly_known(seed)
    mixed, weights = mix_labels(labels, masks, share)
    only_own = (masks == 1) & (masks.roll(1, 0) == 0)
    torch.testing.assert_close(mixed[only_own], labels[only_own])
    torch.testing.assert_close(weights[only_own], torch.full_like(weights[only_own], share))
    # The value at an unknown label makes no difference.
    noise = torch.rand(labels.shape)
    torch.testing.assert_close(mix_labels(torch.where(masks == 1, labels, noise), masks, share)[0], mixed)


@settings(deadline=None)
@given(seeds, shares)
def test_everything_known_is_torchvisions_mixup(seed: int, share: float) -> None:
    labels, _ = partly_known(seed, known=1)
    images = random_images(seed)
    params = {"labels": labels, "lam": share, "batch_size": len(labels)}
    mixed, weights = mix_labels(labels, torch.ones_like(labels), share)
    torch.testing.assert_close(weights, torch.ones_like(labels))
    torch.testing.assert_close(mixed, v2.MixUp().transform(labels, params), rtol=1e-5, atol=1e-6)
    floats = v2.MixUp().transform(images.float(), params)
    assert (blend(images, share).float() - floats).abs().max() <= 0.5 + 1e-3


def test_cutmix_is_torchvisions(seed: int) -> None:
    images = random_images(seed)
    for _ in range(50):
        box = random_box(20, 30, random.random(), np.random.default_rng(random.randrange(2**31)))
        params = {"labels": None, "box": (box.left, box.top, box.right, box.bottom), "batch_size": len(images)}
        pasted, share = paste(images, box)
        assert torch.equal(pasted, v2.CutMix().transform(images, params))
        is_own = (pasted == images).all(1).float().mean((1, 2))
        assert is_own.min() == pytest.approx(share, abs=1e-6)


def test_expected_loss_is_that_of_full_knowledge_times_the_share_known(seed: int) -> None:
    truth = torch.randint(0, 2, (4, 5)).float()
    logits, share, known = torch.randn(4, 5), 0.3, 0.25
    full = summed_loss(logits, *mix_labels(truth, torch.ones_like(truth), share))
    losses = []
    for _ in range(4000):
        masks = (torch.rand(truth.shape) < known).float()
        losses.append(summed_loss(logits, *mix_labels(truth * masks, masks, share)))
    drawn = torch.stack(losses)
    assert abs(drawn.mean() - known * full) < 5 * drawn.std() / len(losses) ** 0.5


@pytest.mark.parametrize("kind", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_mixture_is_a_function_of_its_key(seed: int, kind: dict[str, float]) -> None:
    images, (labels, masks) = random_images(seed), partly_known(seed)
    state = torch.get_rng_state()
    made = [ImageMixing(**kind)(images, labels, masks, (seed, epoch, 3)) for epoch in range(20)]
    torch.manual_seed(1)
    again = [ImageMixing(**kind)(images, labels, masks, (seed, epoch, 3)) for epoch in range(20)]
    torch.set_rng_state(state)
    for left, right in zip(made, again, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
    assert len({tuple(image.flatten().tolist()) for image, _, _ in made}) > 15
    # A batch is its own, whatever other batches are.
    assert torch.equal(images, random_images(seed))


def test_share_of_batches_and_both_kinds(seed: int) -> None:
    images, (labels, masks) = random_images(seed), partly_known(seed)
    mixing: Any = ImageMixing(mixup=1.0, cutmix=1.0, share_of_batches=0.5)
    kinds = {"none": 0, "cutmix": 0, "mixup": 0}
    for key in range(400):
        mixed, _, mixed_masks = mixing(images, labels, masks, (seed, key))
        own = (mixed == images).all(1)
        if own.all() and torch.equal(mixed_masks, masks):
            kinds["none"] += 1
        else:
            pasted = ((mixed == images.roll(1, 0)).all(1) | own).all()
            kinds["cutmix" if pasted else "mixup"] += 1
    assert 140 < kinds["none"] < 260 and 60 < kinds["cutmix"] < 150 and 60 < kinds["mixup"] < 150


def test_no_mixing_leaves_a_batch_alone(seed: int) -> None:
    images, (labels, masks) = random_images(seed), partly_known(seed)
    mixed = ImageMixing()(images, labels, masks, (seed,))
    assert mixed[0] is images and mixed[1] is labels and mixed[2] is masks


def test_a_batch_of_one_is_mixed_with_itself(seed: int) -> None:
    images, (labels, masks) = random_images(seed, batch=1), partly_known(seed, batch=1)
    mixed, mixed_labels, mixed_masks = ImageMixing(mixup=0.4, cutmix=1.0)(images, labels, masks, (seed,))
    assert torch.equal(mixed, images)
    torch.testing.assert_close((mixed_labels, mixed_masks), (labels, masks))
