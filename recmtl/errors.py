"""Every exception that a user can meet."""

from __future__ import annotations

import pickle
from pathlib import Path
from signal import Signals
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

MAX_SHOWN = 80  # characters of a value in a message
MAX_NAMES_LISTED = 6  # in a message
LONGEST_INTEGER = 4096  # bits that Python writes in digits
SITE = "_sitebuiltins"  # the module of `exit`


class Sendable(BaseException):
    """An exception that is made of something else than its message, and can be sent to another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[BaseException], message: tuple[object, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *message)
    vars(error).update(attributes)
    return error


class DataError(ValueError):
    """Rows or files that cannot be read, used or written."""


class ExistsError(DataError):
    """A folder to be written that exists already."""


class BadValueError(Sendable, ValueError):
    """A value that does not parse. The reader of the file adds where it stands.

    Args:
        row: The row within the batch, from 0.
        column: The column.
        value: The value.
        expected: What would be accepted.
        mask: All rows of the batch with this fault ``[rows]``; ``None`` if the whole column has it.
    """

    def __init__(
        self, row: int, column: str, value: object, expected: str, mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.row, self.column, self.value, self.expected, self.mask = row, column, value, expected, mask
        super().__init__(f"row {row}, {self.reason}")

    @property
    def reason(self) -> str:
        """The message without the row."""
        return f"column {self.column!r}: {shown(self.value)} is not {self.expected}"


class RequestError(Sendable, ValueError):
    """A request to score rows that cannot be read.

    Attributes:
        field: The field that is wrong, if it is one.
        row: Its row, from 0, if it is in a row.
        value: Its value.
    """

    def __init__(self, message: str, field: str | None = None, row: int | None = None, value: object = None) -> None:
        super().__init__(message)
        self.field, self.row, self.value = field, row, value


class SchemaError(ValueError):
    """A schema, dataset card or column that cannot be used."""


class RunError(ValueError):
    """A run folder or checkpoint that cannot be used."""


class UntrustedError(Sendable, RunError):
    """A recipe of a run that names a class, by its import path, of a module that is not trusted.

    Attributes:
        on_command_line: The message of a command, whose user types something else.
    """

    def __init__(self, recipe: Path, name: str) -> None:
        module = name.rpartition(".")[0]
        found = f"{recipe} names {name!r}, which is not trusted: if you trust its code, "
        super().__init__(f"{found}load the run by `load_run({str(recipe.parent)!r}, trust=[{module!r}])`")
        self.on_command_line = f"{found}add `--trust {module}` and call recmtl from the folder that holds the module"


class CallbackError(Sendable, RunError):
    """A callback that raised: its exception is the cause.

    Args:
        failure: What failed, in a sentence.
        step: The steps done.
        folder: The run folder that holds the state of the training; ``None`` if nothing does.
    """

    def __init__(self, failure: str, step: int, folder: Path | None) -> None:
        kept = f"the training up to step {step} is saved in {folder}, resume it there"
        lost = "without a run folder the training cannot be resumed"
        super().__init__(f"{failure}; {lost if folder is None else kept}" if step else failure)
        self.step, self.folder = step, folder


class DivergenceError(ValueError):
    """Training that diverged."""


class OutOfMemoryError(MemoryError):
    """Memory that cannot be allocated. The message names what it was for."""


class Interrupted(KeyboardInterrupt):
    """Training stopped by a signal after a step, with a checkpoint in the run folder to resume from.

    Attributes:
        status: The exit status of a command that it ends: 129 (SIGHUP), 130 (SIGINT) or 143 (SIGTERM).
    """

    def __init__(self, signal: Signals, folder: Path, step: int) -> None:
        super().__init__(f"stopped by {signal.name} after step {step}, with a checkpoint in {folder}")
        self.folder, self.status = folder, 128 + signal


class Terminated(KeyboardInterrupt):
    """A signal asked a command to end: what is half written is removed.

    Attributes:
        status: The exit status of the command: 129 (SIGHUP) or 143 (SIGTERM).
    """

    def __init__(self, signal: Signals) -> None:
        super().__init__(f"ended by {signal.name}")
        self.status = 128 + signal


class LostRankError(RuntimeError):
    """Another process has ended, or did not answer in time."""


class UsageError(ValueError):
    """Command-line options that are invalid or do not fit together."""


# Errors that a command prints in one line.
EXPECTED = (UsageError, DataError, SchemaError, RunError, DivergenceError, OutOfMemoryError, OSError)


class ToldError(Exception):
    """The end of a process by an error that another process prints.

    Args:
        error: The error.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def sendable_error(error: Exception) -> Exception:
    """Return an error as it can be sent to another process: itself, or one with its type and message as text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception of the user's raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def exit_error(error: SystemExit) -> UsageError:
    """Return the error of the user's own code that exits, with its file and line; the exit is its cause."""
    *_, (frame, line) = (found for found in walk_tb(error.__traceback__) if found[0].f_globals["__name__"] != SITE)
    found = UsageError(f"{frame.f_code.co_filename}, line {line}, ended the command by SystemExit: {error}")
    found.__cause__ = error
    return found


def one_line(error: Exception) -> str:
    """Return the message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {str(error.filename)!r}"
    return " ".join(str(error).split())


def shown(value: object) -> str:
    """Return a value as it is shown in a message."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    is_number = type(value).__module__ == "numpy" and not isinstance(value, str)
    text = str(value) if is_number else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def counted(count: int, noun: str) -> str:
    """Return a number of things as it is shown in a message.

    Example:
        >>> counted(1, "row"), counted(2_000, "row"), counted(2, "process")
        ('1 row', '2,000 rows', '2 processes')
    """
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def shortened(names: Iterable[str]) -> str:
    """Join names by commas, only the first ones if there are many."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMES_LISTED} more" if len(names) > MAX_NAMES_LISTED else ""
    return ", ".join(names[:MAX_NAMES_LISTED]) + more


def unreadable(name: str, error: Exception) -> DataError:
    """Build the error of a source that its reader could not read."""
    what = " ".join(map(str, error.args)) or type(error).__name__
    return DataError(f"{name} cannot be read: {' '.join(what.split()).rstrip('.')}")
