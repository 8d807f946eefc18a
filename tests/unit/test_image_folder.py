"""One class an image: its folder."""

import os
from pathlib import Path

import numpy as np
import pytest
from test_images import WRITERS, write_tree, write_zip

from transformer_architectures.datasets.images.image_folder import read_image_folder
from transformer_architectures.errors import DataError

FILES = {
    "train/cat/1.jpg": b"c1",
    "train/cat/2.jpg": b"c2",
    "train/ant/1.jpg": b"a1",
    "train/ant/deep/dog/1.PNG": b"d1",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_class_is_the_parent_folder(tmp_path: Path, kind: str) -> None:
    labels, source = read_image_folder(WRITERS[kind](tmp_path / kind, FILES))
    assert labels.classes == labels.names == ("ant", "cat", "dog") and labels.is_single_label
    assert list(labels.image_ids) == sorted(FILES)
    for number, image_id in enumerate(labels.image_ids):
        assert source.read(image_id) == FILES[image_id]
        values, masks = labels.targets(number)
        assert masks.all() and values.sum() == 1
        assert labels.classes[int(values.argmax())] == Path(image_id).parent.name
    assert labels.class_frequencies().positives.tolist() == [1, 2, 1]
    assert labels.class_frequencies().annotated.tolist() == [4, 4, 4]


def test_many_classes_stay_small(tmp_path: Path) -> None:
    labels, _ = read_image_folder(write_zip(tmp_path / "a.zip", {f"{number:04}/1.jpg": b"" for number in range(1000)}))
    assert len(labels.class_index) == 1000 and labels.class_index.dtype == np.uint16
    assert labels.targets(999)[0].nonzero()[0].tolist() == [999] and labels.select([7]).targets(0)[1].all()


def test_classes_of_a_model(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "tree", FILES)
    labels, _ = read_image_folder(path, classes=["ant", "bee", "cat", "dog"])
    assert labels.classes == ("ant", "bee", "cat", "dog") and labels.class_frequencies().positives.tolist() == [
        1,
        0,
        2,
        1,
    ]
    with pytest.raises(DataError, match="dog"):
        read_image_folder(path, classes=["ant", "cat"])


def test_a_image_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stray.jpg"):
        read_image_folder(write_tree(tmp_path / "tree", FILES | {"stray.jpg": b"x"}))


def test_cifar10() -> None:
    path = Path(os.environ.get("CIFAR10_DIR", "../shared/data/cifar10")) / "train.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    labels, source = read_image_folder(path)
    assert len(labels) == 50_000 and labels.classes[0] == "airplane" and labels.classes[9] == "truck"
    assert labels.class_frequencies().positives.tolist() == [5000] * 10
    assert source.read(labels.image_ids[123]).startswith(b"\xff\xd8")
