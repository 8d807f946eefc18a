"""Commands whose options are pydantic models: one declaration makes the command line, its help, its errors and the Python signature."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from transformer_architectures.config.strict_model import StrictModel
from transformer_architectures.errors import UsageError

O = TypeVar("O", bound="Options")


class Options(StrictModel):
    """The options of a method. Each field has a default, a description and, on the command line, a flag."""


def option(default: Any, description: str, flag: str | None = None, command_only: bool = False, **limits: Any) -> Any:
    """Declares an option.

    Args:
        flag: on the command line; ``--name-of-field`` unless given.
        command_only: it does not exist in Python, for example the name of a file whose content Python passes itself.
        limits: as of `pydantic.Field`, for example ``ge=1``.
    """
    extra: dict[str, Any] = {"flag": flag, "command_only": command_only}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def flags(options: type[Options]) -> dict[str, str]:
    """Flag to field name."""
    return {_flag(name, field): name for name, field in options.model_fields.items()}


def read_options(options: type[O], given: Mapping[str, Any], as_flags: bool = False) -> O:
    """The checked options.

    Args:
        given: by field name; None counts as not given.
        as_flags: whether errors name flags of the command line, or arguments.

    Raises:
        UsageError: an option does not exist, or has a wrong value: one line that names it.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(values.keys() - options.model_fields.keys()):
        raise UsageError(f"{unknown[0]} is no option here (known: {', '.join(options.model_fields)})")
    try:
        return options.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        shown = _flag(name, options.model_fields[name]) if as_flags and name in options.model_fields else name
        message = problem["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"{shown}: {message[0].lower()}{message[1:]}, not {problem.get('input')!r}".lstrip(": ")
        ) from None


def python_signature(method: Callable[..., Any], options: type[Options]) -> inspect.Signature:
    """The signature of a method with its ``**options`` spelled out, for `help` and editors."""
    signature = inspect.signature(method)
    kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
        for name, field in options.model_fields.items()
        if not _extra(field).get("command_only")
    ]
    return signature.replace(parameters=[*kept, *named])


def command_parameters(options_by_task: Mapping[str, type[Options]]) -> list[inspect.Parameter]:
    """The options of all tasks as parameters of one typer command, each with the tasks that it belongs to in its help.

    All default to None: what was not given is left to the model of the task.
    """
    found: dict[str, tuple[FieldInfo, str, list[str]]] = {}
    for task, options in options_by_task.items():
        for flag, name in flags(options).items():
            field, _, tasks = found.setdefault(flag, (options.model_fields[name], name, []))
            tasks.append(task)
    return [
        inspect.Parameter(
            _parameter(flag),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _optional(field.annotation),
                typer.Option(flag, help=_help(field, tasks if len(tasks) < len(options_by_task) else [])),
            ],
        )
        for flag, (field, _, tasks) in found.items()
    ]


def given_options(
    options: type[O], parameters: Mapping[str, Any], options_by_task: Mapping[str, type[Options]], place: str
) -> O:
    """The options of one task out of a command's parameters.

    Args:
        place: what the command does for which task, for the error: "predict for translation".

    Raises:
        UsageError: an option was given that the task does not have, or a value is wrong.
    """
    own = flags(options)
    for flag in dict.fromkeys(flag for other in options_by_task.values() for flag in flags(other)):
        if parameters.get(_parameter(flag)) is not None and flag not in own:
            raise UsageError(f"{flag} does not belong to {place} (known: {', '.join(sorted(own))})")
    return read_options(options, {name: parameters.get(_parameter(flag)) for flag, name in own.items()}, as_flags=True)


def _extra(field: FieldInfo) -> Mapping[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}


def _flag(name: str, field: FieldInfo) -> str:
    return str(_extra(field).get("flag") or f"--{name.replace('_', '-')}")


def _parameter(flag: str) -> str:
    return f"option_{flag.strip('-').replace('-', '_')}"


def _optional(annotation: Any) -> Any:
    return annotation if type(None) in getattr(annotation, "__args__", ()) else annotation | None


def _help(field: FieldInfo, tasks: list[str]) -> str:
    return f"{field.description} ({', '.join(tasks)})" if tasks else str(field.description)
