"""Every kind of image file that people have: the right pixels, upright, or a reason; never a crash."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from transformer_architectures.datasets.images.image_decoding import RejectedImage, decode_image_bytes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.*", "ignore::PIL.Image.DecompressionBombWarning")

LOSSLESS = ("PNG", "BMP", "TIFF")
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
ORIENTATION = 0x0112


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    """As Pillow has them: row, column, colour."""
    return decode_image_bytes(data).permute(1, 2, 0).numpy().astype(int)


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(RejectedImage) as caught:
        decode_image_bytes(data, **options)
    assert "\n" not in str(caught.value) and caught.value.reason == str(caught.value)
    return caught.value.reason


def png(width: int, height: int, depth: int, colour: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG file byte by byte: forms that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def photo(seed: int) -> Image.Image:
    """Smooth in colour, so that JPEG and WebP are close to it, and different at every corner."""
    rows, columns = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 64), indexing="ij")
    colours = [random.uniform(50, 200) * rows + random.uniform(5, 55) * columns for _ in range(3)]
    return Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))


# ---------------------------------------------------------------------------------------------------------------------
# Formats and modes
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format(photo: Image.Image, format_: str) -> None:
    data = encoded(photo, format_, quality=95)
    image = decode_image_bytes(data)
    assert image.dtype == torch.uint8 and image.shape == (3, 48, 64)
    assert image.permute(1, 2, 0).is_contiguous()
    difference = np.abs(pixels_of(data) - np.array(photo).astype(int))
    assert difference.max() == 0 if format_ in LOSSLESS else difference.mean() < 6


@pytest.mark.parametrize("progressive", [False, True])
def test_a_grey_jpeg(photo: Image.Image, progressive: bool) -> None:
    grey = photo.convert("L")
    found = pixels_of(encoded(grey, "JPEG", progressive=progressive, quality=95))
    assert (found == found[..., :1]).all() and np.abs(found[..., 0] - np.array(grey).astype(int)).max() < 6


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_cut_off(format_: str) -> None:
    values = np.array([[0, 128, 257, 255 * 100], [30_000, 40_000, 65_000, 65_535]], dtype=np.uint16)
    grey = pixels_of(encoded(Image.fromarray(values), format_))
    assert (grey == np.round(values / 257)[..., None]).all()


def test_16_bit_colour_is_scaled() -> None:
    colours = (65_535, 32_768, 1_000)
    assert np.abs(pixels_of(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", *colours)))[0, 0] - [255, 128, 4]).max() <= 1


def test_16_bit_grey_with_a_transparent_value() -> None:
    data = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 500, 40_000), tRNS=struct.pack(">H", 500))
    assert pixels_of(data)[0].tolist() == [[255] * 3, [156] * 3]


def test_tiff_with_white_as_zero_and_with_12_bits() -> None:
    def tiff(bits: int, photometric: int, content: bytes, width: int) -> bytes:
        tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        shorts = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1}
        for tag, value in shorts.items():
            tags.tagtype[tag], tags[tag] = 3, value
        for tag, value in (
            (273, 0),
            (279, len(content)),
        ):  # Pillow counts the offset of the content from the end of the tags
            tags.tagtype[tag], tags[tag] = 4, value
        return b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8) + content

    content = struct.pack("<HH", 0, 50_000)
    assert pixels_of(tiff(16, 1, content, 2))[0, :, 0].tolist() == [0, 195]
    assert pixels_of(tiff(16, 0, content, 2))[0, :, 0].tolist() == [255, 60]
    assert pixels_of(tiff(12, 1, bytes([0xFF, 0xF8, 0x00, 0x00]), 2))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_values_that_mean_nothing_are_rejected(values: type) -> None:
    assert "32-bit" in reason(encoded(Image.fromarray(np.ones((3, 3), values)), "TIFF"))


def test_one_bit_and_palettes(photo: Image.Image) -> None:
    for image in (photo.convert("1"), photo.quantize(16)):
        for format_ in ("PNG", "BMP", "GIF", "TIFF"):
            assert (pixels_of(encoded(image, format_)) == np.array(image.convert("RGB"))).all()


def test_cmyk_with_and_without_the_adobe_marker() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert pixels_of(encoded(cyan, "TIFF"))[8, 8].tolist() == [0, 255, 255]
    inverted = encoded(cyan, "JPEG", quality=100)  # Pillow writes as Adobe does
    assert b"Adobe" in inverted and np.abs(pixels_of(inverted)[8, 8] - [0, 255, 255]).max() <= 2
    # Without the marker the numbers mean themselves: the same file is 0 % cyan, 100 % of all the rest.
    start = inverted.index(b"\xff\xee")
    plain = inverted[:start] + inverted[start + 2 + int.from_bytes(inverted[start + 2 : start + 4], "big") :]
    assert np.abs(pixels_of(plain)[8, 8]).max() <= 2
    light = encoded(Image.new("CMYK", (16, 16), (205, 235, 255, 255)), "JPEG", quality=100)
    start = light.index(b"\xff\xee")
    plain = light[:start] + light[start + 2 + int.from_bytes(light[start + 2 : start + 4], "big") :]
    assert np.abs(pixels_of(plain)[8, 8] - [205, 235, 255]).max() <= 2


def test_transparent_is_white() -> None:
    colours = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    expected = [[255, 255, 255], [10, 20, 30], [204, 204, 204]]
    image = Image.fromarray(colours)
    assert pixels_of(encoded(image, "PNG"))[0].tolist() == expected
    assert pixels_of(encoded(image, "WEBP", lossless=True, exact=True))[0].tolist() == expected
    grey = Image.fromarray(np.array([[[100, 0], [100, 255]]], dtype=np.uint8), "LA")
    assert pixels_of(encoded(grey, "PNG"))[0].tolist() == [[255] * 3, [100] * 3]


def test_palettes_with_transparency() -> None:
    palette = bytes([10, 20, 30, 40, 50, 60, 0, 0, 0])
    data = png(3, 1, 8, 3, b"\0" + bytes([0, 1, 2]), PLTE=palette, tRNS=bytes([0, 255, 51]))
    assert pixels_of(data)[0].tolist() == [[255] * 3, [40, 50, 60], [204] * 3]
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette(palette)
    assert pixels_of(encoded(image, "GIF", transparency=0))[0].tolist() == [[255] * 3, [40, 50, 60]]
    coloured = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 4, 5, 6]), tRNS=struct.pack(">HHH", 1, 2, 3))
    assert pixels_of(coloured)[0].tolist() == [[255] * 3, [4, 5, 6]]


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(format_: str) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert (pixels_of(data) == [255, 0, 0]).all()


# ---------------------------------------------------------------------------------------------------------------------
# Upright
# ---------------------------------------------------------------------------------------------------------------------


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how it was turned before it was stored
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright[::-1], -1)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "compressed TIFF", "16-bit PNG", "CMYK JPEG"])
def test_exif_rotation(photo: Image.Image, orientation: int, format_: str) -> None:
    upright = np.array(photo)
    stored = np.ascontiguousarray(TURNED[orientation](upright))
    kind = format_.split()[-1]
    options: dict[str, Any] = {
        "PNG": {},
        "TIFF": {},
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
    }[kind]
    image = Image.fromarray(stored)
    if format_ == "compressed TIFF":
        options = {"compression": "tiff_lzw"}
    elif format_ == "16-bit PNG":
        image = Image.fromarray(stored[..., 0].astype(np.uint16) * 257)
        upright = np.repeat(upright[..., :1], 3, axis=-1)
    elif format_ == "CMYK JPEG":
        image = image.convert("CMYK")
    found = pixels_of(encoded(image, kind, exif=exif_of(orientation), **options))
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() <= (0 if kind != "JPEG" else 6)


def test_a_damaged_exif_block_does_not_matter(photo: Image.Image) -> None:
    data = encoded(photo, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\0")
    assert (pixels_of(data) == np.array(photo)).all()
    assert decode_image_bytes(encoded(photo, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\0")).shape == (3, 48, 64)


# ---------------------------------------------------------------------------------------------------------------------
# What is rejected
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", [*FORMATS, "compressed TIFF"])
def test_truncated(photo: Image.Image, format_: str) -> None:
    options = {"compression": "tiff_deflate"} if format_ == "compressed TIFF" else {}
    data = encoded(photo, format_.split()[-1], **options)
    for share in (0.1, 0.5, 0.9):
        assert reason(data[: int(share * len(data))])


def test_not_a_image() -> None:
    assert reason(b"") == "empty file"
    assert "not an image" in reason(b"<html><body>404</body></html>")
    assert "not an image" in reason(random.randbytes(5000))


def test_other_formats_are_not_opened(photo: Image.Image) -> None:
    for format_ in ("PPM", "ICO", "TGA", "EPS", "JPEG2000"):
        assert "not an image" in reason(encoded(photo, format_))


def test_a_bomb_is_not_decoded(photo: Image.Image) -> None:
    for side in (9_000, 12_000, 60_000):  # above our limit, and where Pillow warns and raises by itself
        assert "limit" in reason(png(side, side, 8, 2, b"\0" * 99))
    for format_ in FORMATS:
        assert "48" in reason(encoded(photo, format_), max_pixels=48 * 64 - 1)
        assert decode_image_bytes(encoded(photo, format_), max_pixels=48 * 64).shape == (3, 48, 64)


@pytest.mark.parametrize("format_", FORMATS)
def test_damaged_files_never_crash(photo: Image.Image, format_: str) -> None:
    data = encoded(photo, format_)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(random.randint(1, 8)):
            damaged[random.randrange(min(len(data), 10 ** random.randint(1, 5)))] = random.randrange(256)
        try:
            assert decode_image_bytes(bytes(damaged), max_pixels=2**20).shape[0] == 3
        except RejectedImage as error:
            assert error.reason
