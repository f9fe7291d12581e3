"""What is said of data that cannot be used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHOWN = 80  # characters of a value


class DataError(ValueError):
    """Data that cannot be read or used, said in one sentence with the place where it stands."""


def unreadable(name: str, error: Exception) -> DataError:
    """Say of a source why its reader gave up."""
    what = " ".join(map(str, error.args)) or type(error).__name__
    return DataError(f"{name} cannot be read: {' '.join(what.split()).rstrip('.')}")


class ExistsError(DataError):
    """A folder that was to be written is there already."""


class BadValueError(ValueError):
    """A value that does not parse, found while a batch is converted; its place is added by who knows the file.

    Args:
        row: The row within the batch, from 0.
        column: The column.
        value: The value.
        expected: What would be accepted.
        mask: All rows of the batch that are at fault in this way ``[rows]``; ``None`` where the whole column is.
    """

    def __init__(
        self, row: int, column: str, value: object, expected: str, mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.row, self.column, self.value, self.expected, self.mask = row, column, value, expected, mask
        super().__init__(f"row {row}, {self.reason}")

    @property
    def reason(self) -> str:
        """The error without the row."""
        shown = repr(self.value.decode(errors="replace") if isinstance(self.value, bytes) else self.value)
        if len(shown) > SHOWN:
            shown = f"{shown[:SHOWN]}…"
        return f"column {self.column!r}: {shown} is not {self.expected}"


class SchemaError(ValueError):
    """A schema, dataset card or column that cannot be used, said in one sentence."""


class OutOfMemoryError(MemoryError):
    """Memory that cannot be had, said in one sentence with what asked for it."""


class RunError(ValueError):
    """A run folder or checkpoint that cannot be used, said in one sentence."""


class DivergenceError(ValueError):
    """A training that went wrong beyond repair, said in one sentence."""
