"""Declared initialisation: for each class of module the distribution of its parameters, and whether weight decay applies to them.

A table maps a class to its parameters::

    TABLE = {
        nn.Linear: {"weight": normal(0.02), "bias": zeros},
        nn.LayerNorm: {"weight": ones, "bias": zeros},
    }

A model class keeps its table as the class attribute ``initialization``. A module whose class (or base class) has no row is an error, and
so is a parameter that its row does not name: a new part cannot be forgotten. `initialize` draws in the order of ``model.modules()`` and,
within a module, in the order of its row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from transformer_architectures.errors import UsageError

Std = float | Callable[[Any], float]  # of a module


@dataclass(frozen=True)
class Initializer:
    """How a parameter is filled.

    Attributes:
        fill: fills a tensor in place; the second argument is its module.
        decays: whether weight decay applies: to what multiplies its input or looks it up, not to what is only added.
    """

    fill: Callable[[Tensor, Any], object]
    decays: bool = True

    def without_decay(self) -> "Initializer":
        """The same distribution, without weight decay: biases, norms, tables of positions, learned tokens."""
        return replace(self, decays=False)


def normal(std: Std) -> Initializer:
    """Normal distribution with mean zero; ``std`` may be a function of the module."""
    return Initializer(lambda tensor, module: nn.init.normal_(tensor, std=std(module) if callable(std) else std))


def xavier_uniform() -> Initializer:
    """Uniform distribution that keeps the variance forward and backward (Glorot & Bengio 2010)."""
    return Initializer(lambda tensor, module: nn.init.xavier_uniform_(tensor))


def for_each_part(initializer: Initializer) -> Initializer:
    """Fills each part of a fused layer as a matrix of its own (see `kernels.fused_linear`)."""

    def fill(tensor: Tensor, module: Any) -> None:
        for part in module.parts(tensor).values():
            initializer.fill(part, module)

    return replace(initializer, fill=fill)


zeros = Initializer(lambda tensor, module: nn.init.zeros_(tensor), decays=False)
ones = Initializer(lambda tensor, module: nn.init.ones_(tensor), decays=False)

# A class that is declared further down is given by its name.
InitializationTable = Mapping[type[nn.Module] | str, Mapping[str, Initializer]]


@torch.no_grad()
def initialize(model: nn.Module, table: InitializationTable) -> None:
    """Fills all parameters of a model, or of a part of one, by the table.

    Raises:
        UsageError: a module with parameters has no row, or its row does not name one of them.
    """
    for prefix, module in model.named_modules():
        for name, initializer in _initializers(prefix, module, table).items():
            initializer.fill(getattr(module, name), module)


def decayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters to which weight decay applies, tied ones under their first name.

    A module without a table, of its own or of a module that holds it, has those that are matrices and called ``weight``, unless its class
    says ``decays = False``.

    Raises:
        UsageError: a table does not name a parameter.
    """
    decayed, seen = set(), set()
    tables: dict[str, InitializationTable | None] = {}
    for prefix, module in model.named_modules():
        parent = tables.get(prefix.rpartition(".")[0]) if prefix else None
        table = tables[prefix] = getattr(module, "initialization", None) or parent
        initializers = {} if table is None else _initializers(prefix, module, table)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_matrix = name == "weight" and parameter.dim() >= 2 and getattr(module, "decays", True)
            if is_matrix if table is None else initializers[name].decays:
                decayed.add(f"{prefix}.{name}".removeprefix("."))
    return decayed


def _initializers(prefix: str, module: nn.Module, table: InitializationTable) -> dict[str, Initializer]:
    """The initialiser of each parameter that a module itself has."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    if not names:
        return {}
    kinds = (key for kind in type(module).__mro__ for key in (kind, kind.__name__) if key in table)
    row = next((table[key] for key in kinds), None)
    place = f"{prefix} ({type(module).__name__})" if prefix else type(module).__name__
    if row is None:
        raise UsageError(f"{place}: the table of initialisation has no row for this class: add one")
    if missing := [name for name in names if name not in row]:
        raise UsageError(f"{place}: the table of initialisation does not name {missing[0]}: add it to the row")
    return {name: initializer for name, initializer in row.items() if name in names}
