"""What every source of rows can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa

from recmtl.errors import BadValueError, DataError


class Source(ABC):
    """Rows that can be streamed any number of times.

    Attributes:
        name: What to call them in an error.
        columns: Their columns.
        parses: Whether reading them takes more time than reading what was parsed.
        notes: What was noticed when they were last read to their end, in sentences.
    """

    name: str
    columns: tuple[str, ...]
    parses = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows.

        Args:
            columns: The columns to read.
            numbers: Those of them that are read as numbers where the source has no types of its own; the others are
                read as text.
            malformed: Called for each record that is left out as it has a wrong number of columns; ``None`` makes it
                an error. Where it is given, a source without types of its own gives all columns as bytes.
        """

    def fault(self, bad: BadValueError, offset: int) -> DataError:
        """Say where a bad value stands.

        Args:
            bad: The value.
            offset: The number of rows before its batch.
        """
        return DataError(f"{self.place(offset + bad.row)}, {bad.reason}")

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Say why rows were left out, and where they stand, in their order.

        Args:
            bad: The values that do not parse, by the number of the row among those that the source gives.
        """
        return (f"{self.place(row)}, {bad[row].reason}" for row in sorted(bad))

    def place(self, row: int) -> str:
        """Name a row (from 0) in the words that find it again."""
        return f"{self.name}, row {row + 1}"


class WrappedSource(Source):
    """A source that gives the rows of another and speaks of them in its words.

    Args:
        source: The other.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.columns, self._source = source.name, source.columns, source

    def fault(self, bad: BadValueError, offset: int) -> DataError:
        """Say where a bad value stands, in the words of the source."""
        return self._source.fault(bad, offset)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Say why rows were left out, in the words of the source."""
        return self._source.reasons(bad)

    def place(self, row: int) -> str:
        """Name a row in the words of the source."""
        return self._source.place(row)
