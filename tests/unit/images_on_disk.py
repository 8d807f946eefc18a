"""Small image data sets in the layouts that people have."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("/m/apple", "/m/boat", "/m/cat", "/m/dog")


def random_image(height: int = 20, width: int = 30) -> Image.Image:
    """Smooth colours."""
    coarse = np.random.default_rng(random.randrange(2**31)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """An image file's content."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def image_id() -> str:
    """16 hexadecimal digits."""
    return f"{random.randrange(2**64):016x}"


def write_openimages(folder: Path, name: str, num_images: int, known: float = 0.6) -> dict[str, dict[str, int]]:
    """Images in ``<folder>/<name>``, labels in ``<folder>/<name>.csv``; gives the labels by image and class.

    Every image has at least one label.
    """
    images = folder / name
    images.mkdir(parents=True, exist_ok=True)
    labels: dict[str, dict[str, int]] = {}
    for _ in range(num_images):
        id_ = image_id()
        (images / f"{id_}.png").write_bytes(encoded(random_image(random.randint(15, 40), random.randint(15, 40))))
        listed = [class_ for class_ in CLASSES if random.random() < known] or [random.choice(CLASSES)]
        labels[id_] = {class_: random.randint(0, 1) for class_ in listed}
    write_annotations(folder / f"{name}.csv", labels)
    return labels


def write_annotations(path: Path, labels: dict[str, dict[str, int]]) -> None:
    """A file of human labels."""
    rows = [f"{id_},verification,{class_},{value}" for id_, row in labels.items() for class_, value in row.items()]
    path.write_text("\n".join(["ImageID,Source,LabelName,Confidence", *rows]) + "\n")
