"""Open files, tables and DataFrames as sources of Arrow record batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

FRAME_ROWS = 1 << 16  # of tables in memory and Parquet files

Data: TypeAlias = str | Path | pd.DataFrame | pa.Table | Source | Sequence[str | Path | Source]


class FrameSource(Source):
    """A table or DataFrame in memory."""

    def __init__(self, table: pa.Table, name: str) -> None:
        self.name, self._table = name, table
        self.columns = tuple(table.column_names)

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows with their own types."""
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
        """Stream the rows with their own types."""
        with self._location.file() as file:
            reader = ipc.open_file(file)
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i).select(list(columns))
                batch.validate(full=True)  # offsets and dictionary codes of a damaged file may be out of range
                yield batch


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, location: Location) -> None:
        self.name, self._location = location.name, location
        with self._open() as file:
            self.columns = tuple(file.schema_arrow.names)

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows with their own types."""
        with self._open() as file:
            for batch in file.iter_batches(batch_size=FRAME_ROWS, columns=list(columns)):
                yield batch.select(list(columns))

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._location.path, filesystem=self._location.filesystem)


BINARY_FORMATS: Mapping[str, type[ArrowSource] | type[ParquetSource]] = {
    ".parquet": ParquetSource,
    ".pq": ParquetSource,
    ".arrow": ArrowSource,
    ".feather": ArrowSource,
}


def open_sources(data: Data, name: str = "data", separator: str | None = None) -> list[Source]:
    """Open data in any accepted form as sources, with the name of data in memory for errors.

    Files are CSV (``.gz`` and ``.zst`` too), Parquet or Arrow IPC by their suffix, on disk or at a URI (``s3://``,
    ``gs://``, ``hdfs://``, ``file://``). Without a separator the header of each CSV file decides.
    """
    if isinstance(data, Source):
        return [data]
    if isinstance(data, pd.DataFrame):
        return [_check_columns(FrameSource(_from_pandas(data, name), f"the {name} frame"))]
    if isinstance(data, pa.Table):
        return [_check_columns(FrameSource(data, f"the {name} table"))]
    if isinstance(data, str | Path):
        return [_open_file(location, separator) for location in expand(data)]
    if not data:
        raise DataError(f"the list of {name} files is empty")
    return [source for item in data for source in open_sources(item, name, separator)]


def _open_file(location: Location, separator: str | None) -> Source:
    kind = BINARY_FORMATS.get(location.suffix)
    try:
        return _check_columns(kind(location) if kind else CsvSource(location, separator))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(location.name, error) from error


def _check_columns(source: Source) -> Source:
    for column in source.columns:
        if source.columns.count(column) > 1:
            raise DataError(f"{source.name} has the column {column!r} twice")
    return source


def _from_pandas(frame: pd.DataFrame, name: str) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise unreadable(f"the {name} frame", error) from error
