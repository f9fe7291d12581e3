"""CSV files, parsed in parts by threads, or sequentially if quoted values may span lines."""

from __future__ import annotations

import codecs
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recmtl.data.columns.values import cast_integer_columns
from recmtl.data.sources.base import CountedNote, PartMap, Source, without_blank_names
from recmtl.data.sources.csv_cuts import cuts_of, scan_chunk
from recmtl.errors import BadValueError
from recmtl.io.archives import Member
from recmtl.io.byte_range import ByteRange
from recmtl.io.csv_records import INVALID_UTF8, REPLACE_INVALID, SAY_ESCAPE, BadRows, CsvRecords, last_has_line_break
from recmtl.io.formats import without_nulls
from recmtl.io.location import Location
from recmtl.io.prefetch import prefetch
from recmtl.schema.text_format import PLAIN_TEXT, TextFormat, keep_null_words

PART_BYTES = 1 << 22  # of a file, parsed by one thread into one batch
BLOCK_BYTES = 1 << 20  # of a part, parsed at a time: fits in a cache
WIDE = 1000  # columns; of wider files parts and blocks grow with the width, as each costs time for every column
PARSERS = 2  # parts parsed at the same time
BACKSLASH_QUOTE = b'\\"'


class CsvSource(Source):
    """A CSV file, plain or compressed, or a piece of one.

    Args:
        location: The file.
        text: How text stands for values.
        whole: The source of the whole file if this is a piece behind its header.
    """

    parses = True
    _records: CsvRecords

    def __init__(
        self, location: Location | Member | ByteRange, text: TextFormat = PLAIN_TEXT, whole: CsvSource | None = None
    ) -> None:
        self.name, self._location, self._text = location.name, location, text
        records = whole._records if whole else None
        self._header = list(records.columns if records else text.header)
        self._records = CsvRecords(
            location, records.separator if records else text.separator, self._header, text.escape
        )
        self.portable = not isinstance(location, Member)
        self.size = math.inf if isinstance(location, Member) else location.size
        self._all_columns = self._records.columns
        self.columns, self.unnamed = without_blank_names(self._all_columns), self._all_columns.count("")

    def cut(self, size: int, work: PartMap = map) -> Sequence[Source]:
        """Return pieces of a plain file, each of which ends with a record; with an escape character it has none."""
        file = self._location
        if not isinstance(file, Location) or file.is_compressed or self._text.escape or file.size <= size:
            return [self]
        chunks = [ByteRange(file, start, min(start + size, file.size)) for start in range(0, file.size, size)]
        cuts = cuts_of(work(partial(scan_chunk, separator=self._records.separator), chunks))
        bounds = [0, *(cut for cut in cuts if cut < file.size), file.size]
        ranges = [ByteRange(file, *bound) for bound in itertools.pairwise(bounds)]
        return [CsvSource(piece, self._text, self if piece.start else None) for piece in ranges]

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, the rest as integers or text; as bytes if that fails."""
        if self._records.empty:
            return
        types = {c: pa.float64() if c in numbers else pa.string() for c in columns}
        done = 0
        try:
            if malformed is None:
                for batch in cast_integer_columns(self._without_nulls(self._blocks(types), numbers)):
                    yield batch
                    done += 1
                return
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise
        # the conversion of the bytes reports the value that does not parse
        as_bytes = self._without_nulls(self._blocks(dict.fromkeys(columns, pa.binary()), malformed), numbers)
        yield from itertools.islice(as_bytes, done, None)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Return why rows were skipped: a value, or their number of columns."""
        row = 0
        for line, record in self._records:
            if len(record) != len(self._all_columns):
                yield self._records.wrong_width(line, record)
                continue
            if row in bad:
                yield f"{self.name}, line {line}, {bad[row].reason}"
            row += 1

    def place(self, row: int) -> str:
        """Return the file and the line where a row begins."""
        lines = (line for line, record in self._records if len(record) == len(self._all_columns))
        return f"{self.name}, line {next(itertools.islice(lines, row, None))}"

    def _without_nulls(self, batches: Iterator[pa.RecordBatch], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Replace numbers that stand for missing values; Arrow has replaced words as they are written."""
        nulls = self._text.null_words
        return (without_nulls(batch, nulls, numbers) for batch in batches) if nulls.numbers else batches

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

        def jobs(parts: Iterator[memoryview]) -> Iterator[Callable[[], pa.RecordBatch | None]]:
            header = self._header
            for part in parts:
                yield partial(parse, part, header)
                header = list(self._all_columns)

        size = PART_BYTES * self._width
        try:
            if isinstance(self._location, ByteRange):
                yield from filter(None, prefetch(jobs(_split_range(self._location, size)), PARSERS))
                return
            with self._location.stream() as stream:
                yield from filter(None, prefetch(jobs(_split_at_lines(stream, size)), PARSERS))
        except pa.ArrowInvalid as error:  # without the line
            if "conversion error" not in str(error):
                self._records.check()
            raise

    def _parse_sequentially(
        self, types: dict[str, pa.DataType], malformed: Callable[[], None] | None
    ) -> Iterator[pa.RecordBatch]:
        """Parse the file in order; an unclosed quote is an error, as many rows may be one value."""
        last, suspect, skipped = self._all_columns[-1], False, 0

        def skip(record: pacsv.InvalidRow) -> str:
            nonlocal suspect, skipped
            suspect, skipped = suspect or '"' in record.text, skipped + 1
            if malformed is not None:
                malformed()
            return "skip"

        bad_rows: BadRows = "skip" if malformed else "error"
        options = self._options({last: pa.binary()} | types, True, skip if malformed else None)
        lines, records = _LineCounter(), 0 if self._header else 1
        try:
            with self._location.stream() as stream:
                text = pa.TransformInputStream(_replace_invalid_utf8(stream) if malformed else stream, lines.count)
                if self._text.escape:
                    text = pa.TransformInputStream(text, keep_null_words(self._text.escape))
                reader = pacsv.open_csv(text, _read_options(PART_BYTES * self._width, self._header), **options)
                for batch, following in itertools.pairwise(itertools.chain(reader, [None])):
                    if following is None and last_has_line_break(batch.column(last)):
                        self._records.check(bad_rows)
                    records += batch.num_rows
                    yield _restore_invalid_utf8(batch.select(list(types))) if malformed else batch.select(list(types))
                if suspect:
                    self._records.check("skip")
                escaped = () if self._text.escape else lines.backslash_quotes(self.name)
                self.notes = (*lines.within_values(records + skipped, self.name), *escaped)
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                self._records.check(bad_rows)
            raise

    def _options(self, types: dict[str, pa.DataType], quotes: bool, bad: Any = None) -> dict[str, Any]:
        return {
            "parse_options": pacsv.ParseOptions(
                delimiter=self._records.separator,
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

    def within_values(self, records: int, name: str) -> tuple[CountedNote, ...]:
        """Return a note if lines are within quoted values: two stray quotes turn many rows into one."""
        count = self._count - records
        return (CountedNote(count, f"lines of {name} are within quoted values"),) if count > 0 else ()

    def backslash_quotes(self, name: str) -> tuple[str, ...]:
        """Return a note if quotes stand after a backslash, which is then part of the values."""
        say = f"{name} has quotes after a backslash: say {SAY_ESCAPE} if it escapes them"
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
        end = _end_of_lines(part, len(rest))
        yield memoryview(part)[:end]
        rest = part[end:]
    if rest:
        yield memoryview(rest)


def _split_range(text: ByteRange, size: int) -> Iterator[memoryview]:
    """Split a piece of a file as `_split_at_lines` does, but read again what is behind the last line break."""
    done = text.start
    with text.reader() as read:
        for start in range(text.start, text.end, size):
            part = read(done, min(start + size, text.end))
            end = _end_of_lines(part, start - done)
            yield memoryview(part)[:end]
            done += end
        if done < text.end:
            yield memoryview(read(done, text.end))


def _end_of_lines(part: bytes, searched: int) -> int:
    """Return the place behind the last line break, given how many bytes at the beginning have no break and no quote."""
    end = part.rfind(b"\n", searched) + 1
    if part.find(b'"', searched) >= 0 or not end:
        raise _QuoteError
    return end


def _replace_invalid_utf8(stream: pa.NativeFile) -> pa.NativeFile:
    """Replace bytes that are not UTF-8: pyarrow cannot report a malformed record that contains them."""
    decoder = codecs.getincrementaldecoder("utf-8")(REPLACE_INVALID)
    return pa.TransformInputStream(stream, lambda part: decoder.decode(part, not part).encode())


def _restore_invalid_utf8(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Turn replaced bytes into bytes that are not UTF-8 again."""
    columns = [pc.replace_substring(column, INVALID_UTF8.encode(), b"\xff") for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)
