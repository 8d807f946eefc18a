"""The image task's data: every usable image once, the same pixels for any number of workers and after a resume."""

import json
import multiprocessing
import os
import random
import signal
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images_on_disk import CLASSES, encoded, image_id, random_image, write_annotations, write_openimages
from pydantic import ValidationError
from torch import Tensor

from transformer_architectures.architectures.vit.data import LabeledBatch, TransformerDataModule, VitDataConfig
from transformer_architectures.datasets.images.image_decoding import decode_image_bytes
from transformer_architectures.datasets.images.image_ids import ImageIds
from transformer_architectures.datasets.loading import Loading
from transformer_architectures.datasets.splits import is_set_apart
from transformer_architectures.errors import DataError
from transformer_architectures.training.task import Batch, DataModule

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "miml_openimages"
LIVELY = {"auto_augment": "trivial", "erasing": 0.3, "mixup": 0.4, "cutmix": 1.0, "mixed": 0.8}
Labels = dict[str, dict[str, int]]


@pytest.fixture
def labels(tmp_path: Path, seed: int) -> Labels:
    """Labels of 70 images that are written to ``train/``; some 14 of them are validation images."""
    return write_openimages(tmp_path, "train", 70)


def make(folder: Path, seed: int = 3, train: dict[str, Any] | None = None, **changes: Any) -> TransformerDataModule:
    names = ("batch_size", "loading", "rejected_path", "color_statistics", "image_size")
    options = {"batch_size": 8, "image_size": (16, 24)}
    options.update({name: changes.pop(name) for name in names if name in changes})
    config = {
        "train": train or {"pictures": str(folder / "train"), "annotations": str(folder / "train.csv")},
        "cache_dir": str(folder / "cache"),
        "validation_fraction": 0.2,
        **changes,
    }
    data = TransformerDataModule(VitDataConfig.model_validate_json(json.dumps(config)), seed=seed, **options)
    data.setup()
    return data


def plain(batch: LabeledBatch) -> tuple[Any, ...]:
    return batch.indices, batch.pixels.tolist(), batch.labels.tolist(), batch.masks.tolist()


def training_ids(labels: Labels) -> list[str]:
    return sorted(id_ for id_ in labels if not is_set_apart(id_, 0.2))


def test_it_is_what_the_loop_needs(tmp_path: Path, labels: Labels) -> None:
    data = make(tmp_path)
    assert isinstance(data, DataModule)
    assert data.row_counts()["train"] == len(data.dataset("train"))
    assert data.digest == make(tmp_path).digest
    assert data.digest != make(tmp_path, hidden_negatives=1.0).digest
    renamed, train = make(tmp_path), data.dataset("train")
    names = ImageIds.from_strings(f"{image_id}x" for image_id in train.labels.image_ids)
    split = replace(train.split, labels=replace(train.labels, image_ids=names))
    renamed._datasets["train"] = replace(train, split=split)
    assert data.digest != renamed.digest
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Batch)
    assert batch.num_labels == batch.num_tokens == batch.num_positions == len(batch.indices) == 8
    assert batch.pixels.shape == (8, 3, 16, 24) and batch.labels.shape == batch.masks.shape == (8, 4)
    assert batch.to(torch.device("cpu")) is batch


def test_images_are_normalised_with_the_training_parts_colours(tmp_path: Path, labels: Labels) -> None:
    data = make(tmp_path, image_size=(20, 20))
    train = data.dataset("train")
    images = [train.image(row).double().flatten(1) / 255 for row in range(len(train))]
    mean = torch.stack([image.mean(1) for image in images]).mean(0)
    assert data.preparation.mean == pytest.approx(mean.tolist(), abs=1e-5)
    batch = next(iter(data.val_dataloader()))
    scaled = batch.images * torch.tensor(data.preparation.std)[:, None, None] + mean[:, None, None]
    torch.testing.assert_close(scaled.double() * 255, batch.pixels.double(), rtol=0, atol=1e-2)
    given = ((0.5, 0.4, 0.3), (0.2, 0.1, 0.2))
    assert make(tmp_path, color_statistics=given).preparation.mean == given[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_usable_image_once_with_its_labels(tmp_path: Path, labels: Labels, num_workers: int) -> None:
    data = make(tmp_path, num_workers=num_workers, augmentation={"crop": "none", "flip": 0.0})
    ids = training_ids(labels)
    assert list(data.dataset("train").labels.image_ids) == ids
    batches = list(data.train_dataloader(epoch=1))
    assert len(batches) == data.batches_per_epoch(1) == -(-len(ids) // 8)
    assert sorted(row for batch in batches for row in batch.indices) == list(range(len(ids)))
    for batch in batches:
        for place, row in enumerate(batch.indices):
            known = labels[ids[row]]
            assert batch.masks[place].tolist() == [float(class_ in known) for class_ in data.classes]
            assert batch.labels[place].tolist() == [float(known.get(class_, 0)) for class_ in data.classes]
            image = decode_image_bytes((tmp_path / "train" / f"{ids[row]}.png").read_bytes())
            assert torch.equal(batch.pixels[place], data.preparation(image))
    assert data.classes == tuple(sorted(CLASSES))


def test_any_number_of_workers_gives_the_same_images(tmp_path: Path, labels: Labels) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    made = []
    for num_workers in (0, 1, 2):
        data = make(tmp_path, num_workers=num_workers, augmentation=LIVELY)
        made.append([plain(batch) for batch in data.train_dataloader(2, 1)])
        list(data.val_dataloader())
    assert made[0] == made[1] == made[2]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # type: ignore[union-attr]


def test_workers_ignore_what_stops_the_run(tmp_path: Path, labels: Labels) -> None:
    loader = make(tmp_path, num_workers=2, augmentation={"crop": "none"}).train_dataloader()
    batches = iter(loader)
    first = [next(batches), next(batches)]  # one of each worker: both are at work
    for worker in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(worker.pid or 0, number)
    assert sum(len(batch.indices) for batch in [*first, *batches]) == len(training_ids(labels))


def test_a_resumed_run_sees_the_same_augmented_images(tmp_path: Path, labels: Labels) -> None:
    undisturbed = make(tmp_path, augmentation=LIVELY)
    epochs = [[plain(batch) for batch in undisturbed.train_dataloader(epoch)] for epoch in range(2)]
    for position in range(undisturbed.batches_per_epoch(1) + 1):
        torch.manual_seed(position)  # another process, with another past
        resumed = make(tmp_path, augmentation=LIVELY)
        assert [plain(batch) for batch in resumed.train_dataloader(1, position)] == epochs[1][position:]
    # The same images look different in another epoch, and with another seed.
    pixels = [{row: image for batch in epoch for row, image in zip(*batch[:2], strict=True)} for epoch in epochs]
    assert sum(pixels[0][row] == pixels[1][row] for row in pixels[0]) < len(pixels[0]) / 4
    other = [plain(batch) for batch in make(tmp_path, seed=4, augmentation=LIVELY).train_dataloader(1)]
    assert other != epochs[1]


def test_a_image_is_augmented_alike_in_any_batch(tmp_path: Path, labels: Labels) -> None:
    augmentation = {"auto_augment": "randaugment"}  # not mixed: partners are those of the batch
    one = make(tmp_path, augmentation=augmentation, batch_size=5)
    ranks = [make(tmp_path, augmentation=augmentation, loading=Loading(rank, 2), batch_size=4) for rank in range(2)]

    def by_row(*modules: TransformerDataModule) -> dict[int, Tensor]:
        loaded = [batch for module in modules for batch in module.train_dataloader(3)]
        batches = [batch for batch in loaded if batch.num_labels]  # of a last batch of one image, a rank has a spare
        return {row: pixels for batch in batches for row, pixels in zip(batch.indices, batch.pixels, strict=True)}

    alone, together = by_row(one), by_row(*ranks)
    assert together.keys() == alone.keys()
    assert all(torch.equal(pixels, alone[row]) for row, pixels in together.items())


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_mixtures_are_the_same_for_any_number_of_ranks(tmp_path: Path, labels: Labels, world_size: int) -> None:
    """Partners come from the whole batch; a rank for which no image is left computes one that does not count."""
    options: dict[str, Any] = {"augmentation": {"mixup": 0.7, "cutmix": 0.9}, "batch_size": 6}
    one = make(tmp_path, **options)
    ranks = [make(tmp_path, **options, loading=Loading(rank, world_size)) for rank in range(world_size)]
    for batch, *shares in zip(one.train_dataloader(2), *(module.train_dataloader(2) for module in ranks), strict=True):
        counted = [share for share in shares if share.num_labels]
        assert tuple(index for share in shares for index in share.indices) == batch.indices
        for name in ("pixels", "labels", "masks"):
            assert torch.equal(torch.cat([getattr(share, name) for share in counted]), getattr(batch, name))
        assert all(len(share.batch.indices) == 1 for share in shares if not share.num_labels)


def test_equal_images_do_not_stay_equal(tmp_path: Path, labels: Labels) -> None:
    content = encoded(random_image())
    for id_ in labels:
        (tmp_path / "train" / f"{id_}.png").write_bytes(content)
    data = make(tmp_path)
    epochs = [torch.cat([batch.pixels for batch in data.train_dataloader(epoch)]) for epoch in range(2)]
    assert len(torch.unique(torch.cat(epochs), dim=0)) > 1.9 * len(training_ids(labels))


def test_mixing_keeps_unknown_labels_unknown(tmp_path: Path, labels: Labels) -> None:
    data = make(tmp_path, augmentation={"mixup": 1.0, "crop": "none", "flip": 0.0})
    plainly = make(tmp_path, augmentation={"crop": "none", "flip": 0.0})
    for mixed, batch in zip(data.train_dataloader(), plainly.train_dataloader(), strict=True):
        assert mixed.indices == batch.indices
        unknown = (batch.masks == 0) & (batch.masks.roll(1, 0) == 0)
        assert (mixed.masks[unknown] == 0).all() and (mixed.labels[mixed.masks == 0] == 0).all()
        assert float(mixed.masks.sum()) == pytest.approx(float(batch.masks.sum()), rel=1e-5)
        only_own = (batch.masks == 1) & (batch.masks.roll(1, 0) == 0) & (mixed.masks > 0)
        torch.testing.assert_close(mixed.labels[only_own], batch.labels[only_own])
    assert not any(
        (batch.pixels - again.pixels).any() for batch, again in zip(data.val_dataloader(), plainly.val_dataloader())
    )


def test_every_batch_of_every_epoch_is_mixed_in_its_own_way(tmp_path: Path, labels: Labels) -> None:
    data = make(tmp_path, augmentation={"mixup": 1.0})
    shares = [
        tuple(sorted({round(value, 4) for value in batch.masks.flatten().tolist()} - {0.0, 1.0}))
        for epoch in range(3)
        for batch in data.train_dataloader(epoch)
        if len(batch.indices) > 1
    ]
    assert len(set(shares)) >= len(shares) - 1


def test_validation_is_a_split_by_id(tmp_path: Path, labels: Labels) -> None:
    held_out = {id_ for id_ in labels if is_set_apart(id_, 0.2)}
    assert set(make(tmp_path).dataset("validation").labels.image_ids) == held_out
    # More images, in another order: none changes sides.
    more = {image_id(): {CLASSES[0]: 1} for _ in range(30)}
    for id_ in more:
        (tmp_path / "train" / f"{id_}.png").write_bytes(encoded(random_image()))
    everything = list({**labels, **more}.items())
    random.shuffle(everything)
    write_annotations(tmp_path / "train.csv", dict(everything))
    data = make(tmp_path)
    assert set(data.dataset("validation").labels.image_ids) & set(labels) == held_out
    assert not set(data.dataset("train").labels.image_ids) & held_out


def test_evaluation_parts_are_whole_in_order_and_of_the_training_classes(tmp_path: Path, labels: Labels) -> None:
    held_out = {name: write_openimages(tmp_path, name, 11) for name in ("validation", "test")}
    parts = {
        name: {"pictures": str(tmp_path / name), "annotations": str(tmp_path / f"{name}.csv")} for name in held_out
    }
    data = make(tmp_path, **parts)
    assert len(data.dataset("train")) == 70 and data.test_dataloader() is not None
    for name, loader in (("validation", data.val_dataloader()), ("test", data.test_dataloader())):
        assert loader is not None
        batches = list(loader)
        assert [row for batch in batches for row in batch.indices] == list(range(11))
        assert data.dataset(name).labels.classes == data.classes
        found = [id_ for id_ in sorted(held_out[name])]
        masks = torch.cat([batch.masks for batch in batches]).tolist()
        assert masks == [[float(class_ in held_out[name][id_]) for class_ in data.classes] for id_ in found]
    assert make(tmp_path).test_dataloader() is None


def test_images_in_tar_shards(tmp_path: Path, labels: Labels) -> None:
    files = sorted((tmp_path / "train").iterdir())
    (tmp_path / "shards").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as shard:
            for file in files[number::3]:
                shard.add(file, f"train/{file.name}")
    train = {"pictures": str(tmp_path / "shards"), "annotations": str(tmp_path / "train.csv")}
    expected = [plain(batch) for batch in make(tmp_path).train_dataloader()]
    assert [plain(batch) for batch in make(tmp_path, train=train, num_workers=2).train_dataloader()] == expected


@pytest.mark.parametrize("zipped", [False, True])
def test_an_image_folder_has_one_label_and_no_unknown(tmp_path: Path, seed: int, zipped: bool) -> None:
    for class_ in ("cat", "dog", "emu"):
        (tmp_path / "tree" / "any" / class_).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "tree" / "any" / class_ / f"{number}.png").write_bytes(encoded(random_image()))
    path = tmp_path / "tree"
    if zipped:
        path = tmp_path / "tree.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (tmp_path / "tree").rglob("*.png"):
                archive.write(file, file.relative_to(tmp_path))
    data = make(tmp_path, train={"image_folder": str(path)}, num_workers=2 if zipped else 0)
    assert data.classes == ("cat", "dog", "emu") and data.dataset("validation").labels.is_single_label
    seen = 0
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert (batch.masks == 1).all() and (batch.labels.sum(1) == 1).all()
        seen += len(batch.indices)
    assert seen == 36
    with pytest.raises(DataError, match="hidden_negatives"):
        make(tmp_path, train={"image_folder": str(path)}, hidden_negatives=0.5)


def test_bad_images_are_listed_and_left_out(tmp_path: Path, labels: Labels, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [*training_ids(labels)[:2], next(id_ for id_ in labels if is_set_apart(id_, 0.2))]
    for id_, content in zip(bad, (b"", b"not an image", encoded(random_image(300, 300))[:2000]), strict=True):
        (tmp_path / "train" / f"{id_}.png").write_bytes(content)
    data = make(tmp_path, max_rejected_fraction=0.2, rejected_path=tmp_path / "rejected.jsonl")
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert {entry["file"] for entry in rejected} == set(bad)
    assert all(entry["reason"] for entry in rejected)
    assert list(data.dataset("train").labels.image_ids) == training_ids(labels)[2:]
    assert bad[2] not in list(data.dataset("validation").labels.image_ids)
    assert sum(len(batch.indices) for batch in data.train_dataloader()) == len(training_ids(labels)) - 2
    assert f"train: 2 of {len(training_ids(labels))} images cannot be used" in capsys.readouterr().err
    with pytest.raises(DataError, match="of the train images were rejected, over Data.max_rejected_fraction 1.00%"):
        make(tmp_path, max_rejected_fraction=0.01, rejected_path=tmp_path / "again.jsonl")
    assert len((tmp_path / "again.jsonl").read_text().splitlines()) == 2


def test_a_image_that_breaks_during_a_run_is_named(tmp_path: Path, labels: Labels) -> None:
    data = make(tmp_path)
    (tmp_path / "train" / f"{training_ids(labels)[0]}.png").write_bytes(b"")
    with pytest.raises(DataError, match=f"{training_ids(labels)[0]} has changed since it was checked: empty file"):
        list(data.train_dataloader())


def test_stored_pixels_are_those_of_the_files(tmp_path: Path, labels: Labels) -> None:
    (tmp_path / "train" / f"{training_ids(labels)[3]}.png").write_bytes(b"bad")
    files, stored = (make(tmp_path, cache_decoded=flag, max_rejected_fraction=0.2) for flag in (False, True))
    expected = [plain(batch) for batch in files.train_dataloader()]
    for image in (tmp_path / "train").iterdir():
        image.write_bytes(b"never read again")
    assert [plain(batch) for batch in stored.train_dataloader()] == expected


def test_num_samples_is_a_fixed_choice(tmp_path: Path, labels: Labels) -> None:
    chosen = [list(make(tmp_path, num_samples=count).dataset("train").labels.image_ids) for count in (10, 20, 999)]
    assert len(chosen[0]) == 10 and set(chosen[0]) < set(chosen[1]) < set(chosen[2]) == set(training_ids(labels))
    assert len(make(tmp_path, num_samples=10).dataset("validation")) == len(labels) - len(chosen[2])


def test_negatives_of_the_training_part_alone_are_hidden(tmp_path: Path, labels: Labels) -> None:
    plainly, hidden = make(tmp_path), make(tmp_path, hidden_negatives=1.0)
    for part in ("train", "validation"):
        known, left = (data.dataset(part).labels.class_frequencies() for data in (plainly, hidden))
        assert left.positives.tolist() == known.positives.tolist()
        expected = known.positives if part == "train" else known.annotated
        assert left.annotated.tolist() == expected.tolist()


def test_the_embedded_digits(tmp_path: Path, seed: int) -> None:
    train = {"digits": {"train": 60, "validation": 20, "test": 30, "seed": seed}}
    data = make(tmp_path, train=train, image_size=(40, 40), cache_decoded=True)
    assert data.names == tuple("0123456789")
    assert [len(data.dataset(part)) for part in ("train", "validation", "test")] == [60, 20, 30]
    assert next(iter(data.train_dataloader())).masks.mean() < 1
    assert all((batch.masks == 1).all() for batch in data.val_dataloader())


def test_nothing_to_validate_on_is_an_error(tmp_path: Path, labels: Labels) -> None:
    with pytest.raises(DataError, match="validation_fraction"):
        make(tmp_path, validation_fraction=1e-9)


FILES = {"pictures": "p", "annotations": "a.csv"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train": {"pictures": "p"}}, "belong together"),
        ({"train": {}}, "exactly one of"),
        ({"train": {**FILES, "image_folder": "f"}}, "exactly one of"),
        ({"train": {"image_folder": "f", "machine_labels": "m.csv"}}, "belong to annotations"),
        ({"train": {**FILES, "machine_confidence": 0.5}}, "nothing without machine_labels"),
        ({"train": {"digits": {}}, "test": FILES}, "their own validation and test"),
        ({"train": FILES, "validation": {"digits": {}}}, "digits belong to train"),
        ({"train": {"image_folder": "f"}, "classes_trainable": "t"}, "belong to annotations"),
        ({"train": FILES, "resize": "squash", "crop_fraction": 0.9}, "cuts nothing off"),
        ({"train": FILES, "augmentation": {"flop": 0.5}}, "Extra inputs"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VitDataConfig.model_validate_json(json.dumps(config))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the photos of miml_openimages are not beside the repository ({REAL})")
def test_real_photos(tmp_path: Path, seed: int) -> None:
    annotations = REAL / "annotations"
    parts = {
        part: {
            "pictures": str(REAL / part),
            "annotations": str(annotations / f"{part}-annotations-human-imagelabels.csv"),
        }
        for part in ("train", "validation")
    }
    data = make(
        tmp_path,
        train=parts["train"],
        validation=parts["validation"],
        class_descriptions=str(annotations / "class-descriptions.csv"),
        num_samples=80,
        num_workers=2,
        augmentation=LIVELY,
        image_size=(64, 64),
        max_rejected_fraction=0.0,
    )
    assert data.names[:3] == ("Desert", "Mountains", "Sea") and len(data.dataset("validation")) == 200
    images = torch.cat([batch.images for batch in data.val_dataloader()])
    assert images.mean().abs() < 0.3 and 0.7 < images.std() < 1.3
    assert sum(len(batch.indices) for batch in data.train_dataloader()) == 80
