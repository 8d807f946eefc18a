"""The image task: what it takes from its data, where thresholds come from, and what it may start from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images_on_disk import CLASSES, encoded, random_image, write_openimages
from tiny_classifier import SIZES

from transformer_architectures import load_model
from transformer_architectures.architectures.vit.data import TransformerDataModule
from transformer_architectures.architectures.vit.published import config_to_timm, timm_weight_map
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.datasets.images.data_config import ImageDataConfig
from transformer_architectures.errors import ConfigError, DataError
from transformer_architectures.metrics import AnnotatedPairs, multi_label_scores
from transformer_architectures.pretrained.start import PretrainedStart, read_pretrained
from transformer_architectures.tasks.image_classification import (
    ImageClassificationTask,
    ImageClassifier,
    ImageTrainingConfig,
)
from transformer_architectures.tasks.images.multi_label_loss import multi_label_loss
from transformer_architectures.training.task import Task
from transformer_architectures.utils.map_batches import map_batches

MODEL: dict[str, Any] = {**SIZES, "image_size": [16, 24]}


def make(
    folder: Path,
    model: dict[str, Any] = MODEL,
    training: dict[str, Any] = {},
    data: dict[str, Any] | None = None,
    start: PretrainedStart | None = None,
) -> ImageClassificationTask:
    if data is None:
        parts = {
            part: {"pictures": str(folder / part), "annotations": str(folder / f"{part}.csv")}
            for part in ("train", "validation", "test")
        }
        data = {**parts, "cache_dir": str(folder / "cache")}
    config = ImageTrainingConfig.model_validate_json(json.dumps({"max_steps": 1, "batch_size": 7, **training}))
    model_config = VitModelConfig.model_validate_json(json.dumps(model))
    size = (model_config if start is None else start.model_config).height_and_width
    module = TransformerDataModule(ImageDataConfig.model_validate_json(json.dumps(data)), size, seed=1, batch_size=7)
    module.setup()
    return ImageClassificationTask(VisionTransformerForImageClassification, model_config, config, module, start)


@pytest.fixture
def files(tmp_path: Path, seed: int) -> Path:
    for part, size in (("train", 40), ("validation", 25), ("test", 20)):
        write_openimages(tmp_path, part, size)
    return tmp_path


def lively(task: ImageClassificationTask) -> VisionTransformerForImageClassification:
    model = task.build_model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_it_is_a_task_and_the_model_has_the_classes_of_the_data(files: Path) -> None:
    task = make(files)
    assert isinstance(task, Task)
    assert task.build_model().config.num_labels == len(CLASSES)
    make(files, model={**MODEL, "num_labels": 4}).build_model()
    with pytest.raises(ConfigError, match="num_labels: 7, but the data have 4 classes"):
        make(files, model={**MODEL, "num_labels": 7}).build_model()


def test_a_softmax_needs_images_of_one_label(files: Path) -> None:
    with pytest.raises(ConfigError, match="softmax needs images of one label"):
        make(files, training={"loss": {"kind": "softmax"}}).build_model()


def test_scores_are_those_of_the_exported_folder(files: Path) -> None:
    """Thresholds are chosen on validation, and test sees those of its own weights whatever was scored in between."""
    task = make(files)
    one, other = lively(task), lively(task)
    scores = {name: task.evaluate(model, "validation", map_batches) for name, model in (("one", one), ("other", other))}
    assert scores["one"] != scores["other"]
    test = task.evaluate(one, "test", map_batches)
    task.export(one, files / "model", {})
    loaded = load_model(files / "model", device="cpu")
    assert isinstance(loaded, ImageClassifier)
    assert loaded.evaluate(files / "validation", files / "validation.csv", batch_size=7) == pytest.approx(scores["one"])
    assert loaded.evaluate(files / "test", files / "test.csv", batch_size=7) == pytest.approx(test)
    assert make(files).evaluate(one, "test", map_batches) == pytest.approx(test)  # validation was not scored before
    (row,) = task.samples(one, "test")[:1]
    (said,) = loaded.predict([next((files / "test").glob(f"{row['image']}.*"))])
    assert row["predicted"] == ", ".join(said["predicted"])


def test_the_baseline_gives_every_image_the_training_frequencies(files: Path) -> None:
    task = make(files)
    frequencies = []
    for class_ in CLASSES:
        values = [
            int(line.rsplit(",", 1)[1])
            for line in (files / "train.csv").read_text().splitlines()
            if f",{class_}," in line
        ]
        frequencies.append(sum(values) / len(values))
    pairs = AnnotatedPairs(len(CLASSES))
    for line in (files / "test.csv").read_text().splitlines()[1:]:
        _, _, class_, value = line.split(",")
        index = np.array([CLASSES.index(class_)])
        pairs.add_sparse(index, np.array(frequencies)[index], np.array([value == "1"]))
    found, expected = task.baseline("test"), multi_label_scores(pairs)
    for key in ("map_macro", "map_micro", "map_weighted"):
        assert found[key] == pytest.approx(expected[key])
    assert list(found) == [metric.name for metric in task.metrics] == list(expected)


def test_classes_that_no_score_is_of_are_said_before_training(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (files / "validation.csv").read_text().splitlines()
    kept = [row for row in rows if "/m/apple" not in row]
    (files / "validation.csv").write_text("\n".join(kept) + "\n")
    make(files)
    assert "validation: 3 classes scored" in (said := capsys.readouterr().err)
    assert "1 skipped (1 without annotation, 0 without a positive)" in said
    (files / "validation.csv").write_text("\n".join(row[:-1] + "0" if row[-1] == "1" else row for row in kept) + "\n")
    with pytest.raises(DataError, match="no image of the validation split is verified to show a class"):
        make(files)


def test_the_prior_is_the_share_of_training_images(files: Path) -> None:
    loss = {"unknown": "selective", "prior_threshold": 0.3}
    task = make(files, training={"loss": loss})
    model, batch = lively(task), next(iter(task.data.val_dataloader()))
    rows = (files / "train.csv").read_text().splitlines()
    prior = torch.tensor([sum(f",{class_},1" in row for row in rows) / 40 for class_ in CLASSES])
    expected = multi_label_loss(model(batch.images), batch.labels, batch.masks, task.config.loss, prior)
    torch.testing.assert_close(task.loss(model, batch), expected)


def test_lower_layers_move_less(files: Path) -> None:
    task = make(files, training={"layer_decay": 0.5})
    model = task.build_model()
    scales = {name: task.learning_rate_scale(model, name) for name, _ in model.named_parameters()}
    for name, scale in scales.items():
        block = int(name.split("blocks.")[1].split(".")[0]) if "blocks." in name else None
        is_top = name.startswith("head") or "final_norm" in name
        assert scale == (1.0 if is_top else 0.5**3 if block is None else 0.5 ** (2 - block)), name
    assert set(scales.values()) == {1.0, 0.5, 0.25, 0.125}


def trained_folder(files: Path) -> tuple[Path, VisionTransformerForImageClassification]:
    task = make(files)
    model = lively(task)
    task.export(model, files / "model", {})
    return files / "model", model


def test_a_model_folder_goes_on_with_its_head_and_colors(files: Path) -> None:
    folder, model = trained_folder(files)
    start = read_pretrained(VitModelConfig(pretrained=str(folder), dropout=0.3))
    assert start.color_statistics is not None
    found = make(files, model={"pretrained": str(folder)}, start=start).build_model()
    assert found.config.dropout == 0.3
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_registers_and_their_positions_may_be_named(files: Path) -> None:
    task = make(files, model={**MODEL, "num_registers": 3})
    task.export(lively(task), files / "model", {})
    asked = {"pretrained": str(files / "model"), "prefix_positions": True}
    assert read_pretrained(VitModelConfig.model_validate(asked)).model_config.num_prefix_positions == 4
    with pytest.raises(ConfigError, match="prefix_positions: False contradicts True"):
        read_pretrained(VitModelConfig.model_validate({**asked, "prefix_positions": False}))


def test_other_classes_and_another_size(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = trained_folder(files)
    for class_ in ("x", "y"):
        for number in range(12):
            path = tmp_path / "tree" / class_ / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(random_image()))
    asked = {"pretrained": str(folder), "image_size": 32}
    start = read_pretrained(VitModelConfig.model_validate(asked))
    data = {
        "train": {"image_folder": str(tmp_path / "tree")},
        "validation_fraction": 0.4,
        "cache_dir": str(tmp_path / "c"),
    }
    task = make(files, asked, {"loss": {"kind": "softmax"}}, data, start)
    capsys.readouterr()
    found = task.build_model()
    assert "drawn anew: head" in capsys.readouterr().err
    assert found.config.num_labels == 2 and found.config.height_and_width == (32, 32)
    for name, tensor in model.state_dict().items():
        if "positions" not in name and not name.startswith("head."):
            assert torch.equal(tensor, found.state_dict()[name]), name
    scores = task.evaluate(found, "validation", map_batches)
    assert list(scores) == ["map_macro", "map_micro", "map_weighted", "f1", "accuracy"]
    assert list(task.baseline("validation")) == [metric.name for metric in task.metrics] == list(scores)
    assert task.evaluate(found, "test", map_batches) == {}


def test_a_published_folder(files: Path) -> None:
    from safetensors.torch import save_file

    task = make(files, model={**SIZES, "image_size": 16})
    model, folder = lively(task), files / "published"
    folder.mkdir()
    published = config_to_timm(model.config)
    published["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1]}
    (folder / "config.json").write_text(json.dumps(published))
    save_file(timm_weight_map(model.config).to_theirs(model.state_dict()), folder / "model.safetensors")
    start = read_pretrained(VitModelConfig(pretrained=str(folder)))
    assert start.color_statistics == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    found = make(files, model={"pretrained": str(folder)}, start=start).build_model().state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found[name]) != name.startswith("head."), name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"embed_dim": 32}, "embed_dim: 32 contradicts 16"),
        ({"pooling": "mean"}, "contradicts"),
        ({"image_size": 18}, "must be divisible by patch_size 4"),
        ({"pretrained": "/nothing"}, "neither a model folder nor a published"),
    ],
)
def test_a_contradiction_is_a_config_error(files: Path, changes: dict[str, Any], message: str) -> None:
    folder, _ = trained_folder(files)
    with pytest.raises(ConfigError, match=message):
        read_pretrained(VitModelConfig.model_validate({"pretrained": str(folder), **changes}))
