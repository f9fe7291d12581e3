"""Where rows come from: CSV, Parquet and Arrow files, tables and DataFrames, all streamed as Arrow record batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
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

FRAME_ROWS = 1 << 16  # of a table in memory, handed on at a time

Data: TypeAlias = str | Path | pd.DataFrame | pa.Table | Source | Sequence[str | Path | Source]


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
                batch = reader.get_batch(i).select(list(columns))
                batch.validate(full=True)  # that offsets and codes, which nothing else looks at, stay within
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
        """Stream the rows; types stay as they are."""
        with self._open() as file:
            for batch in file.iter_batches(batch_size=FRAME_ROWS, columns=list(columns)):
                yield batch.select(list(columns))

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._location.path, filesystem=self._location.filesystem)


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
