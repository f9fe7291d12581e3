"""Open files, tables and DataFrames as sources of Arrow record batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.data.sources.base import Source
from recmtl.data.sources.csv import CsvSource
from recmtl.errors import DataError, unreadable
from recmtl.io.location import Location, expand
from recmtl.schema.sample import ARROW_FORMATS

FRAME_ROWS = 1 << 16  # of tables in memory and Parquet files

Data: TypeAlias = str | Path | pd.DataFrame | pa.Table | Source | Sequence[str | Path | Source]


class TypedSource(Source):
    """Rows that have types of their own, in memory or in a file."""

    def __init__(
        self, name: str, columns: Sequence[str], read: Callable[[list[str]], Iterable[pa.RecordBatch]]
    ) -> None:
        self.name, self.columns, self._read = name, tuple(columns), read

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows with their own types."""
        yield from self._read(list(columns))


def table_source(table: pa.Table, name: str) -> TypedSource:
    """Return a table in memory as a source."""

    def read(columns: list[str]) -> list[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = table.select(columns).combine_chunks().to_batches(max_chunksize=FRAME_ROWS)
        return batches

    return TypedSource(name, table.column_names, read)


def _arrow_source(location: Location) -> TypedSource:
    """Return an Arrow IPC file (also called Feather) as a source."""

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with location.file() as file:
            reader = ipc.open_file(file)
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i).select(columns)
                batch.validate(full=True)  # offsets and dictionary codes of a damaged file may be out of range
                yield batch

    with location.file() as file:
        return TypedSource(location.name, ipc.open_file(file).schema.names, read)


def _parquet_source(location: Location) -> TypedSource:
    """Return a Parquet file as a source."""

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(location.path, filesystem=location.filesystem) as file:
            for batch in file.iter_batches(batch_size=FRAME_ROWS, columns=columns):
                yield batch.select(columns)

    with pq.ParquetFile(location.path, filesystem=location.filesystem) as file:
        return TypedSource(location.name, file.schema_arrow.names, read)


TYPED_SOURCES = {"parquet": _parquet_source, "ipc": _arrow_source}


def open_sources(data: Data, name: str = "data", separator: str | None = None) -> list[Source]:
    """Open data in any accepted form as sources, with the name of data in memory for errors.

    Files are CSV (``.gz`` and ``.zst`` too), Parquet or Arrow IPC by their suffix, on disk or at a URI (``s3://``,
    ``gs://``, ``hdfs://``, ``file://``). Without a separator the header of each CSV file decides.
    """
    if isinstance(data, Source):
        return [data]
    if isinstance(data, pd.DataFrame):
        name = f"the {name} frame"
        try:
            table = pa.Table.from_pandas(data, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise unreadable(name, error) from error
        return [_check_columns(table_source(table, name))]
    if isinstance(data, pa.Table):
        return [_check_columns(table_source(data, f"the {name} table"))]
    if isinstance(data, str | Path):
        return [_open_file(location, separator) for location in expand(data)]
    if not data:
        raise DataError(f"the list of {name} files is empty")
    return [source for item in data for source in open_sources(item, name, separator)]


def _open_file(location: Location, separator: str | None) -> Source:
    kind = ARROW_FORMATS.get(location.suffix)
    try:
        return _check_columns(TYPED_SOURCES[kind](location) if kind else CsvSource(location, separator))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(location.name, error) from error


def _check_columns(source: Source) -> Source:
    for column in source.columns:
        if source.columns.count(column) > 1:
            raise DataError(f"{source.name} has the column {column!r} twice")
    return source
