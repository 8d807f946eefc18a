"""A model from a declaration and weights that somebody else brought: it is made only if they fit each other."""

from collections.abc import Callable, Mapping
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
