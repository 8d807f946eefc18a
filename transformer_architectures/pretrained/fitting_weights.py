"""A model from a declaration and weights that somebody else brought: it is made only if they fit each other."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def model_with_weights(build: Callable[[], M], weights: Mapping[str, Tensor]) -> M:
    """The model that ``build`` makes, with these weights, on the CPU; the caller's random numbers do not move.

    It is made first without memory for its weights: sizes that a config claims, and the weights do not have, cost nothing.

    Raises:
        ValueError: a weight is missing, is not the model's, or has another shape.
    """
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            claimed = {name: tensor.shape for name, tensor in build().state_dict().items()}
        if different := sorted(claimed.keys() ^ weights.keys()):
            where = "missing" if different[0] in claimed else "not the model's"
            raise ValueError(f"{different[0]} is {where}")
        for name, shape in claimed.items():
            if weights[name].shape != shape:
                raise ValueError(f"{name} has the shape {tuple(weights[name].shape)} instead of {tuple(shape)}")
        model = build()
    model.load_state_dict(weights)
    return model


def part_of(name: str) -> str:
    """The part of a model that a weight belongs to: the first word of its name."""
    return name.split(".")[0]


def in_order_of(
    wanted: Sequence[str], classes: Sequence[str], weights: Mapping[str, Tensor], parts: Collection[str]
) -> dict[str, Tensor]:
    """The weights with the rows of classifiers in another order of the same classes.

    Args:
        parts: those whose rows are classes.
    """
    places = {name: index for index, name in enumerate(classes)}
    rows = [places[name] for name in wanted]
    return {name: tensor[rows] if part_of(name) in parts else tensor for name, tensor in weights.items()}
