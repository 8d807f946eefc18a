"""YAML as people mean it: 1e-3 is a number, a key stands once, ``${VAR}`` is replaced in parsed scalars."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from transformer_architectures.errors import ConfigError, reason_of

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


MAX_BYTES = 2**20  # of a config file
MAX_VALUES = 100_000  # of a config: aliases of aliases could name more than fit into memory


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats, without dates, and without its habit of keeping the last of two equal keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, as it was typed: when it is constructed, the keys of a merge (``<<``) stand in it too.
        node = super().compose_mapping_node(anchor)
        assert node is not None
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Merges of merges (``<<: [*a, *a]``) multiply as aliases do, but here, before there is anything to count.
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        parts = [
            part for value in merged for part in (value.value if isinstance(value, yaml.SequenceNode) else [value])
        ]
        mappings = [part for part in parts if isinstance(part, yaml.MappingNode)]
        for mapping in mappings:
            self.flatten_mapping(mapping)
        if sum(len(mapping.value) for mapping in mappings) > MAX_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"merges more than {MAX_VALUES:,} keys", node.start_mark
            )
        super().flatten_mapping(node)


# PyYAML follows YAML 1.1, where a float needs a dot (1e-3 would be a string) and a date is not text.
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    ]
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
        document = yaml.load(text, Loader=_Loader)
        size = _expanded_size(document, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{origin}:{mark.line + 1}" if mark else origin
        raise ConfigError(f"{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {' '.join(str(error).split())}") from None
    except Exception as error:  # 0x_ looks like a number and is none; other tags raise whatever they stumble over
        raise ConfigError(f"{origin}: {' '.join(str(error).split()) or type(error).__name__}") from None
    if size > MAX_VALUES:
        raise ConfigError(f"{origin}: more than {MAX_VALUES:,} values, as aliases repeat them")
    return document


def _expanded_size(value: Any, sizes: dict[int, int]) -> int:
    """Number of values, one that aliases repeat counted as often as they do; an alias inside of its own value is without end."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = MAX_VALUES  # what it is worth to itself
        children = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(value)]


def read_yaml(path: str | Path) -> Any:
    """The parsed content of a file, variables not yet replaced."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a zero byte in the path
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)})") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES:,} bytes: no config")
    return parse_yaml(text, str(path))


def interpolate(value: Any, place: str) -> Any:
    """Replaces ``${VAR}`` and ``${VAR:-default}`` in every string of a parsed document.

    A scalar that is one variable and nothing else may be a number, a truth value or null, as in YAML; any other text
    stays as it is, whatever signs it holds (a path may have ``#`` or ``[`` in it).
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
                f"{place}: the environment variable {name} is not set, or empty (write ${{{name}:-default}} for a default)"
            )
        return found

    replaced = VARIABLE.sub(substitute, value)
    if VARIABLE.fullmatch(value):
        tag = _Loader("").resolve(yaml.ScalarNode, replaced, (True, False))  # type: ignore[no-untyped-call]
        if tag.rpartition(":")[2] in ("int", "float", "bool", "null"):
            return parse_yaml(replaced, place)
    return replaced
