"""Images side by side with captions, as one PNG file."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

COLUMNS = 4
SIDE = 192  # pixels of an image's longer side
LINE = 13
CHARACTERS = 32  # of a caption's line


class Tile(NamedTuple):
    """An image, the lines below it, and their colour."""

    pixels: UInt8[Tensor, "3 height width"]
    caption: Sequence[str]
    color: str = "black"


def grid_png(tiles: Sequence[Tile]) -> bytes:
    """A PNG file with the tiles in rows of `COLUMNS`. Small images are enlarged pixel by pixel."""
    lines = max((len(tile.caption) for tile in tiles), default=0)
    width, height = SIDE + 8, SIDE + 8 + LINE * lines
    rows = -(-len(tiles) // COLUMNS)
    page = Image.new("RGB", (width * min(COLUMNS, max(len(tiles), 1)), max(height * rows, 1)), "white")
    draw = ImageDraw.Draw(page)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        left, top = column * width + 4, row * height + 4
        image = Image.fromarray(tile.pixels.permute(1, 2, 0).contiguous().cpu().numpy())
        scale = SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        page.paste(image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC), (left, top))
        for place, text in enumerate(tile.caption):
            shown = text if len(text) <= CHARACTERS else f"{text[: CHARACTERS - 3]}..."
            # Pillow's built-in font may have no other characters.
            shown = shown.encode("latin-1", errors="replace").decode("latin-1")
            draw.text((left, top + SIDE + LINE * place), shown, fill=tile.color)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()
