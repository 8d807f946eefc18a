"""Hidden negatives: by hash, nested, and never a positive."""

import random

import numpy as np
import pytest

from transformer_architectures.datasets.images.hidden_labels import hide_negatives
from transformer_architectures.datasets.images.image_ids import ImageIds
from transformer_architectures.datasets.images.image_labels import ImageLabels
from transformer_architectures.errors import DataError


def make(num_images: int, classes: tuple[str, ...] = ("a", "b", "c", "d", "e")) -> ImageLabels:
    rows = [sorted(random.sample(range(len(classes)), random.randint(0, len(classes)))) for _ in range(num_images)]
    ids = sorted(f"{random.randrange(2**64):016x}" for _ in range(num_images))
    flat = np.array([index for row in rows for index in row], dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, rows)])
    is_positive = np.random.random(len(flat)) < 0.3
    return ImageLabels(ImageIds.from_strings(ids), classes, classes, offsets, flat, is_positive)


def pairs(labels: ImageLabels) -> dict[tuple[str, str], bool]:
    found = {}
    for index, id_ in enumerate(labels.image_ids):
        for class_index, is_positive in zip(*labels.row(index), strict=True):
            found[id_, labels.classes[class_index]] = bool(is_positive)
    return found


def test_only_negatives_are_hidden_and_about_the_share_asked_for(seed: int) -> None:
    labels = make(2000)
    everything = pairs(labels)
    negatives = {pair for pair, is_positive in everything.items() if not is_positive}
    before: set[tuple[str, str]] = set()
    for fraction in (0.0, 0.5, 0.9, 1.0):
        left = pairs(hide_negatives(labels, fraction))
        hidden = set(everything) - set(left)
        assert left.items() <= everything.items()
        assert hidden <= negatives and before <= hidden  # a larger fraction hides these and more
        assert len(hidden) / len(negatives) == pytest.approx(fraction, abs=0.03)
        before = hidden
    assert before == negatives
    assert pairs(labels) == everything


def test_what_is_hidden_depends_on_the_pair_alone(seed: int) -> None:
    labels = make(200)
    hidden = set(pairs(labels)) - set(pairs(hide_negatives(labels, 0.5)))
    chosen = np.random.permutation(200)[:80]
    part = labels.select(chosen)
    assert set(pairs(part)) - set(pairs(hide_negatives(part, 0.5))) == hidden & set(pairs(part))


def test_no_class_and_no_image_is_preferred(seed: int) -> None:
    labels = make(4000)
    left = hide_negatives(labels, 0.5)
    negatives = np.bincount(labels.class_index[~labels.is_positive], minlength=5)
    shares = np.bincount(left.class_index[~left.is_positive], minlength=5) / negatives
    assert shares.min() > 0.44 and shares.max() < 0.56


def test_single_labels_have_nothing_to_hide() -> None:
    classes, one = ("a", "b"), np.zeros(1, dtype=np.uint8)
    labels = ImageLabels(
        ImageIds.from_strings(["x"]), classes, classes, np.array([0, 1]), one, np.ones(1, bool), is_single_label=True
    )
    assert hide_negatives(labels, 0.0) is labels
    with pytest.raises(DataError, match="hidden_negatives"):
        hide_negatives(labels, 0.5)
