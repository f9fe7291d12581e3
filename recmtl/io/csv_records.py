"""The records of a CSV file, and the line where each begins; which of them have another width than the header."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, Protocol, TypeAlias, get_args

import pyarrow as pa

from recmtl.errors import DataError, counted

INVALID_UTF8 = "\ufffd\ue000"  # replaces bytes that are not UTF-8, and occurs nowhere else
REPLACE_INVALID = "recmtl.invalid_utf8"  # the error handler that replaces them
HEADER_BYTES = 1 << 20  # of a CSV file
LINE_CHARACTERS = 1 << 18  # of a line, read at a time
COLUMN_SEPARATORS = (",", "\t", ";", "|")  # on a tie, the first one
QUOTED, LINE_BREAK = re.compile(r'"[^"]*"'), re.compile(r"[\r\n]")
SENTINEL = ("\n", '"')  # after the last line: a record of its own, or the end of an open quote

SAY_ESCAPE = r"""`--escape '\'` (on a card `escape: "\\"`)"""
MAX_EXAMPLES = 5  # of rows that do not parse

BadRows: TypeAlias = Literal["error", "skip"]  # what becomes of rows that do not parse


def _replace_invalid(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return INVALID_UTF8, error.end


codecs.register_error(REPLACE_INVALID, _replace_invalid)


class Stored(Protocol):
    """A file on disk, in an object store or in an archive."""

    @property
    def name(self) -> str:
        """Its name for errors."""

    @property
    def stream(self) -> Callable[[], pa.NativeFile]:
        """Open it for reading from the start."""

    @property
    def lines_before(self) -> int:
        """The number of lines of the whole file before it."""


class CsvRecords:
    """The records of a CSV file, without blank ones.

    Args:
        location: The file.
        separator: The column separator; ``None`` detects it in the header.
        header: The columns of a file without a header line; empty takes its first line.
        escape: The character that escapes quotes, if any.

    Attributes:
        name: The name of the file for errors.
        separator: The column separator.
        columns: The columns.

    Raises:
        DataError: The file is empty, or its header is no text.
    """

    def __init__(
        self, location: Stored, separator: str | None = None, header: Sequence[str] = (), escape: str | None = None
    ) -> None:
        self.name, self._location, self._header, self._escape = location.name, location, list(header), escape
        self.separator = separator or _detect_separator(self._start())
        _, found = next(self._with_header(), (1, []))
        if not found:
            raise DataError(f"{self.name} is empty: expected a header and rows")
        if any("\0" in column or INVALID_UTF8 in column for column in found):
            raise DataError(f"{self.name} is not a CSV file: expected a header in UTF-8 text")
        self.columns = tuple(found)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line where each record below the header begins, and the record.

        Raises:
            DataError: A quote is never closed, or the file is not CSV.
        """
        records, before = itertools.islice(self._with_header(), 1, None), self._location.lines_before
        return ((line + before, record) for line, record in records)

    @property
    def empty(self) -> bool:
        """Whether there is no record; of a piece of a file this does not count the lines before it."""
        return next(itertools.islice(self._with_header(), 1, None), None) is None

    def wrong_width(self, line: int, record: Sequence[str]) -> str:
        """Return where a record is that has another number of values than the header, and how many."""
        expected, start = len(self.columns), self._start()
        found = f"{self.name}, line {line}: {counted(len(record), 'column')}, expected {expected}"
        if self._escape is None and b'\\"' in start:
            return f"{found}; the file has quotes after a backslash: say {SAY_ESCAPE} if it escapes them"
        rows = [text.lstrip(b'"')[:1] for text in start.split(b"\n", 3)[1:3]]
        if len(record) == expected + 1 and record[0] == "1" and rows == [b"1", b"2"]:
            return f"{found}; if these are row names, as R's `write.table` writes them, write with `row.names = FALSE`"
        return found

    def malformed(self) -> Iterator[str]:
        """Yield where each record is that has another number of values than the header, and how many."""
        for line, record in self:
            if len(record) != len(self.columns):
                yield self.wrong_width(line, record)

    def check(self, bad_rows: BadRows = "error") -> None:
        """Check that no quote is left open and, unless bad rows are skipped, that records are as wide as the header.

        Raises:
            DataError: With the line.
        """
        for reason in self.malformed():
            if bad_rows == "error":
                raise DataError(reason)

    def _start(self) -> bytes:
        with self._location.stream() as stream:
            start: bytes = stream.read(HEADER_BYTES)
        return start

    def _with_header(self) -> Iterator[tuple[int, list[str]]]:
        """Yield header and records, and the line of the file or piece where each begins."""
        if self._header:
            yield 0, self._header
        with io.TextIOWrapper(
            self._location.stream(), encoding="utf-8-sig", errors=REPLACE_INVALID, newline=""
        ) as text:
            lines = iter(partial(text.readline, LINE_CHARACTERS), "")
            reader = csv.reader(itertools.chain(lines, SENTINEL), delimiter=self.separator, escapechar=self._escape)
            line, held = 1, (0, [""])
            try:
                for record in reader:
                    if record:
                        if held[0]:
                            yield held
                        held = line, record
                    line = reader.line_num + 1
            except csv.Error as error:
                reason = f"not CSV: {error}"
                if "field limit" in str(error):
                    reason = f"a value has more than {csv.field_size_limit():,} characters, or a quote is never closed"
                raise DataError(f"{self._place(line)}: {reason}") from error
            if held[1] != [""]:
                raise DataError(f"{self._place(held[0])}: a quote is opened in this row and never closed")

    def _place(self, line: int) -> str:
        """Return the file and the line, given that of the piece."""
        return f"{self.name}, line {line + self._location.lines_before}"


def _detect_separator(start: bytes) -> str:
    """Return the column separator of a CSV file: the most frequent candidate in its header, outside quotes."""
    text = start.decode("utf-8-sig", errors="replace")
    header = LINE_BREAK.split(QUOTED.sub("", text).lstrip("\r\n"), maxsplit=1)[0]
    return max(COLUMN_SEPARATORS, key=header.count)


def last_has_line_break(values: pa.Array) -> bool:
    """Return whether the last value of the last column has a line break, as one with an unclosed quote does."""
    value = values[-1].as_py() if len(values) else None
    return isinstance(value, str | bytes) and len(value.splitlines()) > 1


def skips(bad_rows: BadRows) -> bool:
    """Return whether rows that do not parse are skipped; otherwise they are errors.

    Raises:
        DataError: It is neither.
    """
    if bad_rows not in get_args(BadRows):
        raise DataError(f"`bad_rows` must be 'error' or 'skip', got {bad_rows!r}")
    return bad_rows == "skip"


def left_out(rows: int, examples: Iterable[str]) -> list[str]:
    """Return the number of rows that were left out, and examples; empty if there are none."""
    if not rows:
        return []
    count = f"{rows:,} bad rows were" if rows > 1 else "1 bad row was"
    return [f"{count} left out", *(f"left out: {example}" for example in examples)]
