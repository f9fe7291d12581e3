"""What is said of data that cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be read or used, said in one sentence with the place where it stands."""


class ExistsError(DataError):
    """A folder that was to be written is there already."""


class BadValueError(ValueError):
    """A value that does not parse, found while a batch is converted; its place is added by who knows the file.

    Args:
        row: The row within the batch, from 0.
        column: The column.
        value: The value.
        expected: What would be accepted.
    """

    def __init__(self, row: int, column: str, value: object, expected: str) -> None:
        super().__init__(f"row {row}, column {column!r}: {value!r} is not {expected}")
        self.row, self.column, self.value, self.expected = row, column, value, expected
