"""Read the rows that a schema is inferred from: the first rows of the data, and blocks spread over the rest.

The first rows of a sorted file may lack whatever comes later, so blocks of a plain CSV file on disk, row groups of a
Parquet file, batches of an Arrow file, rows of a table in memory and further files are read as well.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.errors import DataError, SchemaError
from recmtl.io.location import COMPRESSIONS, Location, expand

HEAD_ROWS = 100_000
HEAD_BYTES = 1 << 24  # of a CSV file
HEADER_BYTES = 1 << 20  # of a CSV file
BLOCKS = 8  # spread over the rest of the data
BLOCK_ROWS = 10_000
BLOCK_BYTES = 1 << 20  # of a CSV file
NULLS = ("", "nan", "NaN", "null", "NULL")  # text read as missing
# Further words for a missing number; as a category they are text like any other.
MISSING_NUMBERS = (*NULLS, "NA", "<NA>", "N/A", "n/a", "#N/A", "None", "none", "Null", "\\N", "-", "?")
GROUP_BYTES = 1 << 26  # a larger row group of a Parquet file is not read to its end
COLUMN_SEPARATORS = (",", "\t", ";", "|")  # on a tie, the first one
QUOTED, LINE_BREAK = re.compile(r'"[^"]*"'), re.compile(r"[\r\n]")
ARROW_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "ipc"}  # all else is CSV

Rows: TypeAlias = str | Path | Location | pd.DataFrame | pa.Table | Sequence[str | Path | Location]


@dataclass(frozen=True)
class Sample:
    """Rows of a dataset: all columns of a CSV file are text.

    Args:
        name: The name of the data for errors.
        table: The rows.
    """

    name: str
    table: pa.Table


def detect_separator(stream: pa.NativeFile) -> str:
    """Return the column separator of a CSV file: the most frequent candidate in its header, outside quotes."""
    text = stream.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    header = LINE_BREAK.split(QUOTED.sub("", text).lstrip("\r\n"), maxsplit=1)[0]
    return max(COLUMN_SEPARATORS, key=header.count)


def read_sample(data: Rows, separator: str | None = None) -> Sample:
    """Read the first rows of the data and blocks spread over the rest; the header of a CSV file has the separator.

    Raises:
        DataError: There is no such file.
        SchemaError: The data cannot be read, has no rows, or has two columns of one name.
    """
    if isinstance(data, pd.DataFrame | pa.Table):
        name = "the frame" if isinstance(data, pd.DataFrame) else "the table"
        locations = []
    else:
        given = [data] if isinstance(data, str | Path | Location) else data
        locations = [file for item in given for file in ([item] if isinstance(item, Location) else expand(item))]
        if not locations:
            raise SchemaError("a schema cannot be inferred from an empty list of files")
        name = locations[0].name
    try:
        table = _read_files(locations, separator) if locations else _read_memory(data)
    except (DataError, SchemaError):
        raise
    except (OSError, TypeError, ValueError, csv.Error) as error:
        shown = name if name.startswith("the ") else repr(name)
        raise SchemaError(f"cannot infer a schema from {shown}: {' '.join(str(error).split())}") from error
    if not table.num_rows:
        raise SchemaError(f"there are no rows in {name}")
    return Sample(name, table)


def _read_memory(data: pd.DataFrame | pa.Table) -> pa.Table:
    if isinstance(data, pd.DataFrame):
        places = [*range(min(len(data), HEAD_ROWS)), *_spread(len(data), HEAD_ROWS, HEAD_ROWS)]
        data = pa.Table.from_pandas(data.iloc[places], preserve_index=False)
        return _checked(data, "the frame")
    return pa.concat_tables(_split_head(_checked(data, "the table")))


def _checked(table: pa.Table, name: str) -> pa.Table:
    """Return a table of which no two columns have one name."""
    for column, count in Counter(table.column_names).items():
        if count > 1:
            raise SchemaError(f"{name} has the column {column!r} twice")
    return table


def _read_files(locations: Sequence[Location], separator: str | None) -> pa.Table:
    """Read the first file, and the first rows of others that have the same columns."""
    parts = [_checked(part, locations[0].name) for part in _read_file(locations[0], separator)]
    first = pa.concat_tables(parts, promote_options="permissive")
    tables = [first]
    for place in _spread(len(locations), 1, BLOCKS):
        try:
            table = next(_read_file(locations[place], separator)).slice(0, BLOCK_ROWS).select(first.column_names)
            tables = [pa.concat_tables([*tables, table], promote_options="permissive")]
        except (OSError, LookupError, TypeError, ValueError):  # preparing the rows reports it
            continue
    return tables[0]


def _read_file(location: Location, separator: str | None) -> Iterator[pa.Table]:
    """Read the head of a file, then its blocks."""
    kind = ARROW_FORMATS.get(location.suffix)
    readers = {"parquet": _read_parquet, "ipc": _read_ipc}
    return readers[kind](location) if kind else _read_csv(location, separator)


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


def _read_csv(location: Location, separator: str | None) -> Iterator[pa.Table]:
    with location.stream() as stream:
        head = stream.read(HEAD_BYTES + 1)
    separator = separator or detect_separator(pa.BufferReader(head))
    start = io.StringIO(head[:HEADER_BYTES].decode("utf-8-sig", errors="replace"), newline="")
    header = next((record for record in csv.reader(start, delimiter=separator) if record), None)
    if header is None:
        raise SchemaError(f"{location.name} is empty: expected a header and rows")
    whole = len(head) <= HEAD_BYTES
    head = head if whole else head[: _last_record_end(head)]
    yield from _split_head(_parse_csv(head, separator, header, first=True))
    if not whole and location.on_disk and not set(location.suffixes) & set(COMPRESSIONS):
        for block in _csv_blocks(location):
            try:
                yield _parse_csv(block, separator, header, first=False).slice(0, BLOCK_ROWS)
            except pa.ArrowInvalid:  # not cut between records
                continue


def _parse_csv(text: bytes, separator: str, header: list[str], first: bool) -> pa.Table:
    """Parse records as text; in the head records of a wrong length are skipped, as preparing the rows reports them."""
    text = text.decode("utf-8-sig", errors="replace").encode()  # likewise bytes that are not UTF-8
    skip = (lambda record: "skip") if first else None
    return pacsv.read_csv(
        pa.BufferReader(text),
        pacsv.ReadOptions(block_size=max(len(text), 1), column_names=None if first else header, use_threads=False),
        pacsv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=skip),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), null_values=NULLS, strings_can_be_null=True
        ),
    )


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
