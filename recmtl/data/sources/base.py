"""The interface of a source of rows, and a wrapper that parses a source only once."""

from __future__ import annotations

import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.errors import BadValueError, DataError

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class PartMap(Protocol):
    """As `map`: yields the result of a function for each argument, in order, from wherever it is called."""

    def __call__(self, function: Callable[[Argument], Result], arguments: Iterable[Argument], /) -> Iterable[Result]:
        """Call the function."""


@dataclass(frozen=True)
class CountedNote:
    """A note on a number of lines or rows of a file; those of its pieces add up."""

    count: int
    text: str


def joined_notes(notes: Iterable[str | CountedNote]) -> list[str]:
    """Return notes as sentences, each once, with the sum of its counts."""
    counts: dict[str, int] = {}
    for note in notes:
        if isinstance(note, CountedNote):
            counts[note.text] = counts.get(note.text, 0) + note.count
        else:
            counts.setdefault(note, 0)
    return [f"{count:,} {text}" if count else text for text, count in counts.items()]


class Source(ABC):
    """Rows that can be streamed any number of times."""

    name: str  # in errors
    columns: tuple[str, ...]
    unnamed = 0  # columns without a name
    index: tuple[str, ...] = ()  # those of the columns that are the index of a pandas frame
    parses = False  # from text, which is slower than reading parsed rows again
    notes: tuple[str | CountedNote, ...] = ()  # of the last complete reading
    size: float = math.inf  # its bytes, as far as they are known
    portable = False  # whether it can be sent to another process, which then reads it
    rows: int | None = None  # their number, where it is known before they are read
    digest: Callable[[], str] | None = None  # tells files of other content apart

    @abstractmethod
    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows.

        Args:
            columns: The columns to read.
            numbers: The columns to parse as numbers if the source has no types of its own; all others are text.
            malformed: Called for each record skipped because of a wrong number of columns; ``None`` makes it an error.
                If set, a source without types of its own returns all columns as bytes.
        """

    def cut(self, size: int, work: PartMap = map) -> Sequence[Source]:
        """Return the source in pieces of about so many bytes, in the order of the rows; as a whole if it has none.

        Args:
            size: The bytes.
            work: Calls the function that searches parts of the file for places to cut.
        """
        return [self]

    def fault(self, bad: BadValueError) -> DataError:
        """Return the error for a bad value, given by row of the source, with its file and line or row."""
        return DataError(f"{self.place(bad.row)}, {bad.reason}")

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Return where skipped rows are and why, in their order, given their bad values by row of the source."""
        return (f"{self.place(row)}, {bad[row].reason}" for row in sorted(bad))

    def place(self, row: int) -> str:
        """Return the file and line or row of a row, counted from 0."""
        return f"{self.name}, row {row + 1}"


class DerivedSource(Source):
    """A source with the rows of another one, in which they have their lines."""

    def __init__(self, source: Source) -> None:
        self.name, self.columns, self._source = source.name, source.columns, source
        self.size, self.portable = source.size, source.portable

    def fault(self, bad: BadValueError) -> DataError:
        """Return the error of the source for a bad value."""
        return self._source.fault(bad)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Return the reasons of the source for skipped rows."""
        return self._source.reasons(bad)

    def place(self, row: int) -> str:
        """Return the place of a row of the source."""
        return self._source.place(row)


class ParsedSpool(DerivedSource):
    """A source that is parsed once: its first complete reading is written to files that later readings use.

    Every reading must ask for the same columns. The empty folder gets one Arrow stream per change of types.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        super().__init__(source)
        self._folder = folder
        self._files: list[Path] = []
        self._complete = False
        self._malformed = 0

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows of the source, from the files once they are complete."""
        if not self._complete:
            yield from self._parse(columns, numbers, malformed)
            return
        if malformed is not None:
            for _ in range(self._malformed):
                malformed()
        for path in self._files:
            with pa.OSFile(str(path)) as file, ipc.open_stream(file) as reader:
                yield from reader

    def _parse(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None
    ) -> Iterator[pa.RecordBatch]:
        writer: ipc.RecordBatchStreamWriter | None = None
        types: pa.Schema | None = None
        self._files, self._malformed = [], 0

        def count() -> None:
            self._malformed += 1
            if malformed is not None:
                malformed()

        with ExitStack() as stack:
            for batch in self._source.batches(columns, numbers, count if malformed else None):
                try:
                    if writer is None or batch.schema != types:
                        types = batch.schema
                        self._files.append(self._folder / f"{len(self._files)}.arrows")
                        writer = stack.enter_context(ipc.new_stream(str(self._files[-1]), types))
                    writer.write_batch(batch)
                except (OSError, pa.ArrowException) as error:
                    stack.pop_all()  # closing would fail again and hide this error
                    raise self._write_error(error) from error
                yield batch
            try:
                stack.close()
            except (OSError, pa.ArrowException) as error:
                raise self._write_error(error) from error
        self._complete, self.notes = True, self._source.notes

    def _write_error(self, error: Exception) -> DataError:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        return DataError(f"the parsed rows of {self.name} cannot be written: {reason}")


def without_blank_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a file; several without a name, as spreadsheets write after the last one, are left out."""
    several = columns.count("") > 1
    return tuple(column for column in columns if column or not several)


def spool_parsed(sources: Iterable[Source], folder: Path) -> list[Source]:
    """Wrap the sources that parse text in spools below a folder; the others are read again as they are."""
    return [ParsedSpool(s, Path(tempfile.mkdtemp(dir=folder))) if s.parses else s for s in sources]
