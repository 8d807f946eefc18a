"""The embedded images: a pure function of the recipe, from different digits, written whole or not at all."""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transformer_architectures.datasets.images import digits
from transformer_architectures.datasets.images.digits import (
    SPLITS,
    DigitImagesRecipe,
    digit_images,
    digits_of,
    handwritten_digits,
    make_images,
)
from transformer_architectures.datasets.images.image_decoding import decode_image_bytes
from transformer_architectures.datasets.images.image_labels import ImageLabels
from transformer_architectures.datasets.images.image_source import ImageSource, open_images
from transformer_architectures.datasets.images.openimages import read_openimages
from transformer_architectures.errors import DataError

pytest.importorskip("sklearn", reason="the data group is not installed")

SMALL = DigitImagesRecipe(train=120, validation=15, test=25)


def read(folder: Path, part: str) -> tuple[ImageLabels, ImageSource]:
    annotations = folder / "annotations"
    source = open_images(folder / part)
    path = annotations / f"{part}-annotations-human-imagelabels.csv"
    return read_openimages(path, source, annotations / "class-descriptions.csv"), source


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def recipe(seed: int) -> DigitImagesRecipe:
    return replace(SMALL, seed=seed)


def test_the_layout_is_that_of_openimages(tmp_path: Path, recipe: DigitImagesRecipe) -> None:
    folder = digit_images(tmp_path, recipe)
    seen: set[str] = set()
    for part in SPLITS:
        labels, source = read(folder, part)
        assert len(labels) == len(source.ids()) == getattr(recipe, part) and not labels.notes
        assert labels.names == tuple("0123456789")
        assert not seen & set(labels.image_ids)
        seen |= set(labels.image_ids)
        truth = {image.pixels.tobytes(): image.is_present for image in make_images(recipe, part)}
        for number, image_id in enumerate(labels.image_ids):
            image = decode_image_bytes(source.read(image_id))
            assert image.shape == (3, 40, 40) and (image[0] == image[2]).all()
            is_present = truth[image[0].numpy().tobytes()]
            classes, is_positive = labels.row(number)
            assert 1 <= is_present.sum() <= 4 and (is_present[classes] == is_positive).all()
            assert part == "train" or len(classes) == 10
    share = read(folder, "train")[0].class_frequencies().annotated.sum() / 1200
    assert 0.5 < share < 0.7


def test_no_digit_is_in_two_parts(seed: int) -> None:
    images, targets = handwritten_digits()
    parts = [digits_of(part, seed) for part in SPLITS]
    together = np.concatenate(parts)
    assert len(together) == len(set(together.tolist())) == len(images) == len({image.tobytes() for image in images})
    for digit in range(10):
        train, validation, test = ((targets[part] == digit).sum() for part in parts)
        assert 118 < train < 130 and 15 < validation < 21 and 32 < test < 40


def test_a_pure_function_of_the_recipe(tmp_path: Path, recipe: DigitImagesRecipe) -> None:
    first = content(digit_images(tmp_path / "a", recipe))
    np.random.seed(0)
    assert content(digit_images(tmp_path / "b", recipe)) == first
    other = digit_images(tmp_path / "a", replace(recipe, seed=recipe.seed + 1))
    assert not {name for name, data in content(other).items() if name.endswith("png") and data in first.values()}
    # More images leave those that were there as they are.
    longer = content(digit_images(tmp_path / "a", replace(recipe, test=30)))
    assert all(longer[name] == data for name, data in first.items() if name.startswith("test/"))


def test_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = digit_images(tmp_path, SMALL)
    monkeypatch.setattr(digits, "write_digit_images", None)
    assert digit_images(tmp_path, SMALL) == folder and folder.parent == tmp_path


def test_digits_can_be_told_apart(seed: int) -> None:
    """Every digit of an image is brighter than what is around it, whole, and apart from the others."""
    generator = np.random.default_rng(seed)
    images, _ = handwritten_digits()
    for count in (1, 2, 3, 4):
        centres, sizes = digits._layout(count, 40, generator)
        assert (centres - sizes[:, None] / 2 >= 0).all() and (centres + sizes[:, None] / 2 <= 40).all()
        ink = digits._drawn(images[:count], centres, sizes, np.zeros(count), 40)
        for one, centre, size, image in zip(ink, centres, sizes, images, strict=False):
            rows, columns = np.nonzero(one > 0.5)
            assert np.abs(rows + 0.5 - centre[0]).max() <= size / 2 + 1
            assert np.abs(columns + 0.5 - centre[1]).max() <= size / 2 + 1
            assert one.sum() == pytest.approx(image.sum() * (size / 8) ** 2, rel=0.1)
        assert (ink > 0.5).sum(axis=0).max() <= 2


def test_tilted_the_right_way_and_upright_without_tilt() -> None:
    bar = np.zeros((1, 8, 8), np.float32)
    bar[0, :, 3:5] = 1
    drawn = [
        digits._drawn(bar, np.array([[20.0, 20.0]]), np.array([20.0]), np.array([tilt]), 40)[0] for tilt in (0.0, 0.25)
    ]
    assert np.allclose(drawn[0], drawn[0][:, ::-1], atol=1e-6) and np.allclose(drawn[0], drawn[0][::-1], atol=1e-6)
    assert np.allclose(drawn[1], drawn[1][::-1, ::-1], atol=1e-6) and not np.allclose(
        drawn[1], drawn[1][::-1], atol=0.1
    )


def _write_and_hang(cache: Path) -> None:
    def hang(recipe: DigitImagesRecipe, part: str) -> None:
        (cache / "started").touch()
        time.sleep(60)

    digits.make_images = hang  # type: ignore[assignment]
    digit_images(cache, SMALL)


def test_killed_while_writing(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_write_and_hang, args=(tmp_path,))
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and ".part." not in path.name]
    folder = digit_images(tmp_path, SMALL)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]
    assert len(list((folder / "test").iterdir())) == SMALL.test


def test_two_processes_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        folders = pool.starmap(digit_images, [(tmp_path, SMALL)] * 3)
    assert len(set(folders)) == 1 and len(list((folders[0] / "train").iterdir())) == SMALL.train


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handwritten_digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="uv sync --group data"):
        digit_images(tmp_path, SMALL)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
