"""The image classifier and its commands: one row for each image in order, and scores by the same path."""

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images_on_disk import CLASSES, encoded, random_image, write_openimages
from PIL import Image
from pydantic import ValidationError
from tiny_classifier import tiny_classifier
from tiny_translator import tiny_translator

from transformer_architectures import cli, load_model
from transformer_architectures.datasets.images.image_decoding import decode_image_bytes
from transformer_architectures.datasets.items_in_order import FEW
from transformer_architectures.errors import DataError, ModelFolderError, UsageError
from transformer_architectures.metrics import AnnotatedPairs, multi_label_scores
from transformer_architectures.pretrained.model_folder import seal
from transformer_architectures.tasks.image_classification import ImageClassifier
from transformer_architectures.tasks.images.image_grid import Tile, grid_png
from transformer_architectures.tasks.images.label_map import LabelMap

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def classifier(seed: int) -> ImageClassifier:
    return tiny_classifier(seed)


@pytest.fixture
def paths(tmp_path: Path, seed: int) -> list[str]:
    """Eight images of many sizes in two folders, sorted."""
    names = [f"{folder}/{number}.png" for folder in "ab" for number in range(4)]
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(random_image(random.randint(8, 40), random.randint(8, 40))))
    return [str(tmp_path / "images" / name) for name in names]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def run(*arguments: str) -> tuple[int, list[str], str]:
        capfdbinary.readouterr()  # the seed
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        out, err = capfdbinary.readouterr()
        return int(exit.value.code or 0), out.decode().splitlines(), err.decode()

    return run


@pytest.fixture
def model_dir(classifier: ImageClassifier, tmp_path: Path) -> str:
    classifier.export(tmp_path / "model", {"task": "image_classification"})
    return str(tmp_path / "model")


def by_hand(classifier: ImageClassifier, path: str) -> list[float]:
    """One image through the model, step by step."""
    pixels = classifier.preparation(decode_image_bytes(Path(path).read_bytes())).double() / 255
    mean, std = (torch.tensor(row)[:, None, None] for row in (classifier.preparation.mean, classifier.preparation.std))
    with torch.no_grad():
        logits = classifier.model(((pixels - mean) / std).float()[None])
    return [float(value) for value in logits[0].sigmoid()]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_one_row_for_each_image_in_order(classifier: ImageClassifier, paths: list[str], batch_size: int) -> None:
    broken = str(Path(paths[0]).with_name("broken.jpg"))
    Path(broken).write_bytes(Path(paths[0]).read_bytes()[:60])
    given = [paths[0], broken, *paths[1:], "/nothing.png"]
    rows = classifier.predict(given, batch_size=batch_size)
    assert [row["image"] for row in rows] == given
    assert [set(row) for row in rows] == [
        {"image", "error"} if path in (broken, "/nothing.png") else {"image", "labels", "predicted", "thresholds"}
        for path in given
    ]
    assert rows[1]["error"].startswith("damaged") and "No such file" in rows[-1]["error"]
    for row in rows:
        if "error" not in row:
            assert list(row["labels"]) == list(row["thresholds"]) == ["Apple", "Boat", "Cat", "Dog"]
            assert list(row["labels"].values()) == pytest.approx(by_hand(classifier, row["image"]), abs=1e-4)
            likely = {name for name, value in row["labels"].items() if value >= row["thresholds"][name]}
            assert set(row["predicted"]) == likely
            values = [row["labels"][name] for name in row["predicted"]]
            assert values == sorted(values, reverse=True)
    assert classifier.predict([]) == []


def test_many_images_are_decoded_by_several_processes(classifier: ImageClassifier, paths: list[str]) -> None:
    few, times = classifier.predict([*paths, "/nothing"]), 40
    many = classifier.predict([*paths, "/nothing"] * times, batch_size=9)
    assert len(many) > FEW and many == few * times


def test_paths_pillow_images_and_tensors_give_the_same(classifier: ImageClassifier, paths: list[str]) -> None:
    path = paths[0]
    forms = [path, Path(path), Image.open(path), decode_image_bytes(Path(path).read_bytes())]
    rows = classifier.predict(forms)
    assert [row["image"] for row in rows] == [path, path, 2, 3]
    assert all(row["labels"] == pytest.approx(rows[0]["labels"], abs=1e-5) for row in rows)


def test_damage_behind_the_header_of_an_opened_image_is_its_error(classifier: ImageClassifier, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.randint(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    (row,) = classifier.predict([Image.open(path)])
    assert row["error"].startswith("damaged")


@pytest.mark.parametrize("inputs", ["a.png", [torch.zeros(3, 8, 8)]])
def test_what_is_no_list_of_images_is_refused(classifier: ImageClassifier, inputs: Any) -> None:
    with pytest.raises(UsageError):
        classifier.predict(inputs)
    with pytest.raises(UsageError, match="batch_size"):
        classifier.predict(["a.png"], batch_size=0)


def test_of_a_single_label_the_most_probable_is_predicted(seed: int, paths: list[str]) -> None:
    classifier = tiny_classifier(seed, is_single_label=True, probabilities="softmax", thresholds=(1.0,) * 4)
    for row in classifier.predict(paths):
        assert sum(row["labels"].values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == [max(row["labels"], key=row["labels"].__getitem__)]


def test_dropout_is_off_and_the_mode_of_the_model_stays(seed: int, paths: list[str]) -> None:
    classifier = tiny_classifier(seed, dropout=0.5)
    expected = classifier.predict(paths)
    classifier.model.train()
    assert classifier.predict(paths) == expected
    assert classifier.model.training


def test_evaluate_scores_verified_pairs_only(
    classifier: ImageClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_openimages(tmp_path, "test", 30)
    bad = sorted(labels)[3]
    (tmp_path / "test" / f"{bad}.png").write_bytes(b"no image")
    scores = classifier.evaluate(tmp_path / "test", tmp_path / "test.csv", batch_size=7)
    assert "1 of 30 images cannot be used and are not scored" in capsys.readouterr().err
    pairs = AnnotatedPairs(4)
    for id_, row in labels.items():
        if id_ != bad:
            values = np.array(by_hand(classifier, str(tmp_path / "test" / f"{id_}.png")))
            index = np.array([CLASSES.index(class_) for class_ in row])
            pairs.add_sparse(index, values[index], np.array(list(row.values())) == 1)
    expected = multi_label_scores(pairs, np.array(classifier.labeling.thresholds))
    assert list(scores) == ["map_macro", "map_micro", "map_weighted", "f1"]
    assert scores == pytest.approx(expected, abs=1e-4)


def test_an_image_folder_has_accuracy_and_only_known_classes(seed: int, tmp_path: Path) -> None:
    classifier = tiny_classifier(seed, is_single_label=True, probabilities="softmax", names=("a", "b", "c", "d"))
    classes = ("a", "b", "c", "d")
    classifier.labeling = classifier.labeling.model_copy(update={"classes": classes})
    paths = [tmp_path / "tree" / class_ / f"{number}.png" for class_ in classes for number in range(3)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(random_image()))
    scores = classifier.evaluate(tmp_path / "tree")
    predicted = [row["predicted"][0] for row in classifier.predict(paths)]
    right = [name == path.parent.name for name, path in zip(predicted, paths, strict=True)]
    assert list(scores) == ["map_macro", "map_micro", "map_weighted", "f1", "accuracy"]
    assert scores["accuracy"] == pytest.approx(sum(right) / len(right))
    (tmp_path / "tree" / "zebra").mkdir()
    paths[0].rename(tmp_path / "tree" / "zebra" / "0.png")
    with pytest.raises(DataError, match="zebra"):
        classifier.evaluate(tmp_path / "tree")


def test_a_folder_gives_the_same_classifier(classifier: ImageClassifier, model_dir: str, paths: list[str]) -> None:
    random_state = torch.get_rng_state()
    loaded = load_model(model_dir, device="cpu")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert isinstance(loaded, ImageClassifier)
    assert loaded.predict(paths) == classifier.predict(paths)
    assert (loaded.labeling, loaded.preparation) == (classifier.labeling, classifier.preparation)


def test_bf16_gives_nearly_the_same_probabilities(
    classifier: ImageClassifier, model_dir: str, paths: list[str]
) -> None:
    loaded = load_model(model_dir, device="cpu", precision="bf16")
    assert isinstance(loaded, ImageClassifier) and loaded.precision.name == "bf16"
    pixels = torch.randint(256, (5, 3, *classifier.preparation.height_and_width), dtype=torch.uint8)
    found, expected = loaded.probabilities(pixels), classifier.probabilities(pixels)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("part, key, value", [("labeling", "classes", ["a"]), ("preparation", "width", 40)])
def test_parts_that_do_not_fit_are_an_error(model_dir: str, part: str, key: str, value: Any) -> None:
    path = Path(model_dir) / "config.json"
    config = json.loads(path.read_text())
    config[part][key] = value
    path.write_text(json.dumps(config))
    seal(model_dir)
    with pytest.raises(ModelFolderError, match="do not fit"):
        load_model(model_dir)


def test_names_are_distinct() -> None:
    with pytest.raises(ValidationError, match="names must differ"):
        LabelMap(classes=("a", "b"), names=("x", "x"), thresholds=(0.5, 0.5))


def test_a_image_without_pixels(classifier: ImageClassifier) -> None:
    (row,) = classifier.predict([torch.empty(3, 0, 4, dtype=torch.uint8)])
    assert row == {"image": 0, "error": "no pixels"}


def test_classes_are_sorted_and_distinct() -> None:
    for classes in (("b", "a"), ("a", "a")):
        with pytest.raises(ValidationError, match="sorted"):
            LabelMap(classes=classes, names=("x", "y"), thresholds=(0.5, 0.5))


def test_predict_takes_files_and_folders(
    run: Run, model_dir: str, paths: list[str], classifier: ImageClassifier
) -> None:
    folder = os.path.commonpath(paths)
    code, lines, _ = run("predict", model_dir, paths[5], "/nothing", folder, "--batch-size", "3", "--device", "cpu")
    rows = [json.loads(line) for line in lines]
    assert code == 0
    assert [row["image"] for row in rows] == [paths[5], "/nothing", *paths]
    for row, expected in zip(rows[2:], classifier.predict(paths), strict=True):  # in other company: not to the last bit
        assert row["labels"] == pytest.approx(expected["labels"], abs=1e-5)
        assert row["thresholds"] == expected["thresholds"]
    assert set(rows[1]) == {"image", "error"}


def test_evaluate_prints_scores_of_the_same_path(
    run: Run, model_dir: str, tmp_path: Path, classifier: ImageClassifier
) -> None:
    write_openimages(tmp_path, "test", 20)
    images, annotations = str(tmp_path / "test"), str(tmp_path / "test.csv")
    code, lines, _ = run("evaluate", model_dir, "--images", images, "--annotations", annotations, "--json")
    assert code == 0 and json.loads(lines[0]) == pytest.approx(classifier.evaluate(images, annotations))
    code, lines, _ = run("evaluate", model_dir, "--images", images, "--annotations", annotations)
    assert [line.split("\t")[0] for line in lines] == ["map_macro", "map_micro", "map_weighted", "f1"]
    assert "threshold:best-per-class-on-validation" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "MODEL"], 2, "IMAGE..."),
        (["predict", "MODEL", "x.png", "--beam", "3"], 2, "--beam does not belong to predict for image_classification"),
        (["predict", "MODEL", "x.png", "--input", "f"], 2, "--input does not belong"),
        (["predict", "MODEL", "EMPTY"], 1, "no images"),
        (["evaluate", "MODEL"], 2, "--images DIR"),
        (["evaluate", "MODEL", "--source", "f"], 2, "--source does not belong"),
        (["evaluate", "MODEL", "--images", "/nothing"], 1, "/nothing"),
        (["evaluate", "TRANSLATOR", "--images", "x"], 2, "--images does not belong to evaluate for translation"),
    ],
)
def test_errors_are_one_line(
    run: Run, seed: int, tmp_path: Path, model_dir: str, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    if "TRANSLATOR" in arguments:
        tiny_translator(seed).export(tmp_path / "translator", {"task": "translation"})
    names = {"MODEL": model_dir, "TRANSLATOR": str(tmp_path / "translator"), "EMPTY": str(tmp_path / "empty")}
    found, lines, errors = run(*(names.get(argument, argument) for argument in arguments))
    assert (found, lines, errors.count("\n")) == (code, [], 1)
    assert message in errors


def test_a_grid_shows_each_image_in_its_place(seed: int) -> None:
    pixels = [torch.full((3, 4, 6), value, dtype=torch.uint8) for value in (10, 60, 110, 160, 210)]
    page = np.array(Image.open(io.BytesIO(grid_png([Tile(image, ["ü", "漢字 " * 20]) for image in pixels]))))
    height, width = page.shape[0] // 2, page.shape[1] // 4
    found = [
        int(page[row * height + 40, column * width + 40, 0]) for row, column in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0))
    ]
    assert found == [10, 60, 110, 160, 210]
