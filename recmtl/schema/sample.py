"""Read the rows that a schema is inferred from: the first rows of the data, and blocks spread over the rest.

The first rows of a sorted file may lack whatever comes later, so blocks of a plain CSV file on disk, row groups of a
Parquet file, batches of an Arrow file, rows of a table in memory and further files are read as well.
"""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.errors import DataError, SchemaError
from recmtl.io.csv_records import MAX_EXAMPLES, BadRows, CsvRecords, last_has_line_break, left_out, skips
from recmtl.io.formats import (
    IPC,
    PARQUET,
    ArrowStream,
    Frame,
    as_table,
    check_rows,
    format_of,
    frame_name,
    index_columns,
    is_column,
    plain_table,
    replace_nulls,
)
from recmtl.io.location import COMPRESSIONS, Location
from recmtl.io.partitions import Partitions, files_of
from recmtl.io.spellings import NullWords
from recmtl.schema.column_values import ColumnValues
from recmtl.schema.text_format import PLAIN_TEXT, TextFormat, keep_null_words

HEAD_ROWS = 100_000
HEAD_BYTES = 1 << 24  # of a CSV file
BLOCKS = 8  # spread over the rest of the data
BLOCK_ROWS = 10_000
BLOCK_BYTES = 1 << 20  # of a CSV file
GROUP_BYTES = 1 << 26  # a larger row group of a Parquet file is not read to its end


@runtime_checkable
class RowSource(Protocol):
    """Rows of a reader that streams them, such as the sources of `recmtl.data`."""

    name: str
    columns: tuple[str, ...]

    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows."""


Part: TypeAlias = Location | Frame | RowSource
Rows: TypeAlias = str | Path | Partitions | Location | Frame | RowSource | Sequence["Rows"]


@dataclass(frozen=True)
class Sample:
    """Rows of a dataset: all columns of a CSV file are text.

    Args:
        name: The name of the data for errors.
        table: The rows.
        text: How text stands for values.
        notes: How many rows that do not parse were left out, and examples.
    """

    name: str
    table: pa.Table
    text: TextFormat = PLAIN_TEXT
    notes: tuple[str, ...] = ()

    @property
    def index(self) -> tuple[str, ...]:
        """The columns that are the index of a pandas frame."""
        return index_columns(self.table.schema)

    def column(self, name: str) -> ColumnValues:
        """Return the values of a column."""
        return ColumnValues(name, self.table[name], self.text.decimal)


@dataclass
class CsvReading:
    """How text is read, and the records of CSV files that were left out, as they are wider or narrower than the header.

    Args:
        text: How text stands for values.
        bad_rows: Whether such a record is an error, or skipped.
        skipped: The number of those skipped.
        examples: Where the first of them are, and why.
    """

    text: TextFormat = PLAIN_TEXT
    bad_rows: BadRows = "error"
    skipped: int = 0
    examples: list[str] = field(default_factory=list)

    def skip(self, records: CsvRecords, rows: int) -> None:
        """Count records of a file that are skipped; an unclosed quote is an error, as many rows may be one value.

        Raises:
            DataError: For the first one, with the file and the line, unless bad rows are skipped.
        """
        if self.bad_rows == "error":
            records.check()
        self.skipped += rows
        self.examples += itertools.islice(records.malformed(), min(rows, MAX_EXAMPLES - len(self.examples)))


def read_sample(data: Rows, text: TextFormat = PLAIN_TEXT, bad_rows: BadRows = "error") -> Sample:
    """Read the first rows of the data and blocks spread over the rest.

    Raises:
        DataError: There is no such file, or a CSV file is empty or has a record wider or narrower than its header.
        SchemaError: The data cannot be read, has no rows, or has two columns of one name.
    """
    skips(bad_rows)  # or it is no such option
    parts = list(_parts(data))
    if not parts:
        raise SchemaError("a schema cannot be inferred from an empty list of files")
    name, reading = _name_of(parts[0]), CsvReading(text, bad_rows)
    more = f" and {len(parts) - 1:,} more" if len(parts) > 1 else ""
    try:
        table = _read_parts(parts, reading)
    except (DataError, SchemaError) as error:
        raise error if isinstance(parts[0], Location) else SchemaError(str(error)) from None
    except (OSError, TypeError, ValueError, csv.Error) as error:
        shown = name if name.startswith("the ") else repr(name)
        raise SchemaError(f"cannot infer a schema from {shown}{more}: {' '.join(str(error).split())}") from error
    if not table.num_rows:
        raise SchemaError(f"there are no rows in {name}{more}")
    return Sample(f"{name}{more}", table, text, tuple(left_out(reading.skipped, reading.examples)))


def _parts(data: Rows) -> Iterator[Part]:
    """Yield the files, tables in memory and sources that data in any form consists of."""
    if isinstance(data, str | Path | Partitions):
        yield from files_of(data)
    elif isinstance(data, pa.RecordBatchReader):
        raise SchemaError("a RecordBatchReader can be read once only: give `data.read_all()`")
    elif isinstance(data, Location | pd.DataFrame | ArrowStream | RowSource):
        if is_column(data):
            check_rows(data)
        yield data
    else:
        check_rows(data)
        for item in data:
            yield from _parts(item)


def _name_of(part: Part) -> str:
    return frame_name(part) if isinstance(part, pd.DataFrame | ArrowStream) else part.name


def _read_parts(parts: Sequence[Part], reading: CsvReading) -> pa.Table:
    """Read the first part of the data, and the first rows of others that have the same columns."""
    tables = [_checked(table, _name_of(parts[0])) for table in _read_part(parts[0], reading)]
    read = [pa.concat_tables(tables, promote_options="permissive")]
    for place in _spread(len(parts), 1, BLOCKS):
        try:
            table = next(_read_part(parts[place], reading)).slice(0, BLOCK_ROWS).select(read[0].column_names)
            read = [pa.concat_tables([*read, table], promote_options="permissive")]
        except DataError:
            raise
        except (OSError, LookupError, TypeError, ValueError):  # preparing the rows reports it
            continue
    return read[0]


def _read_part(part: Part, reading: CsvReading) -> Iterator[pa.Table]:
    """Read the head of a part of the data, then its blocks; missing values are null."""
    for table in _raw_tables(part, reading):
        columns = [_without_nulls(column, reading.text.null_words) for column in plain_table(table).columns]
        named = [(name, column) for name, column in zip(table.column_names, columns, strict=True) if name]
        names = [name for name, _ in named]
        yield pa.Table.from_arrays([column for _, column in named], names=names, metadata=table.schema.metadata)


def _raw_tables(part: Part, reading: CsvReading) -> Iterator[pa.Table]:
    if isinstance(part, Location):
        for table in _read_file(part, reading):
            added = {key: value for key, value in part.part_keys.items() if key not in table.column_names}
            for key, value in added.items():
                table = table.append_column(key, pa.repeat(pa.scalar(value, pa.string()), len(table)))
            yield table
    elif isinstance(part, pd.DataFrame):
        places = [*range(min(len(part), HEAD_ROWS)), *_spread(len(part), HEAD_ROWS, HEAD_ROWS)]
        yield as_table(part.iloc[places], "the frame")
    elif isinstance(part, pd.DataFrame | ArrowStream):
        yield from _split_head(as_table(part, frame_name(part)))
    else:
        batches, rows = part.batches(part.columns, frozenset()), 0
        head = [next(batches, pa.RecordBatch.from_pylist([], pa.schema([(c, pa.string()) for c in part.columns])))]
        while head[-1].num_rows and (rows := rows + head[-1].num_rows) < HEAD_ROWS and (more := next(batches, None)):
            head.append(more)
        tables = [pa.Table.from_batches([batch]) for batch in head]
        yield pa.concat_tables(tables, promote_options="permissive").slice(0, HEAD_ROWS)


def _without_nulls(column: pa.ChunkedArray, nulls: NullWords) -> pa.ChunkedArray:
    return pa.chunked_array([replace_nulls(chunk, nulls) for chunk in column.chunks], column.type)


def _checked(table: pa.Table, name: str) -> pa.Table:
    """Return a table of which no two columns have one name."""
    for column, count in Counter(table.column_names).items():
        if count > 1:
            raise SchemaError(f"{name} has the column {column!r} twice")
    return table


def _read_file(location: Location, reading: CsvReading) -> Iterator[pa.Table]:
    """Read the head of a file, then its blocks."""
    readers = {PARQUET: _read_parquet, IPC: _read_ipc}
    kind = format_of(location)
    return readers[kind](location) if kind in readers else _read_csv(location, reading)


def _read_parquet(location: Location) -> Iterator[pa.Table]:
    with pq.ParquetFile(location.path, filesystem=location.filesystem) as file:
        batches = file.iter_batches(batch_size=HEAD_ROWS)
        yield pa.Table.from_batches(itertools.islice(batches, 1), file.schema_arrow)
        if file.metadata.num_rows <= HEAD_ROWS:
            return
        for place in _spread(file.num_row_groups, 0, BLOCKS):
            if file.metadata.row_group(place).total_byte_size <= GROUP_BYTES:
                yield _thinned(file.read_row_group(place))
            else:
                batches = file.iter_batches(batch_size=BLOCK_ROWS, row_groups=[place])
                yield pa.Table.from_batches(itertools.islice(batches, 1), file.schema_arrow)


def _read_ipc(location: Location) -> Iterator[pa.Table]:
    with location.file() as file:
        reader, rows = ipc.open_file(file), 0
        head: list[pa.RecordBatch] = []
        while rows < HEAD_ROWS and len(head) < reader.num_record_batches:
            head.append(reader.get_batch(len(head)))
            head[-1].validate(full=True)  # offsets and dictionary codes of a damaged file may be out of range
            rows += head[-1].num_rows
        yield from _split_head(pa.Table.from_batches(head, reader.schema))
        for place in _spread(reader.num_record_batches, len(head), BLOCKS):
            batch = reader.get_batch(place)
            batch.validate(full=True)
            yield _thinned(pa.Table.from_batches([batch]))


def _read_csv(location: Location, reading: CsvReading) -> Iterator[pa.Table]:
    form = reading.text
    records = CsvRecords(location, form.separator, form.header, form.escape)
    with location.stream() as stream:
        head = stream.read(HEAD_BYTES + 1)
    whole = len(head) <= HEAD_BYTES
    head = head if whole else head[: _last_record_end(head)]
    first, bad = _parse_csv(head, records, form, named=not form.header)
    if bad:
        reading.skip(records, bad)
    if whole and (bad or last_has_line_break(first.column(first.num_columns - 1))):
        records.check(reading.bad_rows)
    yield from _split_head(first)
    if not whole and location.on_disk and not {s.lower() for s in location.suffixes} & {*COMPRESSIONS}:
        for block in _csv_blocks(location):
            table, bad = _parse_csv(block, records, form)
            if bad:
                reading.skip(records, bad)
            if not bad or reading.bad_rows == "skip":  # otherwise it was not cut between records
                yield table.slice(0, BLOCK_ROWS)


def _parse_csv(text: bytes, records: CsvRecords, form: TextFormat, named: bool = False) -> tuple[pa.Table, int]:
    """Return records as text, and the number of those that have another width than the header, which are skipped."""
    text, skipped = keep_null_words(form.escape)(text), 0
    text = text.decode("utf-8-sig", errors="replace").encode()  # preparing the rows reports bytes that are not UTF-8

    def skip(record: pacsv.InvalidRow) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    header = records.columns
    table = pacsv.read_csv(
        pa.BufferReader(text),
        pacsv.ReadOptions(block_size=max(len(text), 1), column_names=None if named else header, use_threads=False),
        pacsv.ParseOptions(
            delimiter=records.separator,
            escape_char=form.escape or False,
            newlines_in_values=True,
            invalid_row_handler=skip,
        ),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), null_values=form.null_words, strings_can_be_null=True
        ),
    )
    return table, skipped


def _last_record_end(text: bytes) -> int:
    """Return where the last complete record ends: behind a line break with an even number of quotes before it."""
    last = end = text.rfind(b"\n") + 1
    odd = text.count(b'"', 0, end) % 2
    while end and odd:
        start = text.rfind(b"\n", 0, end - 1) + 1
        odd ^= text.count(b'"', start, end) % 2
        end = start
    return end or last or len(text)


def _csv_blocks(location: Location) -> Iterator[bytes]:
    """Yield blocks of whole lines of a plain CSV file, but for those in which a quoted value may span lines."""
    with location.file() as file:
        starts = np.linspace(HEAD_BYTES, max(HEAD_BYTES, file.size() - BLOCK_BYTES), BLOCKS).astype(int)
        for start in dict.fromkeys(starts.tolist()):
            file.seek(start)
            block = file.read(BLOCK_BYTES)
            block = block[block.find(b"\n") + 1 : block.rfind(b"\n") + 1]
            if block and not (b'"' in block and any(line.count(b'"') % 2 for line in block.split(b"\n"))):
                yield block


def _split_head(table: pa.Table) -> Iterator[pa.Table]:
    """Yield the first rows, then blocks of the others."""
    yield table.slice(0, HEAD_ROWS)
    yield _thinned(table.slice(HEAD_ROWS))


def _thinned(table: pa.Table) -> pa.Table:
    """Return at most `BLOCK_ROWS` rows, in blocks that are spread over the table."""
    rows = BLOCK_ROWS // BLOCKS
    starts = _spread(max(len(table) - rows, 0) + 1, 0, BLOCKS)
    return pa.concat_tables([table.slice(start, rows) for start in starts])


def _spread(end: int, start: int, most: int) -> list[int]:
    """Return at most `most` whole numbers from `start` below `end`, evenly spaced up to the last one."""
    return sorted({int(place) for place in np.linspace(start, end - 1, min(most, max(end - start, 0)))})
