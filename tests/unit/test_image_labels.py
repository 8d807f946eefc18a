"""Sparse rows of labels: the same as a dense table with holes."""

import pickle
import random

import numpy as np
import pytest

from transformer_architectures.datasets.images.image_ids import ImageIds
from transformer_architectures.datasets.images.image_labels import ImageLabels, class_index_type

UNKNOWN = -1


def from_table(table: np.ndarray) -> ImageLabels:
    """Rows of 1, 0 and `UNKNOWN`."""
    images, classes = np.nonzero(table != UNKNOWN)
    names = tuple(f"c{number}" for number in range(table.shape[1]))
    return ImageLabels(
        image_ids=ImageIds.from_strings(f"p{number:03}" for number in range(len(table))),
        classes=names,
        names=names,
        offsets=np.concatenate([[0], np.cumsum((table != UNKNOWN).sum(axis=1))]),
        class_index=classes.astype(class_index_type(table.shape[1])),
        is_positive=table[images, classes] == 1,
    )


def to_table(labels: ImageLabels) -> np.ndarray:
    table = np.full((len(labels), len(labels.classes)), UNKNOWN)
    for number in range(len(labels)):
        values, masks = labels.targets(number)
        assert values.dtype == masks.dtype == np.float32 and not values[masks == 0].any()
        table[number, masks == 1] = values[masks == 1]
    return table


@pytest.fixture
def table(seed: int) -> np.ndarray:
    return np.random.choice([UNKNOWN, 0, 1], (40, random.randint(1, 12)))


def test_sparse_is_dense(table: np.ndarray) -> None:
    labels = from_table(table)
    assert len(labels) == 40 and (to_table(labels) == table).all()
    for number in range(40):
        classes, is_positive = labels.row(number)
        assert classes.tolist() == np.flatnonzero(table[number] != UNKNOWN).tolist()
        assert is_positive.tolist() == (table[number][classes] == 1).tolist()


def test_select(table: np.ndarray) -> None:
    labels = from_table(table)
    for picked in (np.random.permutation(40)[:17], np.array([3, 3, 0]), np.array([], dtype=np.int64), [39]):
        selected = labels.select(picked)
        assert list(selected.image_ids) == [f"p{number:03}" for number in picked]
        assert (to_table(selected) == table[picked]).all()
    assert (to_table(pickle.loads(pickle.dumps(labels.select([5, 4])))) == table[[5, 4]]).all()


def test_frequencies(table: np.ndarray) -> None:
    positives, annotated = from_table(table).class_frequencies()
    assert positives.tolist() == (table == 1).sum(axis=0).tolist()
    assert annotated.tolist() == (table != UNKNOWN).sum(axis=0).tolist()


def test_nobody_changes_them(table: np.ndarray) -> None:
    labels = from_table(table)
    for array in (labels.offsets, labels.class_index, labels.is_positive):
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0


@pytest.mark.parametrize(("num_classes", "size"), [(1, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_the_smallest_type_that_fits(num_classes: int, size: int) -> None:
    assert class_index_type(num_classes).itemsize == size
    assert np.array([num_classes - 1]).astype(class_index_type(num_classes))[0] == num_classes - 1


def test_ids_are_a_sequence_of_strings(seed: int) -> None:
    strings = list({random.choice(["", "ü", "漢"]) + str(random.getrandbits(20)) for _ in range(500)})
    ids = ImageIds.from_strings(iter(strings))
    assert len(ids) == len(strings) and list(ids) == strings and ids[3] == strings[3] and ids[-1] == strings[-1]
    assert list(ids[5:9]) == strings[5:9] and strings[7] in ids and "x" not in ids
    assert [strings[place] for place in ids.order()] == sorted(strings)
    picked = np.random.permutation(len(strings))[:20]
    assert list(ids.take(picked)) == [strings[place] for place in picked]
    assert ids.places_of(ids.take(picked)).tolist() == picked.tolist()
    assert ids.places_of(ImageIds.from_strings(["x", strings[2]])).tolist() == [-1, 2]
    assert list(pickle.loads(pickle.dumps(ids))) == strings
    assert ids.first_repeated() is None and ImageIds.from_strings([]).first_repeated() is None
    assert ImageIds.from_strings("abbcc").first_repeated() == 1
    with pytest.raises(IndexError):
        ids[len(ids)]
