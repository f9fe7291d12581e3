"""CSV files, parsed in parts by threads, or sequentially if quoted values may span lines."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recmtl.data.columns.values import cast_integer_columns
from recmtl.data.sources.base import Source, without_blank_names
from recmtl.errors import BadValueError, DataError
from recmtl.io.archives import Member
from recmtl.io.formats import HEADER_BYTES, INVALID_UTF8, REPLACE_INVALID, check_header, detect_separator, wrong_width
from recmtl.io.location import Location
from recmtl.io.prefetch import prefetch
from recmtl.schema.text_format import PLAIN_TEXT, TextFormat, keep_null_words

PART_BYTES = 1 << 22  # of a file, parsed by one thread into one batch
BLOCK_BYTES = 1 << 20  # of a part, parsed at a time: fits in a cache
WIDE = 1000  # columns; of wider files parts and blocks grow with the width, as each costs time for every column
PARSERS = 2  # parts parsed at the same time
LINE_CHARACTERS = 1 << 18  # of a line, read at a time
BACKSLASH_QUOTE = b'\\"'
SENTINEL = ("\n", '"')  # after the last line: a record of its own, or the end of an open quote


class CsvSource(Source):
    """A CSV file, plain or compressed."""

    parses = True

    def __init__(self, location: Location | Member, text: TextFormat = PLAIN_TEXT) -> None:
        self.name, self._location, self._text = location.name, location, text
        self._header = list(text.header)
        with location.stream() as stream:
            self._separator = text.separator or detect_separator(stream)
        _, header = next(self._records(), (1, []))
        if not header:
            raise DataError(f"{self.name} is empty: expected a header and rows")
        check_header(self.name, header)
        self._all_columns, self.columns = tuple(header), without_blank_names(header)

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, the rest as integers or text; as bytes if that fails."""
        if next(itertools.islice(self._records(), 1, None), None) is None:
            return
        types = {c: pa.float64() if c in numbers else pa.string() for c in columns}
        done = 0
        try:
            if malformed is None:
                for batch in cast_integer_columns(self._blocks(types)):
                    yield batch
                    done += 1
                return
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise
        # the conversion of the bytes reports the value that does not parse
        as_bytes = self._blocks(dict.fromkeys(columns, pa.binary()), malformed)
        yield from itertools.islice(as_bytes, done, None)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Return why rows were skipped: a value, or their number of columns."""
        with self._location.stream() as stream:
            start = stream.read(HEADER_BYTES)
        row = 0
        for line, record in itertools.islice(self._records(), 1, None):
            if len(record) != len(self._all_columns):
                yield f"{self.name}, line {line}: {wrong_width(record, self._all_columns, start, self._text.escape)}"
                continue
            if row in bad:
                yield f"{self.name}, line {line}, {bad[row].reason}"
            row += 1

    def place(self, row: int) -> str:
        """Return the file and the line where a row begins."""
        records = itertools.islice(self._records(), 1, None)
        lines = (line for line, record in records if len(record) == len(self._all_columns))
        return f"{self.name}, line {next(itertools.islice(lines, row, None))}"

    @property
    def _width(self) -> int:
        """How many times as wide as most files it is."""
        return max(1, len(self._all_columns) // WIDE)

    def _blocks(
        self, types: dict[str, pa.DataType], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Parse in parts that end with a line; sequentially after a quote, as values may contain line breaks."""
        done = 0
        if malformed is None and self._text.escape is None:
            try:
                for batch in self._parse_parts(types):
                    yield batch
                    done += batch.num_rows
                return
            except _QuoteError:
                pass
        for batch in self._parse_sequentially(types, malformed):
            if done < batch.num_rows:
                yield batch.slice(done) if done else batch
            done = max(0, done - batch.num_rows)

    def _parse_parts(self, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Parse parts of the file in threads; a quote raises `_QuoteError`."""

        def parse(part: memoryview, header: list[str]) -> pa.RecordBatch:
            options, text = self._options(types, quotes=False), pa.py_buffer(part)
            try:
                table = pacsv.read_csv(
                    pa.BufferReader(text), _read_options(BLOCK_BYTES * self._width, header), **options
                )
            except pa.ArrowInvalid as error:
                if "straddl" not in str(error):
                    raise
                table = pacsv.read_csv(pa.BufferReader(text), _read_options(len(part), header), **options)
            (batch,) = table.combine_chunks().to_batches() or [None]
            return batch

        def jobs(stream: pa.NativeFile) -> Iterator[Callable[[], pa.RecordBatch | None]]:
            header = self._header
            for part in _split_at_lines(stream, PART_BYTES * self._width):
                yield partial(parse, part, header)
                header = list(self._all_columns)

        try:
            with self._location.stream() as stream:
                yield from filter(None, prefetch(jobs(stream), PARSERS))
        except pa.ArrowInvalid as error:  # without the line
            if "conversion error" not in str(error):
                self._find_bad_record(columns=True)
            raise

    def _parse_sequentially(
        self, types: dict[str, pa.DataType], malformed: Callable[[], None] | None
    ) -> Iterator[pa.RecordBatch]:
        """Parse the file in order; a quote still open at the end is an error, as it may have swallowed many rows."""
        last, suspect, skipped = self._all_columns[-1], False, 0

        def skip(record: pacsv.InvalidRow) -> str:
            nonlocal suspect, skipped
            suspect, skipped = suspect or '"' in record.text, skipped + 1
            if malformed is not None:
                malformed()
            return "skip"

        options = self._options({last: pa.binary()} | types, True, skip if malformed else None)
        lines, records = _LineCounter(), 0 if self._header else 1
        try:
            with self._location.stream() as stream:
                text = pa.TransformInputStream(_replace_invalid_utf8(stream) if malformed else stream, lines.count)
                if self._text.escape:
                    text = pa.TransformInputStream(text, keep_null_words(self._text.escape))
                reader = pacsv.open_csv(text, _read_options(PART_BYTES * self._width, self._header), **options)
                for batch, following in itertools.pairwise(itertools.chain(reader, [None])):
                    if following is None and _last_has_line_break(batch.column(last)):
                        self._find_bad_record(columns=malformed is None)
                    records += batch.num_rows
                    yield _restore_invalid_utf8(batch.select(list(types))) if malformed else batch.select(list(types))
                if suspect:
                    self._find_bad_record(columns=False)
                escaped = () if self._text.escape else lines.backslash_quotes(self.name)
                self.notes = (*lines.within_values(records + skipped, self.name), *escaped)
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                self._find_bad_record(columns=malformed is None)
            raise

    def _options(self, types: dict[str, pa.DataType], quotes: bool, bad: Any = None) -> dict[str, Any]:
        return {
            "parse_options": pacsv.ParseOptions(
                delimiter=self._separator,
                escape_char=self._text.escape or False,
                newlines_in_values=quotes,
                invalid_row_handler=bad,
            ),
            "convert_options": pacsv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=self._text.null_words,
                strings_can_be_null=True,
                decimal_point=self._text.decimal,
            ),
        }

    def _find_bad_record(self, columns: bool) -> None:
        """Raise the error for an unclosed quote and, if `columns` is set, for a wrong number of columns."""
        for reason in self.reasons({}):
            if columns:
                raise DataError(reason)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Return header and rows without blank lines, and the line where each begins."""
        if self._header:
            yield 0, self._header
        with io.TextIOWrapper(
            self._location.stream(), encoding="utf-8-sig", errors=REPLACE_INVALID, newline=""
        ) as text:
            lines = iter(partial(text.readline, LINE_CHARACTERS), "")
            reader = csv.reader(
                itertools.chain(lines, SENTINEL), delimiter=self._separator, escapechar=self._text.escape
            )
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
                raise DataError(f"{self.name}, line {line}: {reason}") from error
            if held[1] != [""]:
                raise DataError(f"{self.name}, line {held[0]}: a quote is opened in this row and never closed")


class _LineCounter:
    """Counts the non-blank lines of a file."""

    def __init__(self) -> None:
        self._count, self._blank, self._escaped = 0, True, False

    def count(self, part: pa.Buffer) -> pa.Buffer:
        """Count the lines of a part and return it."""
        self._escaped = self._escaped or BACKSLASH_QUOTE in part.to_pybytes()
        letters = np.frombuffer(part, np.uint8)
        letters = letters[letters != ord("\r")]
        if len(letters):
            ends = np.append(self._blank, letters == ord("\n"))
            self._count += int((ends[:-1] & ~ends[1:]).sum())  # a character after a line break begins a line
            self._blank = bool(ends[-1])
        return part

    def within_values(self, records: int, name: str) -> tuple[str, ...]:
        """Return a note if lines are within quoted values: two stray quotes turn many rows into one."""
        count = self._count - records
        return (f"{count:,} lines of {name} are within quoted values",) if count > 0 else ()

    def backslash_quotes(self, name: str) -> tuple[str, ...]:
        """Return a note if quotes stand after a backslash, which is then part of the values."""
        say = f'{name} has quotes after a backslash: say `escape: "\\\\"` on the card if it escapes them'
        return (say,) if self._escaped else ()


class _QuoteError(Exception):
    """A part of the file contains a quote."""


def _read_options(block: int, header: list[str]) -> pacsv.ReadOptions:
    return pacsv.ReadOptions(block_size=block, column_names=header, use_threads=False)


def _split_at_lines(stream: pa.NativeFile, size: int) -> Iterator[memoryview]:
    """Split a file after line breaks, about each `size` bytes; a quote or a part without a break is a `_QuoteError`."""
    rest = b""
    while read := stream.read(size):
        part = rest + read
        end = part.rfind(b"\n", len(rest)) + 1
        if part.find(b'"', len(rest)) >= 0 or not end:
            raise _QuoteError
        yield memoryview(part)[:end]
        rest = part[end:]
    if rest:
        yield memoryview(rest)


def _replace_invalid_utf8(stream: pa.NativeFile) -> pa.NativeFile:
    """Replace bytes that are not UTF-8: pyarrow cannot report a malformed record that contains them."""
    decoder = codecs.getincrementaldecoder("utf-8")(REPLACE_INVALID)
    return pa.TransformInputStream(stream, lambda part: decoder.decode(part, not part).encode())


def _restore_invalid_utf8(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Turn replaced bytes into bytes that are not UTF-8 again."""
    columns = [pc.replace_substring(column, INVALID_UTF8.encode(), b"\xff") for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _last_has_line_break(values: pa.Array) -> bool:
    """Return whether the last value has a line break, as one with an unclosed quote does."""
    value = values[-1].as_py() if len(values) else None
    return isinstance(value, str | bytes) and len(value.splitlines()) > 1
