"""Image classification: training on images with several labels, some of them unknown, and using the trained model."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from transformer_architectures.config import Sections, StrictModel
from transformer_architectures.datasets.images.augmentation import ImagePreparation
from transformer_architectures.datasets.images.data_config import ImageDataConfig
from transformer_architectures.datasets.images.data_module import ImageBatch, ImageDataModule
from transformer_architectures.datasets.images.image_folder import read_image_folder
from transformer_architectures.datasets.images.image_source import open_images
from transformer_architectures.datasets.images.openimages import read_openimages
from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.datasets.splits import Split
from transformer_architectures.errors import ConfigError, DataError, UsageError
from transformer_architectures.metrics import (
    AnnotatedPairs,
    Interpolation,
    best_thresholds,
    class_coverage,
    multi_label_scores,
    multi_label_signatures,
)
from transformer_architectures.metrics.metric import Metric, metrics
from transformer_architectures.pretrained.fitting_weights import in_order_of
from transformer_architectures.pretrained.published_folder import PublishedModel, numbered_classes
from transformer_architectures.tasks.images.image_inputs import Input, images_of, prepared_images
from transformer_architectures.tasks.images.image_report import augmented_grid, class_table, look_at, prediction_grid
from transformer_architectures.tasks.images.label_map import LabelMap
from transformer_architectures.tasks.images.multi_label_loss import MultiLabelLossConfig, multi_label_loss
from transformer_architectures.tasks.images.published_preparation import published_preparation
from transformer_architectures.tasks.predictor import Predictor, chunks
from transformer_architectures.tasks.task import PredictorTask, some_of
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.run import RunContext
from transformer_architectures.training.task import Artifact, Scores
from transformer_architectures.utils.map_batches import MapBatches, map_batches
from transformer_architectures.utils.option_models import Options, option, read_options

DEFAULT_BATCH_SIZE = 64
SHOWN_CLASSES = 10  # from either end
ROWS_AT_ONCE = 1024  # of labels that are scored without their images
REMEMBERED_THRESHOLDS = 8  # of how many weights

Thresholds = Float64[np.ndarray, "classes"]


# ==================================================================== using it
@dataclass(frozen=True)
class LabeledPixels:
    """Prepared images with what is known of their labels: what scoring needs of a batch."""

    pixels: UInt8[Tensor, "batch 3 height width"]
    labels: Float32[Tensor, "batch classes"]
    masks: Float32[Tensor, "batch classes"]


class ImageOptions(Options):
    """`predict` of an image classifier."""

    batch_size: int = option(DEFAULT_BATCH_SIZE, "the most inputs of a batch", ge=1)


class ImageScoreOptions(ImageOptions):
    """`evaluate` of an image classifier."""

    images: str | None = option(None, "images: a folder, a tar or a zip", command_only=True)
    annotations: str | None = option(None, "OpenImages labels (CSV); else folders are classes", command_only=True)
    interpolation: Interpolation = option("none", "of average precision")


class ImageClassifier(Predictor):
    """A model with its preparation of images and its classes; computes where the model is, unless ``device`` says otherwise."""

    task: ClassVar[str] = "image_classification"
    predict_options = ImageOptions
    evaluate_options = ImageScoreOptions
    folder_parts: ClassVar[Mapping[str, type[StrictModel]]] = {"preparation": ImagePreparation, "labeling": LabelMap}

    def __init__(
        self,
        model: nn.Module,
        preparation: ImagePreparation,
        labeling: LabelMap,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, device)
        self.preparation, self.labeling = preparation, labeling

    @classmethod
    def check_parts(cls, model_config: Any, **parts: Any) -> None:
        """Classes and image size must be those of the model."""
        if (
            model_config.num_labels != len(parts["labeling"].classes)
            or model_config.height_and_width != parts["preparation"].height_and_width
        ):
            raise ValueError("model, preparation and labeling are of different models")

    @classmethod
    def from_published(cls, found: PublishedModel, build: Callable[[Any], nn.Module], device: str) -> Predictor:
        """A published classifier, with the rows of its head in the order of their names: a `LabelMap` is sorted."""
        classes = found.classes or numbered_classes(found.config.num_labels)
        weights = in_order_of(sorted(classes), classes, found.weights, found.config.classifiers)
        return super().from_published(replace(found, weights=weights, classes=tuple(sorted(classes))), build, device)

    @classmethod
    def published_parts(cls, found: PublishedModel) -> dict[str, Any]:
        """Images are prepared as the folder says; `transformers` trains with one label for each unless ``problem_type`` says else."""
        several = found.content.get("problem_type") == "multi_label_classification"
        labeling = LabelMap(
            classes=found.classes,
            names=found.classes,
            thresholds=(0.5,) * len(found.classes),
            is_single_label=not several,
            probabilities="sigmoid" if several else "softmax",
        )
        return {"preparation": published_preparation(found), "labeling": labeling}

    # ---------------------------------------------------------------- from Python
    def predict(self, inputs: Sequence[Input], **options: Any) -> list[dict[str, Any]]:
        """One row for each image, in order, as `tarch predict` writes them::

            {"image": path, "labels": {name: probability}, "predicted": [name, ...], "thresholds": {name: probability}}
            {"image": path, "error": reason}        of an image that cannot be used

        Args:
            inputs: paths, Pillow images, or 8-bit tensors ``(3, height, width)``. What has no path is named by its place in the list.
        """
        if isinstance(inputs, (str, bytes, os.PathLike, Tensor, Image.Image)):
            raise UsageError("predict takes a list of images")
        return list(self._rows(list(inputs), self.read_predict_options(options).batch_size))

    def evaluate(
        self,
        images: str | Path,
        annotations: str | Path | None = None,
        **options: Any,
    ) -> dict[str, float]:
        """Scores on images in the layout of OpenImages; without ``annotations``, on an image folder, whose classes are its folders'.

        Thresholds of F1 are those of the model. Images that cannot be used and classes that cannot be scored are left out, and how
        many they are is said.

        Args:
            interpolation: of average precision: ``none``, or ``voc2007`` for the 11 points of the PASCAL VOC challenge of that year.

        Raises:
            DataError: nothing can be read, a folder is of no class of the model, or no image can be used.
            UsageError: there is no such interpolation.
        """
        given = read_options(ImageScoreOptions, options)
        pairs = self.annotated_pairs(self._labeled(images, annotations, given.batch_size))
        coverage = class_coverage(*pairs.class_counts())
        if coverage.skipped or coverage.without_negative:
            print(coverage, file=sys.stderr)
        return multi_label_scores(pairs, np.array(self.labeling.thresholds), given.interpolation)

    # ---------------------------------------------------------------- the commands
    def predict_lines(self, inputs: Sequence[str], options: Any) -> Iterator[str]:
        """A JSON line for each image: files as they are given, of a folder all images in it, sorted."""
        if not inputs:
            raise UsageError("images are named on the command line: files or folders, IMAGE...")
        paths = [path for given in inputs for path in images_of(given)]
        return (json.dumps(row, ensure_ascii=False) for row in self._rows(paths, options.batch_size))

    def evaluate_files(self, options: Any) -> dict[str, float]:
        """Scores on verified labels."""
        if options.images is None:
            raise UsageError("images are evaluated with --images DIR, and --annotations CSV unless folders are classes")
        return self.evaluate(
            options.images,
            options.annotations,
            interpolation=options.interpolation,
            batch_size=options.batch_size,
        )

    def metrics(self, options: Any) -> tuple[Metric, ...]:
        """Mean average precision first."""
        return metrics(multi_label_signatures(None, options.interpolation, single_label=True))

    # ---------------------------------------------------------------- how it is done
    def probabilities(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Float32[Tensor, "batch classes"]:
        """One batch of prepared images through the model, on its device. Dropout is off, whatever the model's mode."""
        with self.computing():
            logits: Tensor = self.model(self.preparation.normalize(pixels.to(self.device, non_blocking=True))).float()
            return logits.softmax(dim=1) if self.labeling.probabilities == "softmax" else logits.sigmoid()

    def annotated_pairs(
        self, batches: Iterable[LabeledPixels], map_batches: MapBatches = map_batches
    ) -> AnnotatedPairs:
        """The probabilities of everything that is verified.

        Args:
            map_batches: computes the batches.
        """
        pairs = AnnotatedPairs(len(self.labeling.classes))
        for found, labels, masks in map_batches(batches, self._with_labels):
            pairs.add(found, labels, masks)
        return pairs

    def _with_labels(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        return self.probabilities(batch.pixels).cpu(), batch.labels, batch.masks

    def predicted(self, probabilities: Float32[Tensor, "classes"]) -> list[str]:
        """Names of the classes that one image is said to show, the most probable first."""
        names = self.labeling.names
        ranked = probabilities.argsort(descending=True, stable=True).tolist()
        if self.labeling.is_single_label:
            return [names[ranked[0]]]
        values = probabilities.tolist()
        return [names[index] for index in ranked if values[index] >= self.labeling.thresholds[index]]

    def _rows(self, inputs: Sequence[Input], batch_size: int) -> Iterator[dict[str, Any]]:
        labeling = self.labeling
        thresholds = dict(zip(labeling.names, labeling.thresholds, strict=True))
        prepared = prepared_images(inputs, self.preparation)
        named = zip(inputs, prepared, range(len(inputs)), strict=True)
        for batch in chunks(named, batch_size):
            usable = [found for _, found, _ in batch if isinstance(found, Tensor)]
            scored = iter(self.probabilities(torch.stack(usable)).cpu() if usable else ())
            for given, found, place in batch:
                name = os.fspath(given) if isinstance(given, (str, os.PathLike)) else place
                if not isinstance(found, Tensor):
                    yield {"image": name, "error": found}
                    continue
                of_image = next(scored)
                yield {
                    "image": name,
                    "labels": dict(zip(labeling.names, [round(value, 6) for value in of_image.tolist()], strict=True)),
                    "predicted": self.predicted(of_image),
                    "thresholds": thresholds,
                }

    def _labeled(self, images: str | Path, annotations: str | Path | None, batch_size: int) -> Iterator[LabeledPixels]:
        """All images that can be used, with their labels; says how many cannot."""
        rejections = RejectionLog()
        if annotations is None:
            labels, source = read_image_folder(images, self.labeling.classes)
        else:
            source = open_images(images)
            labels = read_openimages(annotations, source, classes=self.labeling.classes, rejections=rejections)
        for note in labels.notes:
            print(note, file=sys.stderr)
        unusable = RejectionLog()
        for batch in chunks(enumerate(prepared_images(labels.image_ids, self.preparation, source)), batch_size):
            for _, reason in batch:
                if not isinstance(reason, Tensor):
                    unusable.reasons[reason] += 1
            usable = [(row, found) for row, found in batch if isinstance(found, Tensor)]
            if usable:
                known, masks = map(torch.from_numpy, labels.targets_of(row for row, _ in usable))
                yield LabeledPixels(torch.stack([found for _, found in usable]), known, masks)
        if len(unusable):
            print(
                f"{len(unusable)} of {len(labels)} images cannot be used and are not scored ({_reasons(unusable)})",
                file=sys.stderr,
            )
        if len(unusable) == len(labels):
            raise DataError(f"{images}: no image can be used")


def _reasons(rejections: RejectionLog) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in rejections.reasons.most_common(5))


# ==================================================================== training it
class ImageTrainingConfig(TrainingConfig):
    """The `Training:` section of an image classifier."""

    batch_size: int = Field(64, ge=1, description="images of a micro-batch, over all devices")
    loss: MultiLabelLossConfig = MultiLabelLossConfig()
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of a layer: this times that of the layer above; the head has the full one",
    )


class ImageClassificationTask(PredictorTask):
    """Images with any number of labels, of which only the verified ones are known."""

    name, unit = "image_classification", "images"
    training_config = ImageTrainingConfig
    data_config = ImageDataConfig
    predictor = ImageClassifier
    example_arguments = ("IMAGE...",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._thresholds: dict[bytes, Thresholds] = {}  # by the weights that they were chosen for

    @classmethod
    def check(cls, config_path: str, sections: Sections, model_config: Any, pretrained: Any) -> None:
        """Images have three channels."""
        if (channels := model_config.num_channels) != 3:
            raise ConfigError(f"{config_path}: Model: num_channels: images have 3, not {channels}")

    @classmethod
    def build_data(
        cls, model_config: Any, config: Any, data_config: Any, pretrained: Any, context: RunContext
    ) -> ImageDataModule:
        """Shuffled batches of augmented images."""
        return ImageDataModule(
            data_config,
            model_config.height_and_width,
            seed=config.seed,
            batch_size=config.batch_size,
            color_statistics=None if pretrained is None else pretrained.color_statistics,
            loading=context.loading,
            rejected_path=context.rejected_path,
        )

    def build_model(self) -> nn.Module:
        """A model on the CPU, for the classes of the training data: from nothing, or from `Model.pretrained`.

        Raises:
            ConfigError: the data are not what the config says or needs.
        """
        num_labels, is_single_label = len(self.data.classes), self._is_single_label
        asked = self.model_config.num_labels if "num_labels" in self.model_config.model_fields_set else num_labels
        if asked != num_labels:
            raise ConfigError(f"Model: num_labels: {asked}, but the data have {num_labels} classes; leave it out")
        if self.config.loss.kind == "softmax" and not is_single_label:
            raise ConfigError("Training: loss: kind softmax needs images of one label each: an image_folder")
        if self.pretrained is not None:
            return self.pretrained.build_model(self.model_class, self.data.classes)
        return self.model_class(self.model_config.model_copy(update={"num_labels": num_labels}))

    def learning_rate_scale(self, model: Any, parameter: str) -> float:
        """Layer-wise decay (Clark et al. 2020; Bao et al. 2022): lower layers of a pretrained model move less."""
        return float(self.config.layer_decay ** model.layers_above(parameter))

    def loss(self, model: Any, batch: ImageBatch) -> Tensor:
        """Summed over the batch; what an unknown label costs is the config's choice."""
        return multi_label_loss(model(batch.images), batch.labels, batch.masks, self.config.loss, self._prior)

    def evaluate(self, model: Any, split: str, map_batches: MapBatches) -> Scores:
        """Scores on a whole split as `predict` computes them; empty if there is no such split. Thresholds are the best on validation."""
        batches = self.data.val_dataloader() if split == "validation" else self.data.test_dataloader()
        if batches is None:
            return {}
        if split == "test":
            thresholds = self.thresholds(model, map_batches)
            pairs = self._classifier(model).annotated_pairs(batches, map_batches)
        else:
            pairs = self._classifier(model).annotated_pairs(batches, map_batches)
            thresholds = best_thresholds(pairs)
            self._remember(model, thresholds)
        return multi_label_scores(pairs, thresholds)

    def thresholds(self, model: Any, map_batches: MapBatches = map_batches) -> Thresholds:
        """Of each class, the best on validation for these weights."""
        digest = weights_digest(model)
        if digest not in self._thresholds:
            self.evaluate(model, "validation", map_batches)
        return self._thresholds[digest]

    def _remember(self, model: Any, thresholds: Thresholds) -> None:
        """A run of many validations has many weights: only those of the last few, all candidates of its end among them, stay."""
        self._thresholds[weights_digest(model)] = thresholds
        while len(self._thresholds) > REMEMBERED_THRESHOLDS:
            del self._thresholds[next(iter(self._thresholds))]

    def baseline(self, split: str) -> Scores:
        """Every image is given the frequency of each class among the verified training labels."""
        positives, annotated = self.data.dataset("train").labels.class_frequencies()
        frequencies = torch.from_numpy(positives / np.maximum(annotated, 1)).float()
        thresholds = best_thresholds(self._constant_pairs("validation", frequencies))
        return multi_label_scores(self._constant_pairs(_split(split), frequencies), thresholds)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean average precision first."""
        return metrics(multi_label_signatures(threshold=None, single_label=self._is_single_label))

    def samples(self, model: Any, split: str) -> list[dict[str, str]]:
        """Ids, verified labels and predictions of a few images of a split."""
        dataset = self.data.dataset(_split(split))
        classifier = self.as_predictor(model)
        chosen = some_of(len(dataset))
        examples = [dataset[index] for index in chosen]
        probabilities = classifier.probabilities(torch.stack([example.pixels for example in examples])).cpu()
        return [
            {
                "image": dataset.labels.image_ids[example.row],
                "labels": ", ".join(self.data.names[index] for index in np.flatnonzero(example.labels)),
                "predicted": ", ".join(classifier.predicted(row)),
            }
            for example, row in zip(examples, probabilities, strict=True)
        ]

    def artifacts(self, model: Any, split: str) -> dict[str, Artifact]:
        """Grids of augmented images, of some images of a split and of those that the model is most wrong about; and a table of classes."""
        classifier = self.as_predictor(model)
        batches = self.data.val_dataloader() if split == "validation" else self.data.test_dataloader()
        assert batches is not None
        found = look_at(classifier, batches, len(self.data.dataset(_split(split))))
        return {
            "augmented_inputs.png": augmented_grid(next(iter(self.data.train_dataloader())), self.data.names),
            "predictions.png": prediction_grid(classifier, found.spread),
            "most_wrong.png": prediction_grid(classifier, found.most_wrong),
            "classes.json": class_table(found.pairs, classifier.labeling),
        }

    def as_predictor(self, model: Any) -> ImageClassifier:
        """The model with the best thresholds on validation."""
        return self._classifier(model, self.thresholds(model))

    def closing_lines(self, finished: FinishedRun) -> Iterator[str]:
        """Average precision by class, and the pixel baseline of the embedded digits."""
        yield from class_lines(finished)
        if self.data.config.train.digits is not None:
            yield pixel_baseline_line(self.data)

    @property
    def _is_single_label(self) -> bool:
        return self.data.dataset("train").labels.is_single_label

    @cached_property
    def _prior(self) -> Tensor | None:
        """Share of the training images that are known to show each class: of a rarely annotated one it is too low."""
        if self.config.loss.prior_threshold is None:
            return None
        labels = self.data.dataset("train").labels
        return torch.from_numpy(labels.class_frequencies().positives / len(labels)).float()

    def _classifier(self, model: Any, thresholds: Thresholds | None = None) -> ImageClassifier:
        """Without thresholds it only gives probabilities."""
        values = np.full(len(self.data.classes), 0.5) if thresholds is None else thresholds
        labeling = LabelMap(
            classes=self.data.classes,
            names=self.data.names,
            thresholds=tuple(values.tolist()),
            is_single_label=self._is_single_label,
            probabilities="softmax" if self.config.loss.kind == "softmax" else "sigmoid",
        )
        return ImageClassifier(model, self.data.preparation, labeling)

    def _constant_pairs(self, part: Split, probabilities: Tensor) -> AnnotatedPairs:
        labels = self.data.dataset(part).labels
        pairs = AnnotatedPairs(len(labels.classes))
        for start in range(0, len(labels), ROWS_AT_ONCE):
            rows = range(start, min(start + ROWS_AT_ONCE, len(labels)))
            known, masks = map(torch.from_numpy, labels.targets_of(rows))
            pairs.add(probabilities.expand_as(known), known, masks)
        return pairs


def weights_digest(model: nn.Module) -> bytes:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.digest()


def _split(name: str) -> Split:
    return "test" if name == "test" else "validation"


def class_lines(finished: FinishedRun) -> Iterator[str]:
    """Average precision of each class (of the first and the last ones where there are many), and where the images are."""
    rows = [row for row in finished.artifacts["classes.json"] if isinstance(row, dict)]
    ranked = sorted(
        (row for row in rows if row["average_precision"] is not None), key=lambda row: -row["average_precision"]
    )
    yield "\naverage precision by class"
    for place, row in enumerate(ranked):
        if place < SHOWN_CLASSES or place >= len(ranked) - SHOWN_CLASSES:
            yield f"  {row['average_precision']:.4f}  {row['name']}  ({row['positives']} of {row['positives'] + row['negatives']})"
        elif place == SHOWN_CLASSES:
            yield f"  ... {len(ranked) - 2 * SHOWN_CLASSES} more, see classes.json in MLflow"
    yield f"\npredictions   {finished.model_folder.parent / 'predictions.png'}"


def pixel_baseline_line(data: ImageDataModule) -> str:
    """What logistic regression on the pixels of the embedded digits scores on test."""
    from transformer_architectures.tasks.images.pixel_baseline import logistic_regression_scores

    scores = logistic_regression_scores(data.dataset("train"), data.dataset("validation"), data.dataset("test"))
    return "logistic regression on the pixels: " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
