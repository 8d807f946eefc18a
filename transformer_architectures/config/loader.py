"""Config files: sections of YAML, checked against pydantic models, every error in one line."""

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ValidationError

from transformer_architectures.config.strict_model import StrictModel
from transformer_architectures.config.yaml_reader import interpolate, parse_yaml, read_yaml
from transformer_architectures.errors import ConfigError

# What may differ between two runs of "the same configuration" (DESIGN §9): where it lies, who watches, how long it lasts.
NOT_IN_FINGERPRINT = {
    "Training": {
        "checkpoint_root", "run_name", "experiment", "log_interval", "histogram_interval", "device", "max_steps", "max_epochs",
        "hang_timeout", "sharding", "cpu_offload", "activation_checkpointing"
    }
}  # fmt: skip


M = TypeVar("M", bound=BaseModel)


def load_config(path: str | Path, section: str, PydanticModelClass: type[M], overrides: Sequence[str] = ()) -> M:
    """One section of a config file as an instance of its model; a missing section is an empty one.

    Args:
        overrides: ``Section.key=value`` each; dots reach nested keys, the value is read as YAML.

    Raises:
        ConfigError: one line with file, section, key and what was expected.
    """
    return validate_section(read_sections(path, overrides), path, section, PydanticModelClass)


class Sections(dict[str, StrictModel]):
    """The checked sections of a config, by name."""

    def of(self, model: type[M]) -> M:
        """The section that is of this class."""
        return next(section for section in self.values() if isinstance(section, model))


def load_sections(path: str | Path, models: Mapping[str, type[StrictModel]], overrides: Sequence[str] = ()) -> Sections:
    """All sections of a file, each by its model; a section that no model is given for is an error."""
    document = read_sections(path, overrides)
    for name in document:
        if name not in models:
            raise ConfigError(f"{path}: unknown section {name}{_suggestion(name, models)}")
    return Sections({name: validate_section(document, path, name, model) for name, model in models.items()})


def read_sections(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The parsed file as section -> mapping, with overrides applied and variables replaced."""
    document = read_yaml(path)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections such as `Model:`, found {type(document).__name__}")
    for name, section in document.items():
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{path}: section {name}: expected keys and values, found {type(section).__name__}")
    sections: dict[str, Any] = {str(name): section or {} for name, section in document.items()}
    for override in overrides:
        apply_override(sections, override)
    return {name: interpolate(section, f"{path}: {name}") for name, section in sections.items()}


def apply_override(sections: dict[str, Any], override: str) -> None:
    """Sets one ``Section.key[.key...]=value`` in place."""
    key, equals, value = override.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2 or not all(names):
        raise ConfigError(f"--set {override}: expected Section.key=value, for example Training.max_steps=200")
    target = sections
    for name in names[:-1]:
        nested = target.setdefault(name, {})
        if nested is None:
            nested = target[name] = {}
        if not isinstance(nested, dict):
            raise ConfigError(f"--set {override}: {name} is a value, not a group of keys")
        target = nested
    target[names[-1]] = parse_yaml(value, f"--set {override}")


def validate_section(sections: Mapping[str, Any], path: str | Path, section: str, model: type[M]) -> M:
    """Checks one section against its model."""
    try:
        # As JSON, since YAML has no tuples either: a list is one where the model says so.
        return model.model_validate_json(json.dumps(sections.get(section, {}), default=str))
    except ValidationError as error:
        problems = [_describe(problem, model) for problem in error.errors(include_url=False)]
        raise ConfigError(f"{path}: {section}: {'; '.join(dict.fromkeys(problems))}") from None
    except (TypeError, ValueError, RecursionError) as error:  # a key that is no text, a number of thousands of digits
        raise ConfigError(f"{path}: {section}: {error}") from None


def fingerprint(sections: Mapping[str, BaseModel]) -> str:
    """SHA-256 of a configuration, leaving out what does not change what is learned (see `NOT_IN_FINGERPRINT`)."""
    return fingerprint_of({name: section.model_dump(mode="json") for name, section in sections.items()})


def fingerprint_of(content: Mapping[str, Mapping[str, Any]]) -> str:
    """The fingerprint of sections that are plain values, as they are kept."""
    counted = {
        name: {key: value for key, value in section.items() if key not in NOT_IN_FINGERPRINT.get(name, ())}
        for name, section in content.items()
    }
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the library, by name: inside the package in a wheel, beside it in a checkout."""
    package = Path(str(files("transformer_architectures")))
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    # As the user would type it, where that is shorter.
    relative = os.path.relpath(folder)
    folder = folder if relative.startswith("..") else Path(relative)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def default_config_path(architecture: str) -> Path:
    """``configs/<architecture>_default.yaml``, found from any folder.

    Raises:
        ConfigError: there is no such file.
    """
    name = f"{architecture}_default"
    if (path := shipped_configs().get(name)) is None:
        raise ConfigError(f"there is no configs/{name}.yaml")
    return path


def find_config(path_or_name: str) -> str:
    """The path of a config file, which is given by its path or as the name of a shipped config. An existing file wins.

    Raises:
        ConfigError: there is neither; the names are listed.
    """
    shipped = shipped_configs()
    if path_or_name in shipped and not os.path.isfile(path_or_name):
        return str(shipped[path_or_name])
    if not os.path.lexists(path_or_name):
        raise ConfigError(
            f"{path_or_name}: no such file, and no shipped config of this name: give the path of a YAML file, or one of "
            f"{', '.join(shipped)}"
        )
    return path_or_name


def _describe(problem: Any, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    prefix = f"{key}: " if key else ""
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        if name in _other_names(model):
            return f"{prefix}another name of {_other_names(model)[name]}, which is given too"
        if name in (known := _field_names(model)):
            return f"{prefix}unknown key at this place: {name} belongs to {' or '.join(_owners(name, model))}"
        return f"{prefix}unknown key{_suggestion(name, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    if problem["type"] in ("missing", "value_error"):
        return f"{prefix}{message}"
    return f"{prefix}{message[0].lower()}{message[1:]}, found {found!r}"


def _field_names(model: type[BaseModel]) -> set[str]:
    """Names of all fields, nested models included (a suggestion only)."""
    return {name for name, _ in _fields(model)}


def _owners(name: str, model: type[BaseModel]) -> list[str]:
    """The keys under which a field of this name stands."""
    return sorted({owner for field, owner in _fields(model) if field == name})


def _fields(model: type[BaseModel], owner: str = "the section itself") -> Iterator[tuple[str, str]]:
    """All fields, nested models included, each with the key whose value has it."""
    for name, field in model.model_fields.items():
        yield name, owner
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _fields(candidate, name)


def _other_names(model: type[BaseModel]) -> dict[str, str]:
    """Older names of fields, each with the name of today."""
    return {
        str(other): name
        for name, field in model.model_fields.items()
        if isinstance(field.validation_alias, AliasChoices)
        for other in field.validation_alias.choices
        if other != name
    }


def _suggestion(name: object, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(sorted(known))})"
