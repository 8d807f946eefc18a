"""The declared table of initialisation: nothing is forgotten, and the same table says what decays."""

import pytest
import torch
from torch import nn

from transformer_architectures.errors import UsageError
from transformer_architectures.kernels.fused_linear import FusedLinear
from transformer_architectures.utils.initialization import (
    InitializationTable,
    decayed_parameters,
    for_each_part,
    initialize,
    normal,
    ones,
    xavier_uniform,
    zeros,
)

TABLE: InitializationTable = {
    nn.Linear: {"weight": normal(0.5), "bias": zeros},
    nn.LayerNorm: {"weight": ones, "bias": zeros},
    "Model": {"token": normal(lambda model: model.size).without_decay()},
}


class Model(nn.Module):
    initialization = TABLE

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.size = 3.0
        self.token = nn.Parameter(torch.empty(2000))
        self.parts = nn.ModuleList(parts)


def test_every_parameter_gets_its_distribution(seed: int) -> None:
    model = Model(nn.Linear(60, 70), nn.LayerNorm(5))
    initialize(model, TABLE)
    linear, norm = model.parts
    assert isinstance(linear, nn.Linear) and isinstance(norm, nn.LayerNorm)
    assert linear.weight.std().item() == pytest.approx(0.5, rel=0.1) and not linear.bias.any()
    assert model.token.std().item() == pytest.approx(3.0, rel=0.2)
    assert bool((norm.weight == 1).all()) and not norm.bias.any()
    assert decayed_parameters(model) == {"parts.0.weight"}


def test_what_is_not_declared_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"parts.0 \(Embedding\): .* no row"):
        initialize(Model(nn.Embedding(3, 4)), TABLE)
    with pytest.raises(UsageError, match=r"parts.0 \(Embedding\)"):
        decayed_parameters(Model(nn.Embedding(3, 4)))
    with pytest.raises(UsageError, match=r"Linear: .* does not name bias"):
        initialize(nn.Linear(2, 2), {nn.Linear: {"weight": ones}})
    initialize(nn.Linear(2, 2, bias=False), {nn.Linear: {"weight": ones}})


def test_a_subclass_has_the_row_of_its_base_unless_it_has_one(seed: int) -> None:
    class Special(nn.Linear):
        pass

    special = Special(3, 3)
    initialize(special, TABLE)
    assert special.weight.any()
    initialize(special, {**TABLE, Special: {"weight": zeros, "bias": ones}})
    assert not special.weight.any() and bool((special.bias == 1).all())


def test_parts_of_a_fused_layer_are_matrices_of_their_own(seed: int) -> None:
    fused = FusedLinear(64, 64, ("query", "key", "value"))
    initialize(fused, {FusedLinear: {"weight": for_each_part(xavier_uniform()), "bias": zeros}})
    limit = (6 / 128) ** 0.5
    assert 0.98 * limit < fused.weight.abs().max().item() <= limit


def test_tied_weights_count_under_their_first_name(seed: int) -> None:
    model = Model(nn.Linear(4, 4), nn.Linear(4, 4))
    first, second = model.parts
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    second.weight = first.weight
    assert decayed_parameters(model) == {"parts.0.weight"}
