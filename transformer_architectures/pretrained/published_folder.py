"""Published checkpoints: a folder with ``config.json``, ``model.safetensors`` (or several, with an index) and a tokenizer.

Which model it is, ``config.json`` says; an architecture declares the forms that it reads (`PublishedFormat`). No pickle is read.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from transformer_architectures.errors import ModelFolderError, UnknownModelError, reason_of
from transformer_architectures.pretrained.fitting_weights import part_of
from transformer_architectures.tokenization.loading import read_tokenizer
from transformer_architectures.training.precision import PrecisionName, resolve_precision

if TYPE_CHECKING:
    from transformer_architectures.architectures.architecture import Architecture
    from transformer_architectures.tasks.predictor import Predictor
    from transformer_architectures.tasks.task import PredictorTask

CONFIG, WEIGHTS, PICKLED_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
INDEX = f"{WEIGHTS}.index.json"


@dataclass(frozen=True)
class PublishedModel:
    """What a published folder holds.

    Attributes:
        config: our model config.
        weights: named as in our models, part by part; there may be parts that one or the other of them has not.
        left_out: parts that no model of ours has.
        classes: of the classifier's outputs; empty where there is none, or nobody named them.
        content: of ``config.json``.
    """

    config: Any
    weights: Mapping[str, Tensor]
    left_out: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    tokenizer: Any = None
    path: Path = Path()
    content: Mapping[str, Any] = field(default_factory=dict)

    def json(self, name: str) -> dict[str, Any]:
        """The content of another file of the folder; empty where there is none."""
        return read_json(self.path, name) if (self.path / name).is_file() else {}


@dataclass(frozen=True)
class PublishedFormat:
    """A form in which models of an architecture are published.

    Attributes:
        name: for messages.
        recognises: whether a ``config.json`` is of this form.
        read: a model from the content of ``config.json``, its weights, and the class of our config.
        heads: the parts of ours that make a model ready to use, each with the name of its task.
    """

    name: str
    recognises: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Mapping[str, Tensor], Any], PublishedModel]
    heads: Mapping[str, str]


@dataclass(frozen=True)
class PublishedFolder:
    """A published folder, of a form that an architecture reads."""

    path: Path
    architecture: "Architecture"
    format: PublishedFormat

    @cached_property
    def model(self) -> PublishedModel:
        """What it holds; see `read_published_folder`."""
        return read_published_folder(self.path, [self.format], self.architecture.model_config)

    @cached_property
    def task_class(self) -> "type[PredictorTask]":
        """The task that its head is for.

        Raises:
            UnknownModelError: it has no head that a task of ours uses.
        """
        parts = {part_of(name) for name in self.model.weights}
        task = next((task for part, task in self.format.heads.items() if part in parts), "")
        if (found := self.architecture.task_named(task)) is None:
            known = ", ".join(self.format.heads.values())
            raise UnknownModelError(
                f"{self.path}: {self.format.name} without a head for a task ({known}): Model.pretrained can start from it"
            )
        return found

    @property
    def predictor(self) -> "type[Predictor]":
        """The class that predicts."""
        return self.task_class.predictor

    def load(self, device: str = "auto", precision: PrecisionName = "fp32") -> "Predictor":
        """The model, ready to `predict` and `evaluate`; see `load_model`."""
        loaded = self.predictor.from_published(self.model, self.architecture.models[self.task_class], device)
        loaded.precision = resolve_precision(precision, loaded.device)
        return loaded


def find_published(path: Path) -> PublishedFolder | None:
    """The folder, if any architecture reads its form; None if it has no ``config.json`` of a model.

    Raises:
        UnknownModelError: no architecture reads models of this kind; those that are read are named.
    """
    from transformer_architectures.architectures.registry import all_architectures

    if not (path / CONFIG).is_file():
        return None
    content = read_json(path, CONFIG)
    architectures = all_architectures()
    for architecture in architectures:
        for format in architecture.formats:
            if format.recognises(content):
                return PublishedFolder(path, architecture, format)
    kinds = [f"{key} {content[key]}" for key in ("model_type", "architecture") if key in content]
    if not kinds:
        return None
    known = ", ".join(format.name for architecture in architectures for format in architecture.formats)
    raise UnknownModelError(f"{path}: nothing is known of a model of {', '.join(kinds)} (known: {known})")


def is_published(path: Path, formats: Sequence[PublishedFormat]) -> bool:
    """Whether a folder's ``config.json`` is of one of these forms."""
    try:
        content = read_json(path, CONFIG)
    except ModelFolderError:
        return False
    return any(format.recognises(content) for format in formats)


def read_published_folder(path: Path, formats: Sequence[PublishedFormat], model_config: Any) -> PublishedModel:
    """A published model: its declaration, its weights part by part, its tokenizer and its classes.

    Raises:
        ModelFolderError: a file is missing or damaged.
        UnknownModelError: the model is of none of these forms, or computes something that ours does not.
    """
    content = read_json(path, CONFIG)
    try:
        found = next((format for format in formats if format.recognises(content)), None)
        if found is None:
            kinds = ", ".join(f"{key} {content.get(key)}" for key in ("architecture", "model_type"))
            raise UnknownModelError(f"no {' or '.join(format.name for format in formats)}: its {kinds}")
        model = found.read(content, read_weights(path), model_config)
    except UnknownModelError as error:
        raise UnknownModelError(f"{path}: {error}") from None
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    config = model.config
    tokenizer = read_tokenizer(path) if hasattr(config, "vocab_size") else None
    special = {name: getattr(config, name) for name in ("pad_id", "eos_id") if hasattr(config, name)}
    if tokenizer is not None and (
        tokenizer.vocab_size > config.vocab_size or any(getattr(tokenizer, name) != id for name, id in special.items())
    ):
        found_ids = {name: getattr(tokenizer, name) for name in special}
        raise ModelFolderError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens {found_ids or ''}, which does not fit config.json "
            f"({config.vocab_size} tokens {special or ''})"
        )
    classes = named_classes(content, getattr(config, "num_labels", 0))
    return replace(model, tokenizer=tokenizer, classes=classes, path=path, content=content)


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The content of a JSON file of a folder.

    Raises:
        ModelFolderError: it is missing, or no JSON object.
    """
    try:
        content = json.loads((path / name).read_bytes())
    except OSError as error:
        raise ModelFolderError(f"{path}: {name} cannot be read ({reason_of(error)})") from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: {name} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path}: {name} should be an object, not a {type(content).__name__}")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """The content of ``model.safetensors``, or of the files that ``model.safetensors.index.json`` names.

    Raises:
        ModelFolderError: one is missing or damaged.
    """
    files = [WEIGHTS]
    if not (path / WEIGHTS).is_file() and (path / INDEX).is_file():
        places = read_json(path, INDEX).get("weight_map")
        names: set[Any] = set(places.values()) if isinstance(places, dict) else {None}
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ModelFolderError(f"{INDEX}: weight_map should give each weight a file of the folder")
        files = sorted(names)
    weights: dict[str, Tensor] = {}
    for name in files:
        if not (path / name).is_file():
            raise ModelFolderError(f"{name} is missing{_pickle_hint(path)}")
        try:
            with safe_open(path / name, framework="pt") as file:
                weights |= {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(f"{name} is damaged ({error})") from None
    return weights


def _pickle_hint(path: Path) -> str:
    if not (path / PICKLED_WEIGHTS).is_file():
        return ""
    pickled, safe = str(path / PICKLED_WEIGHTS), str(path / WEIGHTS)
    # Tied weights share memory in a pickle, which safetensors refuses to write.
    converter = (
        "import torch, safetensors.torch as s; "
        f"s.save_file({{k: v.clone() for k, v in torch.load({pickled!r}, weights_only=True).items()}}, {safe!r})"
    )
    return (
        f"; {PICKLED_WEIGHTS} is a pickle, which may run any code when it is read: if you trust it, convert it: "
        f'python -c "{converter}"'
    )


def named_labels(names: Iterable[str]) -> dict[str, Any]:
    """The keys of ``config.json`` that name a classifier's outputs; none where there are none."""
    labels = dict(enumerate(names))
    return {"id2label": labels, "label2id": {name: index for index, name in labels.items()}} if labels else {}


def numbered_classes(num_labels: int) -> tuple[str, ...]:
    """Names of outputs that nobody named, as in `transformers`."""
    return tuple(f"LABEL_{index}" for index in range(num_labels))


def named_classes(config: Mapping[str, Any], num_labels: int) -> tuple[str, ...]:
    """Names of the classifier's outputs, each once; empty where they are only numbered. timm lists them as ``label_names``."""
    names = config.get("id2label", config.get("label_names"))
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if not num_labels or not isinstance(names, dict) or set(names) != {str(index) for index in range(num_labels)}:
        return ()
    classes = [str(names[str(index)]) for index in range(num_labels)]
    # ImageNet has two cranes.
    classes = [name if classes.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(classes)]
    return () if tuple(classes) == numbered_classes(num_labels) else tuple(classes)
