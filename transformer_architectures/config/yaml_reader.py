"""YAML as people mean it: 1e-3 is a number, a key stands once, ``${VAR}`` is replaced in parsed scalars."""

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from transformer_architectures.errors import ConfigError

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats, and without its habit of keeping the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where a float needs a dot: 1e-3 would be a string.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, origin: str) -> Any:
    """Parses one document. ``origin`` names it in errors.

    Raises:
        ConfigError: one line with the place of a syntax error or of a duplicate key.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{origin}:{mark.line + 1}" if mark else origin
        raise ConfigError(f"{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {' '.join(str(error).split())}") from None


def read_yaml(path: str | Path) -> Any:
    """The parsed content of a file, variables not yet replaced."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    return parse_yaml(text, str(path))


def interpolate(value: Any, place: str) -> Any:
    """Replaces ``${VAR}`` and ``${VAR:-default}`` in every string of a parsed document.

    A scalar that is one variable and nothing else is read again as YAML, so that numbers stay numbers.
    """
    if isinstance(value, dict):
        return {key: interpolate(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        found = os.environ.get(name) or default
        if found is None:
            raise ConfigError(
                f"{place}: the environment variable {name} is not set (write ${{{name}:-default}} for a default)"
            )
        return found

    replaced = VARIABLE.sub(substitute, value)
    if VARIABLE.fullmatch(value):
        scalar = parse_yaml(replaced, place)
        return scalar if isinstance(scalar, (int, float, bool, str)) or scalar is None else replaced
    return replaced
