"""Where rows come from: CSV, Parquet and Arrow files, tables and DataFrames, all streamed as Arrow record batches."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.data.errors import BadValueError, DataError, unreadable
from recmtl.data.expand import expand
from recmtl.data.integers import with_integers
from recmtl.data.source import Source
from recmtl.data.values import NOT_TEXT
from recmtl.schema.infer import NULLS, separator_of
from recmtl.schema.location import Location

BLOCK_BYTES = 1 << 20  # of a CSV file, parsed at a time: so much stays in a cache
BLOCKS = 4  # handed on together
FRAME_ROWS = 1 << 16  # of a table in memory, handed on at a time
LINE_CHARACTERS = 1 << 18  # of a line that are held at a time
END = ("\n", '"')  # after the last line: a record of its own, or the end of one whose quote is open

Data: TypeAlias = str | Path | pd.DataFrame | pa.Table | Source | Sequence[str | Path | Source]


class Readable(Protocol):
    """A file that can be read from its start any number of times."""

    @property
    def name(self) -> str:
        """What to call it in an error."""

    def stream(self) -> pa.NativeFile:
        """Open it."""


class FrameSource(Source):
    """A table or DataFrame in memory."""

    def __init__(self, table: pa.Table, name: str) -> None:
        self.name, self._table = name, table
        self.columns = tuple(table.column_names)

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows; types stay as they are."""
        yield from self._table.select(list(columns)).combine_chunks().to_batches(max_chunksize=FRAME_ROWS)


class ArrowSource(Source):
    """An Arrow IPC file (also called Feather)."""

    def __init__(self, location: Location) -> None:
        self.name, self._location = location.name, location
        with location.file() as file:
            self.columns = tuple(ipc.open_file(file).schema.names)

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows; types stay as they are."""
        with self._location.file() as file:
            reader = ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i).select(list(columns))


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, location: Location) -> None:
        self.name, self._location = location.name, location
        with self._open() as file:
            self.columns = tuple(file.schema_arrow.names)

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows; types stay as they are."""
        with self._open() as file:
            for batch in file.iter_batches(batch_size=FRAME_ROWS, columns=list(columns)):
                yield batch.select(list(columns))

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._location.path, filesystem=self._location.filesystem)


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
            self._separator = separator or separator_of(stream)
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
                for batch in with_integers(_together(self._blocks(types))):
                    yield batch
                    done += 1
                return
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise
        # whoever uses a value that does not parse says which it is
        as_bytes = _together(self._blocks(dict.fromkeys(columns, pa.binary()), malformed))
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
        """Parse block by block: faster until there is a quote, from where on a line may end within a value."""
        done = 0
        if malformed is None:
            try:
                for batch in self._parsed(types, None, quotes=False):
                    yield batch
                    done += batch.num_rows
                return
            except _QuoteError:
                pass
        for batch in self._parsed(types, malformed, quotes=True):
            if done < batch.num_rows:
                yield batch.slice(done) if done else batch
            done = max(0, done - batch.num_rows)

    def _parsed(
        self, types: dict[str, pa.DataType], malformed: Callable[[], None] | None, quotes: bool
    ) -> Iterator[pa.RecordBatch]:
        """Parse; a quote that is still open at the end is found, as it may have taken in many rows."""
        last, suspect = self.columns[-1], False

        def leave_out(record: pacsv.InvalidRow) -> str:
            nonlocal suspect
            suspect |= '"' in record.text
            if malformed is not None:
                malformed()
            return "skip"

        columns = {last: pa.binary()} | types
        try:
            with self._location.stream() as stream:
                text = _as_text(stream) if malformed else stream
                watched = text if quotes else pa.TransformInputStream(text, _without_quotes)
                reader = self._reader(watched, columns, quotes, leave_out if malformed else None)
                for batch, following in itertools.pairwise(itertools.chain(reader, [None])):
                    if following is None and _ends_in_lines(batch.column(last)):
                        self._find_bad_record(columns=malformed is None)
                    yield _as_bytes(batch.select(list(types))) if malformed else batch.select(list(types))
                if suspect:
                    self._find_bad_record(columns=False)
        except pa.ArrowInvalid as error:  # which does not say where
            if "conversion error" not in str(error):
                self._find_bad_record(columns=malformed is None)
            raise

    def _reader(
        self, stream: pa.NativeFile, types: dict[str, pa.DataType], quotes: bool, bad: Any
    ) -> pacsv.CSVStreamingReader:
        return pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, column_names=self._header),
            parse_options=pacsv.ParseOptions(
                delimiter=self._separator, newlines_in_values=quotes, invalid_row_handler=bad
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=NULLS, strings_can_be_null=True
            ),
        )

    def _find_bad_record(self, columns: bool) -> None:
        """Raise for a quote that is never closed and, where asked to, for a wrong number of columns."""
        for reason in self.reasons({}):
            if columns:
                raise DataError(reason)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Give header and rows, blank lines left out, and the line where each begins."""
        if self._header:
            yield 0, self._header
        with io.TextIOWrapper(self._location.stream(), encoding="utf-8-sig", errors="replace", newline="") as text:
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
                raise DataError(f"{self.name}, line {line} is not CSV: {error}") from error
            if held[1] != [""]:
                raise DataError(f"{self.name}, line {held[0]}: a quote is opened in this row and never closed")


def open_sources(data: Data, what: str = "data", separator: str | None = None) -> list[Source]:
    """Open data in any accepted form.

    Args:
        data: A file, a glob, a folder, a source, a list of these, a DataFrame or an Arrow table. Files are CSV
            (``.gz`` and ``.zst`` too), Parquet or Arrow IPC, told by their suffix, on disk or behind a URI
            (``s3://``, ``gs://``, ``hdfs://``, ``file://``).
        what: What to call data in memory in an error.
        separator: What stands between the columns of a CSV file; ``None`` finds it in each header.

    Raises:
        DataError: A file is missing, empty, or cannot be read.
    """
    if isinstance(data, Source):
        return [data]
    if isinstance(data, pd.DataFrame):
        return [_checked(FrameSource(_from_pandas(data, what), f"the {what} frame"))]
    if isinstance(data, pa.Table):
        return [_checked(FrameSource(data, f"the {what} table"))]
    if isinstance(data, str | Path):
        return [_open(location, separator) for location in expand(data)]
    if not data:
        raise DataError(f"the list of {what} files is empty")
    return [source for item in data for source in open_sources(item, what, separator)]


def _open(location: Location, separator: str | None) -> Source:
    kinds: dict[str, Callable[[Location], Source]] = {
        ".parquet": ParquetSource,
        ".pq": ParquetSource,
        ".arrow": ArrowSource,
        ".feather": ArrowSource,
    }
    try:
        return _checked(kinds.get(location.suffix, partial(CsvSource, separator=separator))(location))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(location.name, error) from error


def _checked(source: Source) -> Source:
    for column in source.columns:
        if source.columns.count(column) > 1:
            raise DataError(f"{source.name} has the column {column!r} twice")
    return source


def _from_pandas(frame: pd.DataFrame, what: str) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise unreadable(f"the {what} frame", error) from error


class _QuoteError(Exception):
    """There is a quote."""


def _together(blocks: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join blocks, which are smaller than what is worth handing on."""
    while joined := list(itertools.islice(blocks, BLOCKS)):
        yield from pa.Table.from_batches(joined).combine_chunks().to_batches()


def _without_quotes(part: pa.Buffer) -> pa.Buffer:
    if b'"' in bytes(part):
        raise _QuoteError
    return part


def _as_text(stream: pa.NativeFile) -> pa.NativeFile:
    """Replace what is not UTF-8, which a record with a wrong number of columns must not hold when it is told of."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return pa.TransformInputStream(stream, lambda part: decoder.decode(part, not part).encode())


def _as_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Make what was replaced something again that is not UTF-8."""
    columns = [pc.replace_substring(column, NOT_TEXT.encode(), b"\xff") for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _ends_in_lines(values: pa.Array) -> bool:
    """Whether the last value holds a line break, as one does whose quote is never closed."""
    value = values[-1].as_py() if len(values) else None
    return isinstance(value, str | bytes) and len(value.splitlines()) > 1
