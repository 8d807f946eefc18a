"""Augmentation: a pure function of (seed, epoch, image), right geometry, and the trainer's random numbers untouched."""

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms.v2 import functional

from transformer_architectures.datasets.images import augmentation as augmentation_module
from transformer_architectures.datasets.images.augmentation import (
    AugmentationConfig,
    ImagePreparation,
    ResizeInterpolation,
    TrainingAugmentation,
    drawn_by,
)

KINDS: list[dict[str, Any]] = [
    {},
    {"crop": "padded", "auto_augment": "trivial", "erasing": 0.5},
    {"crop": "none", "flip": 0.0, "auto_augment": "randaugment"},
    {"auto_augment": "randaugment", "randaugment_operations": 3, "randaugment_magnitude": 15, "erasing": 1.0},
]


@pytest.fixture
def image(seed: int) -> Tensor:
    """Smooth colours: pixels of pure noise would be changed beyond recognition by any resizing."""
    coarse = torch.rand(1, 3, 5, 7) * 255
    return torch.nn.functional.interpolate(coarse, (50, 70), mode="bilinear")[0].to(torch.uint8)


def augmentation(height: int = 24, width: int = 32, **config: Any) -> TrainingAugmentation:
    preparation = ImagePreparation(height=height, width=width, mean=(0.4, 0.5, 0.6))
    return TrainingAugmentation(AugmentationConfig.model_validate(config), preparation)


@pytest.mark.parametrize("config", KINDS)
def test_a_variant_is_a_function_of_its_key(image: Tensor, seed: int, config: dict[str, Any]) -> None:
    original = image.clone()
    keys = [(seed, epoch, index) for epoch in range(3) for index in range(6)]
    made = {key: augmentation(**config)(image, key) for key in keys}
    torch.manual_seed(5)
    one = augmentation(**config)
    for key in reversed(keys):  # in another order, by another object, from another global state
        assert torch.equal(one(image, key), made[key])
        assert made[key].shape == (3, 24, 32) and made[key].dtype == torch.uint8
    assert len({tuple(variant.flatten().tolist()) for variant in made.values()}) > len(keys) // 2
    assert torch.equal(image, original)


@pytest.mark.parametrize("config", KINDS)
def test_global_random_numbers_are_untouched(image: Tensor, seed: int, config: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    augmentation(**config)(image, (seed, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_drawn_by_restores_also_after_an_error(seed: int) -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        with drawn_by(seed, 1):
            first = torch.rand(3)
            raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
    with drawn_by(seed, 1):
        assert torch.equal(torch.rand(3), first)
    with drawn_by(seed, 2):
        assert not torch.equal(torch.rand(3), first)


def test_a_plain_recipe_is_the_preparation(image: Tensor, seed: int) -> None:
    preparation = ImagePreparation(height=24, width=32)
    plain = TrainingAugmentation(AugmentationConfig(crop="none", flip=0.0), preparation)
    assert torch.equal(plain(image, (seed,)), preparation(image))


@pytest.mark.parametrize(
    ("idle", "owner"),
    [
        ({"padding": 3}, "crop: padded"),
        ({"crop": "none", "crop_scale": (0.5, 1.0)}, "crop: random_resized"),
        ({"auto_augment": "trivial", "randaugment_magnitude": 5}, "auto_augment: randaugment"),
        ({"mixed": 0.5}, "mixup or cutmix over 0"),
    ],
)
def test_a_key_that_does_nothing_is_an_error(idle: dict[str, Any], owner: str) -> None:
    with pytest.raises(ValidationError, match=f"does nothing without {owner}"):
        AugmentationConfig(**idle)


@pytest.mark.parametrize("shape", [(6, 900), (7, 901), (400, 3), (90, 1300)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_long_thin_images_are_cut_before_they_are_scaled(
    seed: int, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], interpolation: ResizeInterpolation
) -> None:
    """An image of 60,000,000 × 1 pixels would take 46 GB; what the model sees is (nearly) the same."""
    long = torch.randint(256, (3, *shape), dtype=torch.uint8)
    preparation = ImagePreparation(height=24, width=16, crop_fraction=0.9, interpolation=interpolation)
    expected = preparation(long)
    sizes: list[list[int]] = []
    resize = functional.resize

    def noting_size(image: Tensor, size: list[int], *arguments: Any, **options: Any) -> Tensor:
        sizes.append(size)
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(functional, "resize", noting_size)
    monkeypatch.setattr(augmentation_module, "MAX_PIXELS", 100)
    found = preparation(long)
    assert sizes[0][0] * sizes[0][1] < 24 * 16 * 36 and found.shape == (3, 24, 16)
    assert (found.int() - expected.int()).abs().max() <= 5  # of noise; the scale is rounded to whole pixels


def test_flip(image: Tensor, seed: int) -> None:
    flipped = augmentation(crop="none", flip=1.0)(image, (seed,))
    assert torch.equal(flipped, augmentation(crop="none", flip=0.0)(image, (seed,)).flip(2))
    mixed = augmentation(crop="none", flip=0.5)
    count = sum(torch.equal(mixed(image, (seed, index)), flipped) for index in range(200))
    assert 60 < count < 140


def test_padded_crop_moves_the_image_and_shows_the_mean_colour(seed: int) -> None:
    image = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    moves = set()
    for index in range(300):
        moved = augmentation(crop="padded", padding=2, flip=0.0)(image, (seed, index))
        framed = torch.tensor([102, 128, 153], dtype=torch.uint8)[:, None, None].repeat(1, 28, 36)
        framed[:, 2:26, 2:34] = image
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(framed[:, y : y + 24, x : x + 32], moved)]
        moves.update(places)
        assert places
    assert len(moves) == 25


def test_erasing_shows_the_mean_colour(image: Tensor, seed: int) -> None:
    plain = augmentation(crop="none", flip=0.0)(image, (seed,))
    erased = augmentation(crop="none", flip=0.0, erasing=1.0)(image, (seed,))
    changed = (erased != plain).any(0)
    assert changed.any() and not changed.all()
    assert (erased[:, changed] == torch.tensor([[102], [128], [153]])).all()


def test_crop_scale_bounds_what_is_seen(seed: int) -> None:
    rows = torch.arange(200, dtype=torch.uint8)[None, :, None].expand(3, 200, 200).contiguous()
    for index in range(50):
        half = augmentation(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0))(rows, (seed, index))
        assert int(half.max()) - int(half.min()) == pytest.approx(100, abs=6)


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (24, 32), (3, 400), (400, 3), (1, 1), (1000, 24)])
@pytest.mark.parametrize("resize", ["center_crop", "squash"])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_preparation_gives_the_size_of_the_model(shape: tuple[int, int], resize: Any, crop_fraction: float) -> None:
    prepared = ImagePreparation(height=24, width=32, resize=resize, crop_fraction=crop_fraction)
    grey = torch.full((3, *shape), 77, dtype=torch.uint8)
    assert torch.equal(prepared(grey), torch.full((3, 24, 32), 77, dtype=torch.uint8))


def test_centre_crop_keeps_the_aspect_and_squash_does_not() -> None:
    wide = torch.zeros(3, 20, 60, dtype=torch.uint8)
    wide[:, :, 20:40] = 255  # the middle third
    assert (ImagePreparation(height=20, width=20)(wide) == 255).all()
    squashed = ImagePreparation(height=20, width=21, resize="squash")(wide)
    assert (squashed[:, :, 9:12] == 255).all() and (squashed[:, :, :5] == 0).all() and (squashed[:, :, -5:] == 0).all()
    margin = ImagePreparation(height=20, width=20, crop_fraction=0.5)(torch.nn.functional.pad(wide, (0, 0, 10, 10)))
    assert (margin == 255).all()


def test_a_image_of_the_right_size_is_left_alone(seed: int) -> None:
    image = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    assert torch.equal(ImagePreparation(height=24, width=32)(image), image)
    assert torch.equal(ImagePreparation(height=24, width=32, resize="squash")(image), image)


def test_normalisation(seed: int) -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.25])
    preparation = ImagePreparation(height=4, width=5, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    expected = (pixels.double() / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(preparation.normalize(pixels).double(), expected, rtol=1e-5, atol=1e-5)
    assert (
        preparation.normalize(torch.tensor(preparation.mean_color, dtype=torch.uint8)[:, None, None]).abs().max() < 0.02
    )


def test_a_preparation_survives_the_model_folder() -> None:
    preparation = ImagePreparation(height=24, width=32, mean=(0.1, 0.2, 0.3), resize="squash")
    assert ImagePreparation.model_validate_json(json.dumps(preparation.model_dump(mode="json"))) == preparation


@pytest.mark.parametrize(
    "wrong",
    [{"crop_scale": [0.5, 0.1]}, {"crop_scale": [0.0, 1.0]}, {"crop_scale": [0.5, 1.5]}, {"crop_ratio": [2.0, 1.0]}],
)
def test_ranges_must_be_ranges(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="rising order"):
        AugmentationConfig.model_validate({name: tuple(values) for name, values in wrong.items()})
