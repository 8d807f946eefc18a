"""Examining images: what is bad is listed with its reason, the rest is measured, and nothing is done twice."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from images_on_disk import encoded, random_image
from PIL import Image

from transformer_architectures.datasets import items_in_order
from transformer_architectures.datasets.images import image_check
from transformer_architectures.datasets.images.image_check import ImageCheck, check_images, files_digest
from transformer_architectures.datasets.images.image_decoding import decode_image_bytes
from transformer_architectures.datasets.images.image_source import open_images
from transformer_architectures.datasets.images.pixel_store import PixelStoreWriter
from transformer_architectures.errors import DataError


def check(folder: Path, ids: list[str], cache: Path, keep_pixels: bool = False) -> ImageCheck:
    return check_images(open_images(folder), folder, ids, cache, keep_pixels)


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    """Twenty good images ``g00`` ... of several sizes and three bad ones."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        image = random_image(random.randint(5, 40), random.randint(5, 40))
        (images / f"g{number:02}.png").write_bytes(encoded(image))
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.jpg").write_bytes(b"no image at all")
    (images / "truncated.jpg").write_bytes(encoded(random_image(200, 200), "JPEG")[:900])
    return images


def test_bad_images_are_listed_with_their_reason(folder: Path, tmp_path: Path) -> None:
    ids = ["text", *(f"g{number:02}" for number in range(20)), "truncated", "missing", "empty"]
    found = check(folder, ids, tmp_path / "cache")
    assert found.is_usable.tolist() == [False, *[True] * 20, False, False, False]
    reasons = {rejection.file: rejection.reason for rejection in found.rejections}
    assert list(reasons) == ["text", "truncated", "missing", "empty"]
    assert reasons["missing"] == "no such image" and reasons["empty"] == "empty file"
    assert "not an image" in reasons["text"] and "truncated" in reasons["truncated"]


def test_color_statistics_weigh_every_image_alike(folder: Path, tmp_path: Path) -> None:
    ids = [f"g{number:02}" for number in range(20)]
    mean, std = check(folder, ids, tmp_path / "cache").color_statistics()
    source = open_images(folder)
    images = [decode_image_bytes(source.read(id_)).double().flatten(1) / 255 for id_ in ids]
    expected = torch.stack([image.mean(1) for image in images]).mean(0)
    squares = torch.stack([(image**2).mean(1) for image in images]).mean(0)
    assert mean == pytest.approx(expected.tolist(), abs=1e-6)
    assert std == pytest.approx((squares - expected**2).sqrt().tolist(), abs=1e-5)


def test_one_colour_has_a_standard_deviation_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(encoded(Image.new("RGB", (4, 4), (51, 102, 0))))
    mean, std = check(tmp_path, ["grey"], tmp_path / "cache").color_statistics()
    assert mean == pytest.approx((0.2, 0.4, 0.0)) and min(std) > 0.003


def test_the_sample_for_the_colours_is_the_same_every_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"g{number:02}" for number in range(20)]
    everything = check(folder, ids, tmp_path / "cache")
    monkeypatch.setattr(image_check, "HISTOGRAM_IMAGES", 8)
    sampled = check(folder, ids, tmp_path / "cache")
    again = check(folder, ids, tmp_path / "other_cache")
    assert np.array_equal(sampled.color_histogram, again.color_histogram)
    assert not np.array_equal(sampled.color_histogram, everything.color_histogram)
    assert sampled.color_histogram.sum(axis=1) == pytest.approx([1, 1, 1])


def test_decoded_pixels_are_kept_on_request(folder: Path, tmp_path: Path) -> None:
    ids = ["g03", "text", "g01", "g19"]
    found = check(folder, ids, tmp_path / "cache", keep_pixels=True)
    assert found.pixels is not None and len(found.pixels) == 4
    source = open_images(folder)
    for place in (0, 2, 3):
        assert torch.equal(found.pixels[place], decode_image_bytes(source.read(ids[place])))
    assert found.pixels[1].shape == (3, 0, 0)
    assert check(folder, ids, tmp_path / "cache").pixels is None


def test_processes_find_what_one_finds(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"g{number % 20:02}" for number in range(70)] + ["text", "missing"]
    random.shuffle(ids)
    here = check(folder, ids, tmp_path / "here", keep_pixels=True)
    monkeypatch.setattr(items_in_order, "FEW", 10)
    monkeypatch.setattr(items_in_order, "available_cores", lambda: 2)
    workers = tmp_path / "workers"

    def noting_where(data: bytes) -> torch.Tensor:
        with workers.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return decode_image_bytes(data)

    monkeypatch.setattr(image_check, "decode_image_bytes", noting_where)
    before = torch.get_rng_state()
    there = check(folder, ids, tmp_path / "there", keep_pixels=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(workers.read_text().split()) - {str(os.getpid())}) == 2
    assert np.array_equal(here.is_usable, there.is_usable) and here.rejections == there.rejections
    assert np.array_equal(here.color_histogram, there.color_histogram)
    assert here.pixels is not None and there.pixels is not None
    assert all(torch.equal(here.pixels[place], there.pixels[place]) for place in range(72))


def test_images_are_examined_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[bytes] = []

    def counting(data: bytes) -> torch.Tensor:
        examined.append(data)
        return decode_image_bytes(data)

    monkeypatch.setattr(image_check, "decode_image_bytes", counting)
    ids = ["g00", "text", "g01"]
    first = check(folder, ids, tmp_path / "cache")
    second = check(folder, ids, tmp_path / "cache")
    assert len(examined) == 3
    assert second.is_usable.tolist() == first.is_usable.tolist() and second.rejections == first.rejections
    check(folder, ids[:2], tmp_path / "cache")  # other images
    assert len(examined) == 5
    (folder / "g00.png").write_bytes(b"changed")
    assert check(folder, ids, tmp_path / "cache").is_usable.tolist() == [False, False, True]


def test_a_change_of_any_file_changes_the_digest(folder: Path) -> None:
    digests = [files_digest(folder)]
    assert files_digest(folder) == digests[0]
    os.utime(folder / "g00.png", ns=(1, 1))
    digests.append(files_digest(folder))
    (folder / "g01.png").rename(folder / "h01.png")
    digests.append(files_digest(folder))
    (folder / "below").mkdir()
    (folder / "below" / "new.png").write_bytes(b"")
    digests.append(files_digest(folder))
    digests.append(files_digest(folder / "text.jpg"))
    (folder / "below" / "nowhere.png").symlink_to(folder / "nothing")
    digests.append(files_digest(folder))
    assert len(set(digests)) == 6


def test_linked_folders_and_the_place_are_part_of_the_digest(tmp_path: Path) -> None:
    for name in ("one", "other", "real"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"a")
        os.utime(tmp_path / name / "a.png", (0, 0))
    assert files_digest(tmp_path / "one") != files_digest(tmp_path / "other")  # alike, as unpacked from tars
    (tmp_path / "one" / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    before = files_digest(tmp_path / "one")
    os.utime(tmp_path / "real" / "a.png", (1, 1))
    assert files_digest(tmp_path / "one") != before


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnFullDisk(PixelStoreWriter):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.pixels.close()
            self.pixels = open("/dev/full", "wb")

    monkeypatch.setattr(image_check, "PixelStoreWriter", OnFullDisk)
    with pytest.raises(DataError, match="No space left"):
        check(folder, ["g00"], tmp_path / "cache", keep_pixels=True)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    monkeypatch.undo()
    assert check(folder, ["g00"], tmp_path / "cache", keep_pixels=True).is_usable.all()


def test_nothing_usable_has_no_colours(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    found = check(tmp_path, ["bad"], tmp_path / "cache", keep_pixels=True)
    assert not found.is_usable.any() and np.isnan(found.color_histogram).all()
