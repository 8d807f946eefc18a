"""From the bytes of an image file to pixels: right, or rejected with a reason; never a crash, never silently black or white.

* Only six formats are opened: no other parser sees data that nobody vouches for.
* The number of pixels is taken from the header and checked before anything is decoded.
* 16-bit grey is scaled (65,535 is white); Pillow's own conversion cuts off at 255, and most of the image turns white.
* CMYK in a JPEG is inverted if Adobe's marker says so; Pillow inverts always.
* What is transparent is shown on white, as on a page: line art is mostly black, and would vanish on black.
* EXIF rotation is applied. Of an animation the first frame counts. Colour profiles are not applied.

Pillow alone decodes: torchvision's own decoders are twice as fast for small files, but deprecated since its version 0.29.

What cannot be seen: a JPEG whose data were damaged in the middle, but end as they should, decodes to a grey or shifted part.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageChops, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from transformer_architectures.errors import DataError, reason_of

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
MAX_BYTES = 2**28  # of a file: more is no image, but a mistake or an attack
MAX_PIXELS = 2**26  # 200 MB as RGB; the largest images that cameras take
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
WHITE_IS_ZERO = 0

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class RejectedImage(DataError):
    """An image that cannot be used; the message is the reason, without the image's name."""

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        return str(self)


def read_image_file(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        RejectedImage: it cannot be read, is too large, or is no file but a pipe or a device, which might never end.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RejectedImage("not a file")
        if status.st_size > MAX_BYTES:
            raise RejectedImage(f"{status.st_size:,} bytes, over the limit of {MAX_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise RejectedImage(f"cannot be read: {reason_of(error)}") from None


def decode_image_bytes(data: bytes, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "3 height width"]:
    """The image as RGB, upright; in memory the three colours of a pixel lie side by side, which resizing likes best.

    Raises:
        RejectedImage: it is not an image of a known format, damaged, too large, or its values have no known meaning.
    """
    with _damage_is_rejection(max_pixels, "empty file" if not data else f"not an image ({', '.join(FORMATS)})"):
        return _pixels(Image.open(BytesIO(data), formats=FORMATS), max_pixels)


def decode_image(image: Image.Image, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "3 height width"]:
    """The same of an image that Pillow has opened: it reads lazily, so that damage shows only now."""
    with _damage_is_rejection(max_pixels, "not an image"):
        return _pixels(image, max_pixels)


@contextmanager
def _damage_is_rejection(max_pixels: int, unknown: str) -> Iterator[None]:
    try:
        yield
    except RejectedImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedImage(f"over the limit of {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise RejectedImage(unknown) from None
    except Exception as error:  # parsers that meet damaged files raise whatever they stumble over
        raise RejectedImage(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def _pixels(image: Image.Image, max_pixels: int) -> UInt8[Tensor, "3 height width"]:
    if image.width * image.height > max_pixels:
        raise RejectedImage(f"{image.width} x {image.height} pixels, over the limit of {max_pixels:,}")
    image.load()
    pixels = np.array(_upright(_as_rgb(image), image))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Turned as the EXIF of the file says; TIFF files are by now, Pillow does it on loading."""
    if "exif" not in image.info:  # most files: a fifth of the time for a small one
        return rgb
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing of the pixels
        orientation = None
    method = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb if method is None else rgb.transpose(method)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _from_16_bits(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise RejectedImage("32-bit values: nothing says which one is white")
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """8-bit grey, rounded; a transparent value becomes white."""
    values = np.array(image).astype(np.uint32)
    white, is_inverted = 2**16 - 1, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white = 2 ** image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] - 1  # 12 bits are kept in 16
        is_inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    grey = ((values * 255 + white // 2) // white).astype(np.uint8)
    if is_inverted:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey)
