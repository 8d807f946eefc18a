"""What a training starts from when `Model.pretrained` names a folder: one of this library's, or a published one."""

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from torch import Tensor, nn

from transformer_architectures.architectures.model_config import TransformerModelConfig
from transformer_architectures.errors import ConfigError, ModelFolderError
from transformer_architectures.pretrained.fitting_weights import in_order_of, part_of
from transformer_architectures.pretrained.model_folder import MANIFEST, ModelFolder, open_model_folder, run_folder_hint
from transformer_architectures.pretrained.published_folder import PublishedModel, is_published, read_published_folder
from transformer_architectures.tokenization import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from transformer_architectures.architectures.architecture import Architecture

M = TypeVar("M", bound=TransformerModelConfig)
Colors = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class PretrainedStart:
    """A model's declaration, and what belongs to it.

    Attributes:
        model_config: with what fine-tuning chose; found: as the weights are.
        read_weights: a state dict, part by part: the backbone and what stood on it.
        tokenizer: None for images.
        classes: of a classifier's outputs; empty where there is none, or nothing vouches for them.
        color_statistics: mean and standard deviation of each channel of the images, where they are known.
    """

    model_config: Any
    found: Any
    read_weights: Callable[[], Mapping[str, Tensor]]
    tokenizer: Any = None
    classes: Sequence[str] = ()
    color_statistics: Colors | None = None

    def build_model(self, model_class: Callable[[Any], nn.Module], classes: Sequence[str] = ()) -> Any:
        """A model of this class for these classes. Parts of it that the folder has not are drawn anew, others are left out.

        A classifier is kept if it is one of the same classes, in any order. What was not kept is said on standard error.

        Raises:
            ModelFolderError: the weights are not those that ``config.json`` declares.
        """
        config = self.model_config
        changes: dict[str, Any] = {"num_labels": len(classes)} if hasattr(config, "num_labels") else {}
        if hasattr(config, "image_size"):  # of the table of positions, which is resized afterwards
            changes["image_size"] = self.found.image_size
        model: Any = model_class(config.model_copy(update=changes))
        weights = self.read_weights()
        parts = {part_of(name) for name in weights}
        if classes and sorted(classes) == sorted(self.classes):
            weights = in_order_of(classes, self.classes, weights, config.classifiers)
        else:
            weights = {name: tensor for name, tensor in weights.items() if part_of(name) not in config.classifiers}
        own = {part_of(name) for name in model.state_dict()}
        given = {part_of(name) for name in weights}
        # Where there are several models on one backbone, each has parts that another has not.
        new_parts = own - given - {"backbone"} if "backbone" in given else set()
        load_weights(model, weights, config.pretrained, new_parts, unused=given - own if "backbone" in given else ())
        _say(config.pretrained, "not used", parts - (own & given))
        _say(config.pretrained, "drawn anew", new_parts)
        if hasattr(config, "image_size"):
            model.convert_image_size(*config.height_and_width)
        return model


def read_pretrained(config: M, architecture: "Architecture | None" = None) -> PretrainedStart:
    """Reads the folder that `Model.pretrained` names.

    Args:
        architecture: that of the config, if it is not registered.

    Raises:
        ConfigError: no folder of this architecture, or a key of the `Model:` section contradicts it.
        ModelFolderError: the folder is damaged, or incomplete.
        UnknownModelError: the published model computes something that ours does not.
    """
    from transformer_architectures.architectures.registry import find_architecture

    path = Path(config.pretrained)
    if (path / MANIFEST).is_file():
        return _from_our_folder(config, open_model_folder(path))
    architecture = architecture or find_architecture(config.architecture)
    formats = [] if architecture is None else architecture.formats
    if not is_published(path, formats):
        known = " or ".join(format.name for format in formats)
        raise ConfigError(
            f"Model: pretrained: {path} is neither a model folder nor a published {known}{run_folder_hint(path)}"
        )

    def read() -> PublishedModel:
        return read_published_folder(path, formats, type(config))

    found = read()
    for part in found.left_out:
        print(f"{path}: not used: {part}", file=sys.stderr)
    # Weights are read again, instead of being kept through the whole training.
    return PretrainedStart(
        merged_config(config, found.config),
        found.config,
        lambda: read().weights,
        found.tokenizer,
        found.classes,
        published_colors(found),
    )


def _from_our_folder(config: M, folder: ModelFolder) -> PretrainedStart:
    if folder.config.get("architecture") != config.architecture:
        raise ConfigError(
            f"Model: pretrained: {folder.path} is a model for {folder.config.get('task')}, and no {config.architecture}"
        )
    try:
        found = type(config).model_validate_json(json.dumps(folder.config["model"]))
        labeling = folder.config.get("labeling", folder.config)
        classes = [str(name) for name in labeling.get("classes", [])]
        colors = folder.config.get("preparation")
        color_statistics: Any = colors and (tuple(colors["mean"]), tuple(colors["std"]))
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise ModelFolderError(f"{folder.path}: config.json is damaged: {' '.join(str(error).split())}") from None
    tokenizer: Tokenizer | None = None
    if "vocab_size" in type(config).model_fields:
        tokenizer = load_tokenizer(folder.path, folder.manifest.files)
        if tokenizer.vocab_size > found.vocab_size:  # type: ignore[attr-defined]
            raise ModelFolderError(f"{folder.path}: the tokenizer is not that of a {config.architecture} of its size")
    return PretrainedStart(
        merged_config(config, found), found, folder.weights, tokenizer, classes, color_statistics or None
    )


def merged_config(asked: M, found: M) -> M:
    """The folder's declaration with what fine-tuning may choose.

    Raises:
        ConfigError: the section sets another key, to another value than the folder's, or what it chooses does not fit.
    """
    free = {*asked.chosen_anew, "pretrained"}
    for key in sorted(asked.model_fields_set - free):
        name = asked.same_as.get(key, key)
        if getattr(asked, name) != getattr(found, name):
            raise ConfigError(
                f"Model: {key}: {getattr(asked, name)!r} contradicts {getattr(found, name)!r} of {asked.pretrained}; leave it out"
            )
    merged = found.model_copy(update={key: getattr(asked, key) for key in asked.model_fields_set & free})
    try:
        type(merged).model_validate_json(json.dumps({**merged.model_dump(mode="json"), "pretrained": ""}))
    except ValidationError as error:
        raise ConfigError(
            f"Model: {error.errors()[0]['msg'].removeprefix('Value error, ')} ({asked.pretrained})"
        ) from None
    return merged


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    origin: str | Path,
    new_parts: Collection[str] = (),
    unused: Collection[str] = (),
) -> None:
    """Loads a state dict. The parts named in ``new_parts`` stay as they were drawn, those in ``unused`` are left out.

    Args:
        origin: where the weights are from; part of the error message.

    Raises:
        ModelFolderError: a weight is missing, is not the model's, or has another shape.
    """
    kept = {name: tensor for name, tensor in weights.items() if part_of(name) not in {*new_parts, *unused}}
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise ModelFolderError(f"{origin}: {' '.join(str(error).split())}") from None
    wrong = [*unexpected, *(name for name in missing if part_of(name) not in new_parts)]
    if wrong:
        raise ModelFolderError(f"{origin}: weights do not fit config.json: {wrong[0]}")


def published_colors(model: PublishedModel) -> Colors | None:
    """Mean and standard deviation of each channel as timm (``config.json``) and `transformers` (``preprocessor_config.json``) keep them."""
    timm = model.content.get("pretrained_cfg")
    for content, names in (
        (timm if isinstance(timm, dict) else {}, ("mean", "std")),
        (model.json("preprocessor_config.json"), ("image_mean", "image_std")),
    ):
        values = [content.get(name) for name in names]
        if all(isinstance(row, list) and len(row) == 3 for row in values):
            (m0, m1, m2), (s0, s1, s2) = ([float(value) for value in row] for row in values if row is not None)
            return (m0, m1, m2), (s0, s1, s2)
    return None


def _say(origin: str, what: str, parts: Collection[str]) -> None:
    if parts:
        print(f"{origin}: {what}: {', '.join(sorted(parts))}", file=sys.stderr)
