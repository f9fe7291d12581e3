"""Open files, tables and DataFrames as sources of Arrow record batches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.data.sources.base import Source, without_blank_names
from recmtl.data.sources.csv import CsvSource
from recmtl.data.sources.parts import PartSource
from recmtl.errors import DataError, unreadable
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
    plain_batch,
    replace_words,
)
from recmtl.io.location import Location, expand
from recmtl.io.partitions import Partitions
from recmtl.schema.text_format import PLAIN_TEXT, TextFormat

FRAME_ROWS = 1 << 16  # of tables in memory and Parquet files
DIGEST_BLOCKS, DIGEST_BYTES, DIGEST_ROWS = 64, 1 << 16, 1 << 10  # of which a digest is taken, evenly spaced

Data: TypeAlias = str | Path | Partitions | Frame | Source | Sequence[str | Path | Partitions | Frame | Source]


class TypedSource(Source):
    """Rows that have types of their own, in memory or in a file; words for a missing value are null in text."""

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        read: Callable[[list[str]], Iterable[pa.RecordBatch]],
        text: TextFormat = PLAIN_TEXT,
    ) -> None:
        self.name, self._read, self._nulls = name, read, text.null_words
        self.columns, self.index = without_blank_names(schema.names), index_columns(schema)
        self.unnamed = schema.names.count("")

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows with their own types."""
        for batch in self._read(list(columns)):
            plain = [replace_words(column, self._nulls) for column in plain_batch(batch).columns]
            yield pa.RecordBatch.from_arrays(plain, names=batch.schema.names)


def table_source(table: pa.Table, name: str, text: TextFormat = PLAIN_TEXT) -> TypedSource:
    """Return a table in memory as a source."""

    def read(columns: list[str]) -> list[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = table.select(columns).combine_chunks().to_batches(max_chunksize=FRAME_ROWS)
        return batches

    source = TypedSource(name, table.schema, read, text)
    source.digest = partial(table_digest, table)
    return source


def table_digest(table: pa.Table) -> str:
    """Return a hash of the rows of a table: of evenly spaced blocks if there are many."""
    found = hashlib.sha256(f"{table.num_rows} {table.schema.names}".encode())
    last = max(0, table.num_rows - DIGEST_ROWS)
    for block in range(DIGEST_BLOCKS if last else 1):
        rows = table.slice(last * block // (DIGEST_BLOCKS - 1), DIGEST_ROWS)
        found.update(repr(rows.to_pydict()).encode())
    return found.hexdigest()


def file_digest(location: Location) -> str:
    """Return a hash of the content of a file: of evenly spaced blocks if it is large."""
    with location.filesystem.open_input_file(location.path) as file:
        size = file.size()
        found = hashlib.sha256(str(size).encode())
        last = max(0, size - DIGEST_BYTES)
        for block in range(DIGEST_BLOCKS if last else 1):
            file.seek(last * block // (DIGEST_BLOCKS - 1))
            found.update(file.read(DIGEST_BYTES))
    return found.hexdigest()


def _arrow_source(location: Location, text: TextFormat) -> TypedSource:
    """Return an Arrow IPC file (also called Feather) as a source."""

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with location.file() as file:
            reader = ipc.open_file(file)
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i).select(columns)
                batch.validate(full=True)  # offsets and dictionary codes of a damaged file may be out of range
                yield batch

    with location.file() as file:
        return TypedSource(location.name, ipc.open_file(file).schema, read, text)


def _parquet_source(location: Location, text: TextFormat) -> TypedSource:
    """Return a Parquet file as a source; the checksums of its pages are verified if it has any."""

    def open_file() -> pq.ParquetFile:
        return pq.ParquetFile(location.path, filesystem=location.filesystem, page_checksum_verification=True)

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with open_file() as file:
            for batch in file.iter_batches(batch_size=FRAME_ROWS, columns=columns):
                yield batch.select(columns)

    with open_file() as file:
        source = TypedSource(location.name, file.schema_arrow, read, text)
        source.rows = file.metadata.num_rows
    return source


TYPED_SOURCES: Mapping[str, Callable[[Location, TextFormat], TypedSource]] = {
    PARQUET: _parquet_source,
    IPC: _arrow_source,
}


def open_sources(data: Data, name: str = "data", text: TextFormat = PLAIN_TEXT) -> list[Source]:
    """Open data in any accepted form as sources, with the name of data in memory for errors.

    Files are CSV (compressed, too), Parquet or Arrow IPC by their suffix or, without one of these, their first bytes;
    on disk or at a URI (``s3://``, ``gs://``, ``hdfs://``, ``file://``). Folders named like ``date=2024-01-01`` in a
    path add a column with this value, unless the file has a column of this name; `Partitions` are those of some days.
    """
    if isinstance(data, Source):
        return [data]
    if isinstance(data, str | Path | Partitions):
        found = data.files() if isinstance(data, Partitions) else expand(data)
        return [_open_file(location, text) for location in found]
    if is_column(data):
        check_rows(data)
    if isinstance(data, pd.DataFrame | ArrowStream):
        name = frame_name(data, name)
        return [_check_columns(table_source(as_table(data, name), name, text))]
    check_rows(data)
    parts = list(data)
    if not parts:
        raise DataError(f"the list of {name} files is empty")
    return [source for item in parts for source in open_sources(item, name, text)]


def digests(sources: Iterable[Source]) -> dict[str, str]:
    """Return the name of each source by its digest, those without one left out."""
    return {source.digest(): source.name for source in sources if source.digest}


def has_rows(data: Data, text: TextFormat) -> bool:
    """Return whether data has a row, be it one that does not parse; it reads up to the first."""
    malformed = list[None]()
    for source in open_sources(data, text=text):
        batches = source.batches(source.columns[:1], frozenset(), partial(malformed.append, None))
        if any(batch.num_rows for batch in batches) or malformed:
            return True
    return False


def _open_file(location: Location, text: TextFormat) -> Source:
    try:
        kind = format_of(location)
        read = TYPED_SOURCES[kind](location, text) if kind in TYPED_SOURCES else CsvSource(location, text)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(location.name, error) from error
    keys = {key: value for key, value in location.part_keys.items() if key not in read.columns}
    read.digest = partial(file_digest, location)
    return _check_columns(PartSource(read, keys) if keys else read)


def _check_columns(source: Source) -> Source:
    for column, count in Counter(source.columns).items():
        if count > 1:
            raise DataError(f"{source.name} has the column {column!r} twice")
    return source
