"""Labels of pictures by a trained model: `predict`, `evaluate` and validation while training all come here."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from transformer_architectures.architectures.vit.augmentation import PicturePreparation
from transformer_architectures.architectures.vit.config import VitModelConfig
from transformer_architectures.architectures.vit.picture_inputs import Input, pictures_of, prepared_pictures
from transformer_architectures.architectures.vit.transformer import VisionTransformerForImageClassification
from transformer_architectures.batch_work import BatchWork, one_by_one
from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.image_folder import read_image_folder
from transformer_architectures.datasets.openimages import read_openimages
from transformer_architectures.datasets.pictures import open_pictures
from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.errors import DataError, ModelFolderError, UsageError
from transformer_architectures.fitting_weights import model_with_weights
from transformer_architectures.loaded_model import LoadedModel
from transformer_architectures.metrics import (
    AnnotatedPairs,
    Interpolation,
    class_coverage,
    multi_label_scores,
    multi_label_signatures,
)
from transformer_architectures.model_folder import ModelFolder, write_model_folder
from transformer_architectures.training.precision import resolve_device

DEFAULT_BATCH_SIZE = 64

T = TypeVar("T")


class Labeling(StrictModel):
    """What the outputs of a model mean. Part of the model folder.

    Attributes:
        classes: names for the machine, in the order of the outputs; names: what to show, each once.
        thresholds: from which probability on a class is predicted, chosen on validation pictures.
        is_single_label: a picture shows exactly one class: the most probable one is predicted, whatever the thresholds.
        probabilities: ``sigmoid``, each class for itself, or ``softmax``, adding up to 1.
    """

    classes: tuple[str, ...] = Field(min_length=1)
    names: tuple[str, ...]
    thresholds: tuple[float, ...]
    is_single_label: bool = False
    probabilities: Literal["sigmoid", "softmax"] = "sigmoid"

    @model_validator(mode="after")
    def is_one_row_per_class(self) -> "Labeling":
        if not len(self.classes) == len(self.names) == len(self.thresholds):
            raise ValueError("classes, names and thresholds must be equally many")
        if len(set(self.names)) < len(self.names):
            raise ValueError("names must differ: predictions are told by them")
        if list(self.classes) != sorted(set(self.classes)):
            raise ValueError("classes must be sorted, each once: readers of labels number them so")
        return self


@dataclass(frozen=True)
class LabeledPixels:
    """Prepared pictures with what is known of their labels: what scoring needs of a batch."""

    pixels: UInt8[Tensor, "batch 3 height width"]
    labels: Float32[Tensor, "batch classes"]
    masks: Float32[Tensor, "batch classes"]


class PictureClassifier(LoadedModel):
    """A model with its preparation of pictures and its classes; computes where the model is, unless ``device`` says otherwise."""

    command_options: ClassVar[Mapping[str, frozenset[str]]] = {
        "predict": frozenset({"IMAGE...", "--batch-size"}),
        "evaluate": frozenset({"--images", "--annotations", "--interpolation", "--batch-size"}),
    }

    model: VisionTransformerForImageClassification

    def __init__(
        self,
        model: VisionTransformerForImageClassification,
        preparation: PicturePreparation,
        labeling: Labeling,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, device)
        self.preparation, self.labeling = preparation, labeling

    @classmethod
    def from_folder(cls, folder: ModelFolder, device: str) -> "PictureClassifier":
        """Reads a model folder whose files have been checked."""
        try:
            parts = {name: json.dumps(folder.config[name]) for name in ("model", "preparation", "labeling")}
            config = VitModelConfig.model_validate_json(parts["model"])
            preparation = PicturePreparation.model_validate_json(parts["preparation"])
            labeling = Labeling.model_validate_json(parts["labeling"])
            if config.num_labels != len(labeling.classes) or config.height_and_width != preparation.height_and_width:
                raise ValueError("model, preparation and labeling are of different models")
            model = model_with_weights(lambda: VisionTransformerForImageClassification(config), folder.weights())
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelFolderError(f"{folder.path}: config.json and model.safetensors do not fit: {reason}") from None
        return cls(model.eval(), preparation, labeling, resolve_device(device))

    def export(self, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        config = {
            "task": "image_classification",
            "architecture": "vit",
            "model": self.model.config.to_folder(),
            "preparation": self.preparation.model_dump(mode="json"),
            "labeling": self.labeling.model_dump(mode="json"),
        }
        write_model_folder(folder, self.model.state_dict(), config, results)

    # ---------------------------------------------------------------- from Python
    def predict(self, images: Sequence[Input], *, batch_size: int = DEFAULT_BATCH_SIZE) -> list[dict[str, Any]]:
        """One row for each picture, in order, as `tarch predict` writes them::

            {"image": path, "labels": {name: probability}, "predicted": [name, ...], "thresholds": {name: probability}}
            {"image": path, "error": reason}        of a picture that cannot be used

        Args:
            images: paths, Pillow images, or 8-bit tensors ``(3, height, width)``. What has no path is named by its place in the list.
        """
        if isinstance(images, (str, bytes, os.PathLike, Tensor, Image.Image)):
            raise UsageError("predict takes a list of pictures")
        return list(self._rows(list(images), batch_size))

    def evaluate(
        self,
        images: str | Path,
        annotations: str | Path | None = None,
        *,
        interpolation: Interpolation = "none",
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> dict[str, float]:
        """Scores on pictures in the layout of OpenImages; without ``annotations``, on an image folder, whose classes are its folders'.

        Thresholds of F1 are those of the model. Pictures that cannot be used and classes that cannot be scored are left out, and how
        many they are is said.

        Args:
            interpolation: of average precision: ``none``, or ``voc2007`` for the 11 points of the PASCAL VOC challenge of that year.

        Raises:
            DataError: nothing can be read, a folder is of no class of the model, or no picture can be used.
            UsageError: there is no such interpolation.
        """
        if interpolation not in get_args(Interpolation):
            raise UsageError(f"interpolation {interpolation!r}: expected one of {', '.join(get_args(Interpolation))}")
        pairs = self.annotated_pairs(self._labeled(images, annotations, batch_size))
        coverage = class_coverage(*pairs.class_counts())
        if coverage.skipped or coverage.without_negative:
            print(coverage, file=sys.stderr)
        return multi_label_scores(pairs, np.array(self.labeling.thresholds), interpolation)

    # ---------------------------------------------------------------- the commands
    def predict_command(self, image: Sequence[str] = (), batch_size: int = DEFAULT_BATCH_SIZE) -> Iterator[str]:
        """A JSON line for each picture: files as they are given, of a folder all pictures in it, sorted."""
        if not image:
            raise UsageError("pictures are named on the command line: files or folders, IMAGE...")
        paths = [path for given in image for path in pictures_of(given)]
        return (json.dumps(row, ensure_ascii=False) for row in self._rows(paths, batch_size))

    def evaluate_command(
        self,
        images: str | None = None,
        annotations: str | None = None,
        interpolation: Interpolation = "none",
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Scores on verified labels, and their signatures."""
        if images is None:
            raise UsageError(
                "pictures are evaluated with --images DIR, and --annotations CSV unless folders are classes"
            )
        scores = self.evaluate(images, annotations, interpolation=interpolation, batch_size=batch_size)
        return scores, multi_label_signatures(None, interpolation, single_label="accuracy" in scores)

    # ---------------------------------------------------------------- how it is done
    def probabilities(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Float32[Tensor, "batch classes"]:
        """One batch of prepared pictures through the model, on its device. Dropout is off, whatever the model's mode."""
        with self.computing():
            logits: Tensor = self.model(self.preparation.normalize(pixels.to(self.device, non_blocking=True))).float()
            return logits.softmax(dim=1) if self.labeling.probabilities == "softmax" else logits.sigmoid()

    def annotated_pairs(self, batches: Iterable[LabeledPixels], work: BatchWork = one_by_one) -> AnnotatedPairs:
        """The probabilities of everything that is verified.

        Args:
            work: computes the batches.
        """
        pairs = AnnotatedPairs(len(self.labeling.classes))
        for found, labels, masks in work(batches, self._with_labels):
            pairs.add(found, labels, masks)
        return pairs

    def _with_labels(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        return self.probabilities(batch.pixels).cpu(), batch.labels, batch.masks

    def predicted(self, probabilities: Float32[Tensor, "classes"]) -> list[str]:
        """Names of the classes that one picture is said to show, the most probable first."""
        names = self.labeling.names
        ranked = probabilities.argsort(descending=True, stable=True).tolist()
        if self.labeling.is_single_label:
            return [names[ranked[0]]]
        values = probabilities.tolist()
        return [names[index] for index in ranked if values[index] >= self.labeling.thresholds[index]]

    def _rows(self, inputs: Sequence[Input], batch_size: int) -> Iterator[dict[str, Any]]:
        labeling = self.labeling
        thresholds = dict(zip(labeling.names, labeling.thresholds, strict=True))
        prepared = prepared_pictures(inputs, self.preparation)
        named = zip(inputs, prepared, range(len(inputs)), strict=True)
        for batch in _batches(named, batch_size):
            usable = [found for _, found, _ in batch if isinstance(found, Tensor)]
            scored = iter(self.probabilities(torch.stack(usable)).cpu() if usable else ())
            for given, found, place in batch:
                name = os.fspath(given) if isinstance(given, (str, os.PathLike)) else place
                if not isinstance(found, Tensor):
                    yield {"image": name, "error": found}
                    continue
                of_picture = next(scored)
                yield {
                    "image": name,
                    "labels": dict(
                        zip(labeling.names, [round(value, 6) for value in of_picture.tolist()], strict=True)
                    ),
                    "predicted": self.predicted(of_picture),
                    "thresholds": thresholds,
                }

    def _labeled(self, images: str | Path, annotations: str | Path | None, batch_size: int) -> Iterator[LabeledPixels]:
        """All pictures that can be used, with their labels; says how many cannot."""
        rejections = RejectionLog()
        if annotations is None:
            labels, source = read_image_folder(images, self.labeling.classes)
        else:
            source = open_pictures(images)
            labels = read_openimages(annotations, source, classes=self.labeling.classes, rejections=rejections)
        for note in labels.notes:
            print(note, file=sys.stderr)
        unusable = RejectionLog()
        for batch in _batches(enumerate(prepared_pictures(labels.picture_ids, self.preparation, source)), batch_size):
            for _, reason in batch:
                if not isinstance(reason, Tensor):
                    unusable.reasons[reason] += 1
            usable = [(row, found) for row, found in batch if isinstance(found, Tensor)]
            if usable:
                known, masks = map(torch.from_numpy, labels.targets_of(row for row, _ in usable))
                yield LabeledPixels(torch.stack([found for _, found in usable]), known, masks)
        if len(unusable):
            print(
                f"{len(unusable)} of {len(labels)} pictures cannot be used and are not scored ({_reasons(unusable)})",
                file=sys.stderr,
            )
        if len(unusable) == len(labels):
            raise DataError(f"{images}: no picture can be used")


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items; the last one has what is left."""
    if size < 1:
        raise UsageError(f"batch_size must be at least 1, not {size}")
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _reasons(rejections: RejectionLog) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in rejections.reasons.most_common(5))


__all__ = ["LabeledPixels", "Labeling", "PictureClassifier"]
