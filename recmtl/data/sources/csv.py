"""CSV files, parsed in parts by threads, or as a whole where a quoted value may span lines."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recmtl.data.columns.integers import with_integers
from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError
from recmtl.io.prefetch import prefetch
from recmtl.schema.infer import NULLS, detect_separator

PART_BYTES = 1 << 22  # of a file, parsed by one thread and handed on together
BLOCK_BYTES = 1 << 20  # of a part, parsed at a time: so much stays in a cache
PARSERS = 2  # parts of a file that are parsed at the same time
LINE_CHARACTERS = 1 << 18  # of a line that are held at a time
END = ("\n", '"')  # after the last line: a record of its own, or the end of one whose quote is open
NOT_TEXT = "\ufffd\ue000"  # stands for bytes that are not UTF-8, as nothing else does
REPLACE = "recmtl.not_text"  # the name of what puts it there


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return NOT_TEXT, error.end


codecs.register_error(REPLACE, _replaced)


class Readable(Protocol):
    """A file that can be read from its start any number of times."""

    @property
    def name(self) -> str:
        """What to call it in an error."""

    def stream(self) -> pa.NativeFile:
        """Open it."""


class CsvSource(Source):
    """A CSV file, plain or compressed.

    Args:
        location: The file.
        separator: What stands between two columns; ``None`` finds it in the header.
        header: The columns of a file without a header.
    """

    parses = True

    def __init__(self, location: Readable, separator: str | None = None, header: Sequence[str] = ()) -> None:
        self.name, self._location, self._header = location.name, location, list(header)
        with location.stream() as stream:
            self._separator = separator or detect_separator(stream)
        _, header = next(self._records(), (1, []))
        if not header:
            raise DataError(f"{self.name} is empty: expected a header and rows")
        if any(mark in column for column in header for mark in ("\0", NOT_TEXT)):
            raise DataError(f"{self.name} is not a CSV file: expected a header in UTF-8 text")
        self.columns = tuple(header)

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, all else as integers or text; all as bytes where that fails."""
        if next(itertools.islice(self._records(), 1, None), None) is None:
            return
        types = {c: pa.float64() if c in numbers else pa.string() for c in columns}
        done = 0
        try:
            if malformed is None:
                for batch in with_integers(self._blocks(types)):
                    yield batch
                    done += 1
                return
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise
        # whoever uses a value that does not parse says which it is
        as_bytes = self._blocks(dict.fromkeys(columns, pa.binary()), malformed)
        yield from itertools.islice(as_bytes, done, None)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Say why rows were left out: for a value, or for their number of columns."""
        row = 0
        for line, record in itertools.islice(self._records(), 1, None):
            if len(record) != len(self.columns):
                yield f"{self.name}, line {line}: {len(record)} columns, expected {len(self.columns)}"
                continue
            if row in bad:
                yield f"{self.name}, line {line}, {bad[row].reason}"
            row += 1

    def place(self, row: int) -> str:
        """Name a row by the line in the file where it begins."""
        records = itertools.islice(self._records(), 1, None)
        lines = (line for line, record in records if len(record) == len(self.columns))
        return f"{self.name}, line {next(itertools.islice(lines, row, None))}"

    def _blocks(
        self, types: dict[str, pa.DataType], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Parse in parts that end with a line, until there is a quote: from there on a line may end within a value."""
        done = 0
        if malformed is None:
            try:
                for batch in self._in_parts(types):
                    yield batch
                    done += batch.num_rows
                return
            except _QuoteError:
                pass
        for batch in self._as_a_whole(types, malformed):
            if done < batch.num_rows:
                yield batch.slice(done) if done else batch
            done = max(0, done - batch.num_rows)

    def _in_parts(self, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Parse parts of the file in threads."""

        def parse(part: memoryview, header: list[str]) -> pa.RecordBatch:
            options, text = self._options(types, quotes=False), pa.py_buffer(part)
            try:
                table = pacsv.read_csv(pa.BufferReader(text), _read_options(BLOCK_BYTES, header), **options)
            except pa.ArrowInvalid as error:
                if "straddl" not in str(error):
                    raise
                table = pacsv.read_csv(pa.BufferReader(text), _read_options(len(part), header), **options)
            (batch,) = table.combine_chunks().to_batches() or [None]
            return batch

        def jobs(stream: pa.NativeFile) -> Iterator[Callable[[], pa.RecordBatch | None]]:
            header = self._header
            for part in _parts(stream):
                yield partial(parse, part, header)
                header = list(self.columns)

        try:
            with self._location.stream() as stream:
                yield from filter(None, prefetch(jobs(stream), PARSERS))
        except pa.ArrowInvalid as error:  # which does not say where
            if "conversion error" not in str(error):
                self._find_bad_record(columns=True)
            raise

    def _as_a_whole(
        self, types: dict[str, pa.DataType], malformed: Callable[[], None] | None
    ) -> Iterator[pa.RecordBatch]:
        """Parse; a quote that is still open at the end is found, as it may have taken in many rows."""
        last, suspect, left_out = self.columns[-1], False, 0

        def leave_out(record: pacsv.InvalidRow) -> str:
            nonlocal suspect, left_out
            suspect, left_out = suspect or '"' in record.text, left_out + 1
            if malformed is not None:
                malformed()
            return "skip"

        options = self._options({last: pa.binary()} | types, True, leave_out if malformed else None)
        lines, records = _Lines(), 0 if self._header else 1
        try:
            with self._location.stream() as stream:
                text = pa.TransformInputStream(_as_text(stream) if malformed else stream, lines.count)
                reader = pacsv.open_csv(text, _read_options(PART_BYTES, self._header), **options)
                for batch, following in itertools.pairwise(itertools.chain(reader, [None])):
                    if following is None and _ends_in_lines(batch.column(last)):
                        self._find_bad_record(columns=malformed is None)
                    records += batch.num_rows
                    yield _as_bytes(batch.select(list(types))) if malformed else batch.select(list(types))
                if suspect:
                    self._find_bad_record(columns=False)
                self.notes = lines.within_values(records + left_out, self.name)
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                self._find_bad_record(columns=malformed is None)
            raise

    def _options(self, types: dict[str, pa.DataType], quotes: bool, bad: Any = None) -> dict[str, Any]:
        return {
            "parse_options": pacsv.ParseOptions(
                delimiter=self._separator, newlines_in_values=quotes, invalid_row_handler=bad
            ),
            "convert_options": pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=NULLS, strings_can_be_null=True
            ),
        }

    def _find_bad_record(self, columns: bool) -> None:
        """Raise for a quote that is never closed and, where asked to, for a wrong number of columns."""
        for reason in self.reasons({}):
            if columns:
                raise DataError(reason)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Give header and rows, blank lines left out, and the line where each begins."""
        if self._header:
            yield 0, self._header
        with io.TextIOWrapper(self._location.stream(), encoding="utf-8-sig", errors=REPLACE, newline="") as text:
            lines = iter(partial(text.readline, LINE_CHARACTERS), "")
            reader = csv.reader(itertools.chain(lines, END), delimiter=self._separator)
            line, held = 1, (0, [""])
            try:
                for record in reader:
                    if record:
                        if held[0]:
                            yield held
                        held = line, record
                    line = reader.line_num + 1
            except csv.Error as error:
                what = f"is not CSV: {error}"
                if "field limit" in str(error):
                    what = f"holds a value of more than {csv.field_size_limit():,} characters, or a quote never closed"
                raise DataError(f"{self.name}, line {line} {what}") from error
            if held[1] != [""]:
                raise DataError(f"{self.name}, line {held[0]}: a quote is opened in this row and never closed")


class _Lines:
    """Counts the lines of a file that are not blank."""

    def __init__(self) -> None:
        self._count, self._blank = 0, True

    def count(self, part: pa.Buffer) -> pa.Buffer:
        """Count those of a part, and hand it on."""
        letters = np.frombuffer(part, np.uint8)
        letters = letters[letters != ord("\r")]
        if len(letters):
            ends = np.append(self._blank, letters == ord("\n"))
            self._count += int((ends[:-1] & ~ends[1:]).sum())  # a line begins after the end of another
            self._blank = bool(ends[-1])
        return part

    def within_values(self, records: int, name: str) -> tuple[str, ...]:
        """Say how many lines are no records, as two quotes that do not belong make many rows one."""
        count = self._count - records
        return (f"{count:,} lines of {name} stand within quoted values",) if count > 0 else ()


class _QuoteError(Exception):
    """There is a quote."""


def _read_options(block: int, header: list[str]) -> pacsv.ReadOptions:
    return pacsv.ReadOptions(block_size=block, column_names=header, use_threads=False)


def _parts(stream: pa.NativeFile) -> Iterator[memoryview]:
    """Cut a file after line breaks; a quote, or a part without a line break, is an error."""
    rest = b""
    while read := stream.read(PART_BYTES):
        part = rest + read
        end = part.rfind(b"\n", len(rest)) + 1
        if part.find(b'"', len(rest)) >= 0 or not end:
            raise _QuoteError
        yield memoryview(part)[:end]
        rest = part[end:]
    if rest:
        yield memoryview(rest)


def _as_text(stream: pa.NativeFile) -> pa.NativeFile:
    """Replace what is not UTF-8, which a record with a wrong number of columns must not hold when it is told of."""
    decoder = codecs.getincrementaldecoder("utf-8")(REPLACE)
    return pa.TransformInputStream(stream, lambda part: decoder.decode(part, not part).encode())


def _as_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Make what was replaced something again that is not UTF-8."""
    columns = [pc.replace_substring(column, NOT_TEXT.encode(), b"\xff") for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _ends_in_lines(values: pa.Array) -> bool:
    """Whether the last value holds a line break, as one does whose quote is never closed."""
    value = values[-1].as_py() if len(values) else None
    return isinstance(value, str | bytes) and len(value.splitlines()) > 1
