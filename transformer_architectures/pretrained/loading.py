"""Giving a model the weights that `Model.pretrained` found."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from transformer_architectures.errors import ModelFolderError


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], origin: str | Path, new_parts: Collection[str] = ()
) -> None:
    """Loads a state dict. The parts named in ``new_parts`` (first words of the names) stay as they were drawn.

    Args:
        origin: where the weights are from; part of the error message.

    Raises:
        ModelFolderError: a weight is missing, is not the model's, or has another shape.
    """
    kept = {name: tensor for name, tensor in weights.items() if part_of(name) not in new_parts}
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise ModelFolderError(f"{origin}: {' '.join(str(error).split())}") from None
    wrong = [*unexpected, *(name for name in missing if part_of(name) not in new_parts)]
    if wrong:
        raise ModelFolderError(f"{origin}: weights do not fit config.json: {wrong[0]}")


def part_of(name: str) -> str:
    """The part of a model that a weight belongs to: the first word of its name."""
    return name.split(".")[0]
