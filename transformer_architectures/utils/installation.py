"""How this library is installed, and how the user installs what is missing."""

from importlib.resources import files
from pathlib import Path

from transformer_architectures.utils.console import uv


def is_checkout() -> bool:
    """Whether the package is used from its repository, and not from a wheel."""
    project = Path(str(files("transformer_architectures"))).parent / "pyproject.toml"
    return project.is_file() and 'name = "transformer-architectures"' in project.read_text(encoding="utf-8")


def how_to_install(group: str, *pip_arguments: str) -> str:
    """The commands that install a dependency of the embedded data, as the end of a message.

    Args:
        group: the dependency group of `pyproject.toml` that has it. Only a checkout has groups.
        pip_arguments: of ``pip install``.
    """
    pip = f"pip install {' '.join(pip_arguments)}"
    return f"run `{uv('sync', '--group', group)}` or `{pip}`" if is_checkout() else f"run `{pip}` or `uv {pip}`"
