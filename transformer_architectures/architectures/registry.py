"""All architectures, by name: those of this library and of every installed package that declares one.

A package declares an architecture by an entry point, in its ``pyproject.toml``::

    [project.entry-points."transformer_architectures.architectures"]
    mine = "my_package.mine:MINE"           # an `Architecture`

This library's own are declared in the same way. `register` adds one for the running process only.
"""

from importlib.metadata import entry_points
from typing import Any

from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.errors import UsageError

GROUP = "transformer_architectures.architectures"

_registered: dict[str, Architecture] = {}


def register(architecture: Architecture) -> Architecture:
    """Makes an architecture known in this process, for scripts and notebooks; returns it.

    Raises:
        UsageError: another architecture has that name.
    """
    if architecture.name in _declared() or _registered.get(architecture.name, architecture) != architecture:
        raise UsageError(f"architecture {architecture.name} exists already: choose another name")
    _registered[architecture.name] = architecture
    return architecture


def architecture_names() -> list[str]:
    """Names of all architectures, sorted. Imports none of them.

    Raises:
        UsageError: two packages declare the same name.
    """
    return sorted({*_declared(), *_registered})


def find_architecture(name: str) -> Architecture | None:
    """The architecture of that name; None if there is none.

    Raises:
        UsageError: two packages declare the same name, or what a package declares cannot be used.
    """
    if name in _registered:
        return _registered[name]
    if (entry := _declared().get(name)) is None:
        return None
    try:
        architecture = entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"architecture {name}: {_package(entry)} declares {entry.value}, which fails: {error}"
        ) from None
    if not isinstance(architecture, Architecture) or architecture.name != name:
        raise UsageError(
            f"architecture {name}: {_package(entry)} declares {entry.value}, which is no Architecture of that name"
        )
    return architecture


def all_architectures() -> list[Architecture]:
    """All architectures, in the order of their names."""
    found = map(find_architecture, architecture_names())
    return [architecture for architecture in found if architecture is not None]


def _declared() -> dict[str, Any]:
    """Entry points by name. Where `importlib_metadata` is imported, they are of that package's class."""
    declared: dict[str, Any] = {}
    for entry in entry_points(group=GROUP):
        other = declared.setdefault(entry.name, entry)
        if other.value != entry.value:
            packages = " and ".join(sorted({_package(other), _package(entry)}))
            raise UsageError(f"architecture {entry.name}: {packages} both declare this name: uninstall one of them")
    return declared


def _package(entry: Any) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
