"""Images whose class is the folder that they lie in."""

import posixpath
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer_architectures.datasets.images.image_labels import ImageLabels, class_index_type
from transformer_architectures.datasets.images.image_source import ImageSource, open_images
from transformer_architectures.errors import DataError


def read_image_folder(path: str | Path, classes: Sequence[str] | None = None) -> tuple[ImageLabels, ImageSource]:
    """One class an image: its parent folder, whatever lies above (`train/airplane/0000.jpg`: airplane), all others verified absent.

    Ids are paths in the tree or archive, sorted; so images of one class are mostly together.

    Args:
        path: a folder tree, a zip, a tar, or a folder of these.
        classes: the classes of a model, to score images with; otherwise those that are found.

    Raises:
        DataError: nothing can be read, an image is in no folder, or one is of a class that is not in ``classes``.
    """
    source = open_images(path, id_form="path")
    ids = source.ids()
    found: dict[str, int] = {}
    numbers = np.fromiter((found.setdefault(_class_of(path, id_), len(found)) for id_ in ids), np.int64, len(ids))
    known = tuple(sorted(found if classes is None else classes))
    if foreign := set(found) - set(known):
        raise DataError(f"{path}: the folder {min(foreign)} is none of the classes ({', '.join(known[:10])} ...)")
    place = {name: index for index, name in enumerate(known)}
    renumbered = np.array([place[name] for name in found], dtype=class_index_type(len(known)))
    labels = ImageLabels(
        image_ids=ids,
        classes=known,
        names=known,
        offsets=np.arange(len(ids) + 1, dtype=np.int64),
        class_index=renumbered[numbers],
        is_positive=np.ones(len(ids), dtype=bool),
        is_single_label=True,
    )
    return labels, source


def _class_of(root: str | Path, image_id: str) -> str:
    name = posixpath.basename(posixpath.dirname(image_id))
    if not name:
        raise DataError(f"{root}: the image {image_id} is in no folder that could be its class")
    return name
