"""Every error that the library raises on purpose, each with the exit code of the commands (0 done, 2 usage, 1 the rest)."""

import traceback

MAX_ERROR = 300  # characters of somebody else's message


class TransformerArchitecturesError(Exception):
    """Base of all errors of this library. The message is one line that says what is wrong and what to do.

    It may quote names and values that others have chosen: what cannot be printed of them (line breaks, a terminal's commands) is escaped.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


def reason_of(error: Exception) -> str:
    """Why something cannot be read or written, in one line. Files are not named: the message of which this is a part has done so."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def in_short(error: Exception) -> str:
    """An error of somebody else's code in one line, and not all of a long list."""
    line = reason_of(error)
    return line if len(line) <= MAX_ERROR else f"{line[:MAX_ERROR]} ..."


def release_frames(error: BaseException | None) -> None:
    """Lets go of all that the frames of an error, and of those that it came from, still hold: loaders, models, connections."""
    known = set()
    while error is not None and id(error) not in known:
        known.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class ConfigError(TransformerArchitecturesError):
    """A configuration file, or an override of it, is wrong."""

    exit_code = 2


class UsageError(TransformerArchitecturesError, ValueError):
    """A command or a function was called with options that do not exist or do not fit together."""

    exit_code = 2


class DataError(TransformerArchitecturesError):
    """Input data is missing or damaged, or too much of it had to be rejected."""


class CheckpointError(TransformerArchitecturesError):
    """A checkpoint is missing, damaged or does not fit."""


class ModelFolderError(TransformerArchitecturesError):
    """A finished model folder is incomplete, damaged or of another task."""


class UnknownModelError(ModelFolderError, UsageError):
    """A published checkpoint's folder is of a model that this library does not have."""

    exit_code = 2


class NonFiniteError(TransformerArchitecturesError):
    """Loss or gradient became NaN or infinite; the weights were left as they were before the step."""


class LostRankError(TransformerArchitecturesError):
    """Another process of the run was killed, stopped or cut off; the run can go on from its last checkpoint."""


class FailedRankError(TransformerArchitecturesError):
    """Another process of the run has ended it with an error of its own, and said which."""


class LostWorkerError(TransformerArchitecturesError):
    """A process that loads batches was killed or stopped; the run can go on from its last checkpoint."""


class TrackingError(TransformerArchitecturesError):
    """The experiment store cannot be read or written outside of training (training itself never stops for it)."""
