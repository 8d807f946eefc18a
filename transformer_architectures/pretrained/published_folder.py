"""The files of a published checkpoint's folder: ``config.json`` and ``model.safetensors``; nothing else is read, no pickle."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from transformer_architectures.errors import ModelFolderError, reason_of
from transformer_architectures.feedforward import ActivationName

CONFIG, WEIGHTS, PICKLED_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"

# Names in `transformers`; the first one of each activation is the one that is written.
ACTIVATIONS: dict[str, ActivationName] = {
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

Model = TypeVar("Model", bound=BaseModel)


def read_config(path: Path) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        ModelFolderError: it is missing, or no JSON object.
    """
    try:
        content = json.loads((path / CONFIG).read_bytes())
    except OSError as error:
        raise ModelFolderError(f"{CONFIG} cannot be read ({reason_of(error)})") from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{CONFIG} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelFolderError(f"{CONFIG} should be an object, not a {type(content).__name__}")
    return content


def named_labels(names: Sequence[str]) -> dict[str, Any]:
    """The keys of ``config.json`` that name a classifier's outputs; none where there are none."""
    if not names:
        return {}
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def read_weights(path: Path, converter: str) -> dict[str, Tensor]:
    """The content of ``model.safetensors``.

    Args:
        converter: Python that makes it from a pickle that somebody trusts; part of the error message.

    Raises:
        ModelFolderError: it is missing or damaged.
    """
    if not (path / WEIGHTS).is_file():
        if (path / PICKLED_WEIGHTS).is_file():
            raise ModelFolderError(
                f"{PICKLED_WEIGHTS} is a pickle, which may run any code when it is read; if you trust it, convert it: "
                f'python -c "{converter}"'
            )
        raise ModelFolderError(f"{WEIGHTS} is missing")
    try:
        with safe_open(path / WEIGHTS, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{WEIGHTS} is damaged ({error})") from None


def validated(model: type[Model], content: object, what: str = "") -> Model:
    """The content as a checked model.

    Raises:
        ModelFolderError: in one line, what is wrong first; ``what`` stands before it.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelFolderError(
            what + (f"{place}: " if place else "") + first["msg"].removeprefix("Value error, ")
        ) from None
