"""Training of the picture task: from a config to a scored model folder.

uv run python -m transformer_architectures.architectures.vit.training [--config F] [--set S.k=v] [--resume auto|PATH] [--device D]
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import Field
from torch import Tensor, nn

from transformer_architectures.architectures.vit.classifier import Labeling, PictureClassifier
from transformer_architectures.architectures.vit.config import VitModelConfig
from transformer_architectures.architectures.vit.data import LabeledBatch, TransformerDataModule
from transformer_architectures.architectures.vit.data_config import VitDataConfig
from transformer_architectures.architectures.vit.picture_report import (
    augmented_grid,
    class_table,
    look_at,
    prediction_grid,
)
from transformer_architectures.architectures.vit.pretrained_start import PretrainedStart, read_pretrained
from transformer_architectures.architectures.vit.transformer import VisionTransformerForImageClassification
from transformer_architectures.batch_work import BatchWork, one_by_one
from transformer_architectures.command_line import tarch, write_lines
from transformer_architectures.config import Sections, StrictModel, load_sections
from transformer_architectures.datasets.splitting import Part
from transformer_architectures.errors import ConfigError
from transformer_architectures.metrics import (
    AnnotatedPairs,
    best_thresholds,
    multi_label_scores,
    multi_label_signatures,
)
from transformer_architectures.training.command import run_command
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.finish import FinishedRun, report
from transformer_architectures.training.multi_label_loss import MultiLabelLossConfig, multi_label_loss
from transformer_architectures.training.run import RunContext, run_training
from transformer_architectures.training.task import Artifact, Scores

NUM_SAMPLES = 3
SHOWN_CLASSES = 10  # from either end
ROWS_AT_ONCE = 1024  # of labels that are scored without their pictures
REMEMBERED_THRESHOLDS = 8  # of how many weights

Thresholds = Float64[np.ndarray, "classes"]


class VitTrainingConfig(TrainingConfig):
    """The `Training:` section of a picture classifier."""

    batch_size: int = Field(64, ge=1, description="pictures of a micro-batch, over all devices")
    loss: MultiLabelLossConfig = MultiLabelLossConfig()
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of a layer: this times that of the layer above; the head has the full one",
    )


SECTIONS: dict[str, type[StrictModel]] = {
    "Model": VitModelConfig,
    "Training": VitTrainingConfig,
    "Data": VitDataConfig,
}


class ImageClassificationTask:
    """What is special to pictures: model, loss of partly known labels, and scores of what is known.

    Args:
        model_config: as it is asked for; with ``pretrained``, that one's is what counts.
    """

    name, architecture, unit = "image_classification", "vit", "images"

    def __init__(
        self,
        model_config: VitModelConfig,
        config: VitTrainingConfig,
        data: TransformerDataModule,
        pretrained: PretrainedStart | None = None,
    ) -> None:
        self.model_config, self.config, self.data, self.pretrained = model_config, config, data, pretrained
        self._thresholds: dict[bytes, Thresholds] = {}  # by the weights that they were chosen for

    def build_model(self) -> VisionTransformerForImageClassification:
        """A model on the CPU, for the classes of the training data: from nothing, or from `Model.pretrained`.

        Raises:
            ConfigError: the data are not what the config says or needs.
        """
        num_labels, is_single_label = len(self.data.classes), self._is_single_label
        asked = self.model_config.num_labels if "num_labels" in self.model_config.model_fields_set else num_labels
        if asked != num_labels:
            raise ConfigError(f"Model: num_labels: {asked}, but the data have {num_labels} classes; leave it out")
        if self.config.loss.kind == "softmax" and not is_single_label:
            raise ConfigError("Training: loss: kind softmax needs pictures of one label each: an image_folder")
        if self.pretrained is not None:
            return self.pretrained.build_model(self.data.classes)
        return VisionTransformerForImageClassification(self.model_config.model_copy(update={"num_labels": num_labels}))

    def learning_rate_scale(self, model: nn.Module, parameter: str) -> float:
        """Layer-wise decay (Clark et al. 2020; Bao et al. 2022): lower layers of a pretrained model move less."""
        assert isinstance(model, VisionTransformerForImageClassification)
        return float(self.config.layer_decay ** model.layers_above(parameter))

    def loss(self, model: VisionTransformerForImageClassification, batch: LabeledBatch) -> Tensor:
        """Summed over the batch; what an unknown label costs is the config's choice."""
        return multi_label_loss(model(batch.images), batch.labels, batch.masks, self.config.loss, self._prior)

    def validate(self, model: VisionTransformerForImageClassification, work: BatchWork) -> Scores:
        """Scores on all validation pictures."""
        return self.evaluate(model, "validation", work)

    def evaluate(self, model: VisionTransformerForImageClassification, part: str, work: BatchWork) -> Scores:
        """Scores on a whole part as `predict` computes them; empty without such a part. Thresholds are the best on validation."""
        batches = self.data.val_dataloader() if part == "validation" else self.data.test_dataloader()
        if batches is None:
            return {}
        if part == "test":
            thresholds = self.thresholds(model, work)
            pairs = self._classifier(model).annotated_pairs(batches, work)
        else:
            pairs = self._classifier(model).annotated_pairs(batches, work)
            thresholds = best_thresholds(pairs)
            self._remember(model, thresholds)
        return multi_label_scores(pairs, thresholds)

    def thresholds(self, model: nn.Module, work: BatchWork = one_by_one) -> Thresholds:
        """Of each class, the best on validation for these weights."""
        digest = weights_digest(model)
        if digest not in self._thresholds:
            assert isinstance(model, VisionTransformerForImageClassification)
            self.evaluate(model, "validation", work)
        return self._thresholds[digest]

    def _remember(self, model: nn.Module, thresholds: Thresholds) -> None:
        """A run of many validations has many weights: only those of the last few, all candidates of its end among them, stay."""
        self._thresholds[weights_digest(model)] = thresholds
        while len(self._thresholds) > REMEMBERED_THRESHOLDS:
            del self._thresholds[next(iter(self._thresholds))]

    def baseline(self, part: str) -> Scores:
        """Every picture is given the frequency of each class among the verified training labels."""
        positives, annotated = self.data.dataset("train").labels.class_frequencies()
        frequencies = torch.from_numpy(positives / np.maximum(annotated, 1)).float()
        thresholds = best_thresholds(self._constant_pairs("validation", frequencies))
        return multi_label_scores(self._constant_pairs(_part(part), frequencies), thresholds)

    def signatures(self) -> dict[str, str]:
        """How each score is computed."""
        return multi_label_signatures(threshold=None, single_label=self._is_single_label)

    def samples(self, model: VisionTransformerForImageClassification, part: str) -> list[dict[str, str]]:
        """Ids, verified labels and predictions of a few pictures of a part."""
        dataset = self.data.dataset(_part(part))
        classifier = self._classifier(model, self.thresholds(model))
        step = max(1, len(dataset) // NUM_SAMPLES)
        chosen = list(range(step // 2, len(dataset), step))[:NUM_SAMPLES]
        examples = [dataset[index] for index in chosen]
        probabilities = classifier.probabilities(torch.stack([example.pixels for example in examples])).cpu()
        return [
            {
                "picture": dataset.labels.picture_ids[example.row],
                "labels": ", ".join(self.data.names[index] for index in np.flatnonzero(example.labels)),
                "predicted": ", ".join(classifier.predicted(row)),
            }
            for example, row in zip(examples, probabilities, strict=True)
        ]

    def artifacts(self, model: VisionTransformerForImageClassification, part: str) -> dict[str, Artifact]:
        """Grids of augmented pictures, of some pictures of a part and of those that the model is most wrong about; and a table of classes."""
        classifier = self._classifier(model, self.thresholds(model))
        batches = self.data.val_dataloader() if part == "validation" else self.data.test_dataloader()
        assert batches is not None
        found = look_at(classifier, batches, len(self.data.dataset(_part(part))))
        return {
            "augmented_inputs.png": augmented_grid(next(iter(self.data.train_dataloader())), self.data.names),
            "predictions.png": prediction_grid(classifier, found.spread),
            "most_wrong.png": prediction_grid(classifier, found.most_wrong),
            "classes.json": class_table(found.pairs, classifier.labeling),
        }

    def export(self, model: VisionTransformerForImageClassification, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        self._classifier(model, self.thresholds(model)).export(folder, results)

    @property
    def _is_single_label(self) -> bool:
        return self.data.dataset("train").labels.is_single_label

    @cached_property
    def _prior(self) -> Tensor | None:
        """Share of the training pictures that are known to show each class: of a rarely annotated one it is too low."""
        if self.config.loss.prior_threshold is None:
            return None
        labels = self.data.dataset("train").labels
        return torch.from_numpy(labels.class_frequencies().positives / len(labels)).float()

    def _classifier(
        self, model: VisionTransformerForImageClassification, thresholds: Thresholds | None = None
    ) -> PictureClassifier:
        """Without thresholds it only gives probabilities."""
        values = np.full(len(self.data.classes), 0.5) if thresholds is None else thresholds
        labeling = Labeling(
            classes=self.data.classes,
            names=self.data.names,
            thresholds=tuple(values.tolist()),
            is_single_label=self._is_single_label,
            probabilities="softmax" if self.config.loss.kind == "softmax" else "sigmoid",
        )
        return PictureClassifier(model, self.data.preparation, labeling)

    def _constant_pairs(self, part: Part, probabilities: Tensor) -> AnnotatedPairs:
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


def _part(name: str) -> Part:
    return "test" if name == "test" else "validation"


def class_lines(finished: FinishedRun) -> Iterator[str]:
    """Average precision of each class (of the first and the last ones where there are many), and where the pictures are."""
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


def pixel_baseline_line(data: TransformerDataModule) -> str:
    """What logistic regression on the pixels of the embedded digits scores on test."""
    from transformer_architectures.architectures.vit.pixel_baseline import logistic_regression_scores

    scores = logistic_regression_scores(data.dataset("train"), data.dataset("validation"), data.dataset("test"))
    return "logistic regression on the pixels: " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items())


def open_config(config_path: str, overrides: list[str]) -> tuple[Sections, PretrainedStart | None]:
    """The checked sections, and what the training starts from.

    Raises:
        ConfigError: a section is wrong.
    """
    sections = load_sections(config_path, SECTIONS, overrides)
    model_config = sections.of(VitModelConfig)
    if model_config.num_channels != 3:
        raise ConfigError(f"{config_path}: Model: num_channels: pictures have 3, not {model_config.num_channels}")
    return sections, read_pretrained(model_config) if model_config.pretrained else None


def train(config_path: str, overrides: list[str], resume: str | None) -> FinishedRun:
    """Trains what a config describes; the first rank prints the result."""
    sections, pretrained = open_config(config_path, overrides)
    model_config, data_config = sections.of(VitModelConfig), sections.of(VitDataConfig)
    training_config = sections.of(VitTrainingConfig)
    image_size = (model_config if pretrained is None else pretrained.model_config).height_and_width

    def build(context: RunContext) -> tuple[ImageClassificationTask, TransformerDataModule]:
        data = TransformerDataModule(
            data_config,
            image_size,
            seed=training_config.seed,
            batch_size=training_config.batch_size,
            color_statistics=None if pretrained is None else pretrained.color_statistics,
            loading=context.loading,
            rejected_path=context.run_folder / "rejected.jsonl" if context.ranks.is_main else None,
        )
        data_modules.append(data)
        return ImageClassificationTask(model_config, training_config, data, pretrained), data

    data_modules: list[TransformerDataModule] = []
    finished = run_training("vit", sections, training_config, build, resume)
    if finished.is_new:
        write_lines(report(finished))
        write_lines(class_lines(finished))
        if data_config.train.digits is not None:
            write_lines([pixel_baseline_line(data_modules[0])])
        write_lines(["label         " + tarch("predict", os.path.relpath(finished.model_folder), "IMAGE...")])
    return finished


if __name__ == "__main__":
    run_command("vit", SECTIONS, train)
