"""What every parity test needs: does a model of ours agree with theirs, and if not, from which layer on?"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Of values of size one; larger ones may differ more. Double precision shows whether it is the same mathematics.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


class Layer(NamedTuple):
    """Two modules whose outputs should be equal.

    Attributes:
        num_positions: where ours computes only the first so many positions, theirs all.
    """

    name: str
    ours: nn.Module
    theirs: nn.Module
    num_positions: int | None = None


def difference(ours: Tensor, theirs: Tensor, scale: float | None = None) -> float:
    """The largest one, as a share of what is tolerated for values up to ``scale`` (the largest of ``theirs`` unless given)."""
    assert ours.shape == theirs.shape, f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    assert ours.dtype == theirs.dtype
    largest = float(theirs.abs().max()) if scale is None else scale
    return float((ours - theirs).abs().max()) / (TOLERANCES[theirs.dtype] * max(1.0, largest))


@contextmanager
def agreeing(layers: Sequence[Layer]) -> Iterator[None]:
    """Both models run inside; afterwards the first layer whose outputs differ, in the order given, is named."""
    outputs: dict[tuple[str, str], Tensor] = {}

    def recorder(key: tuple[str, str]) -> Callable[[nn.Module, object, object], None]:
        def record(module: nn.Module, inputs: object, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            assert isinstance(tensor, Tensor)
            outputs[key] = tensor.detach()

        return record

    hooks = [
        module.register_forward_hook(recorder((layer.name, side)))
        for layer in layers
        for side, module in (("ours", layer.ours), ("theirs", layer.theirs))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        theirs = outputs[layer.name, "theirs"]
        if layer.num_positions is not None:
            theirs = theirs[:, : layer.num_positions]
        found = difference(outputs[layer.name, "ours"], theirs)
        assert found <= 1, f"the first layer that differs is {layer.name}, by {found:.2g} times what is tolerated"


def our_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients under the names of the state dict, where fused matrices appear part by part."""
    with torch.no_grad():
        shadow = copy.deepcopy(model)
        for shown, parameter in zip(shadow.parameters(), model.parameters(), strict=True):
            shown.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        return {name: tensor.clone() for name, tensor in shadow.state_dict().items()}


def their_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients under the names of the state dict; what is not differentiated is left out."""
    tensors = model.state_dict(keep_vars=True)
    return {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}


def assert_gradients_agree(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Names every weight whose gradients differ."""
    assert ours.keys() == theirs.keys()
    # One scale for all: the gradient of a key's bias, say, is zero, computed as a difference of larger numbers.
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    found = {name: difference(ours[name], theirs[name], scale) for name in ours}
    differing = {name: f"{value:.2g}" for name, value in found.items() if not value <= 1}
    assert not differing, f"gradients that differ, in units of what is tolerated: {differing}"


def randomize(model: nn.Module) -> None:
    """Weights of a size at which every part matters; fresh models hide biases, norms and saturated attention."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm_weight = "norm" in name and name.endswith("weight")
            parameter.normal_(mean=1.0 if is_norm_weight else 0.0, std=0.3)
