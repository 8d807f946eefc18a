"""Fine-tuning: what a training starts from when `Model.pretrained` names a folder."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from transformer_architectures.architectures.vit.published import is_vit_folder, read_vit_folder
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.datasets.images.image_check import ColorStatistics
from transformer_architectures.errors import ConfigError
from transformer_architectures.pretrained.loading import load_weights
from transformer_architectures.pretrained.merged_config import merged_config
from transformer_architectures.pretrained.model_folder import MANIFEST, open_model_folder, run_folder_hint
from transformer_architectures.tasks.image_classification import ImageClassifier

# What fine-tuning may choose anew; all else belongs to the weights. The number of labels is that of the data.
FREE = {
    "dropout", "attention_dropout", "activation_dropout", "stochastic_depth", "attention_backend", "pretrained",
    "image_size", "num_labels",
}  # fmt: skip

# Keys that may be left to follow from others.
SAME_AS = {
    "class_token": "has_class_token",
    "norm_after_pooling": "norms_after_pooling",
    "prefix_positions": "has_prefix_positions",
}


@dataclass(frozen=True)
class PretrainedStart:
    """A model's declaration and weights, and what is known of the images and classes that it was trained with.

    Attributes:
        model_config: with what fine-tuning chose; found: as the weights are.
        classes: of the head's outputs; empty where nothing vouches for them.
    """

    model_config: VitModelConfig
    found: VitModelConfig
    weights: Mapping[str, Tensor]
    color_statistics: ColorStatistics | None
    classes: Sequence[str] = ()

    def build_model(self, classes: Sequence[str]) -> VisionTransformerForImageClassification:
        """The model for these classes and the images of `model_config`; a head of other classes is drawn anew."""
        keeps_head = tuple(classes) == tuple(self.classes)
        as_found = {"image_size": self.found.image_size, "num_labels": len(classes)}
        model = VisionTransformerForImageClassification(self.model_config.model_copy(update=as_found))
        load_weights(model, self.weights, self.model_config.pretrained, new_parts=() if keeps_head else {"head"})
        if not keeps_head:
            print("the classes are not those of the pretrained head: it starts anew", file=sys.stderr)
        model.convert_image_size(*self.model_config.height_and_width)
        return model


def read_pretrained(config: VitModelConfig) -> PretrainedStart:
    """Reads the folder that `Model.pretrained` names: one of this library's, or a published one of timm or `transformers`.

    Images of another size than the folder's are the config's `image_size`; the table of positions is resized for them.

    Raises:
        ConfigError: the folder is of none of these kinds, or a key of the `Model:` section contradicts it.
        ModelFolderError: the folder is damaged, or incomplete, or cannot be a Vision Transformer of ours.
    """
    path = Path(config.pretrained)
    if (path / MANIFEST).is_file():
        folder = open_model_folder(path)
        loaded = folder.load("cpu")
        if not isinstance(loaded, ImageClassifier):
            raise ConfigError(f"Model: pretrained: {path} is a model for {folder.config['task']}, not for images")
        found, weights = loaded.model.config, loaded.model.state_dict()
        colors: ColorStatistics | None = (loaded.preparation.mean, loaded.preparation.std)
        classes: Sequence[str] = loaded.labeling.classes
    elif is_vit_folder(path):
        found, weights = read_vit_folder(path)
        colors, classes = published_colors(path), ()
    else:
        raise ConfigError(
            f"Model: pretrained: {path} is neither a model folder nor a published Vision Transformer of timm or transformers"
            f"{run_folder_hint(path)}"
        )
    merged = merged_config(config, found, FREE, SAME_AS)
    if any(pixels % found.patch_size for pixels in merged.height_and_width):
        raise ConfigError(f"Model: image_size: {merged.image_size} is not divisible by patch_size {found.patch_size}")
    if found.num_channels != 3:
        raise ConfigError(f"Model: pretrained: {path} takes {found.num_channels} channels, images have 3")
    return PretrainedStart(merged, found, weights, colors, classes)


def published_colors(path: Path) -> ColorStatistics | None:
    """Mean and standard deviation of each channel as timm (``config.json``) and `transformers` (``preprocessor_config.json``) keep them."""
    timm = _json(path / "config.json").get("pretrained_cfg")
    for content, mean, std in (
        (timm if isinstance(timm, dict) else {}, "mean", "std"),
        (_json(path / "preprocessor_config.json"), "image_mean", "image_std"),
    ):
        values = [content.get(name) for name in (mean, std)]
        if all(isinstance(row, list) and len(row) == 3 for row in values):
            (m0, m1, m2), (s0, s1, s2) = ([float(value) for value in row] for row in values if row is not None)
            return (m0, m1, m2), (s0, s1, s2)
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
