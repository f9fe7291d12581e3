"""Open files, tables and DataFrames as sources of Arrow record batches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa

from recmtl.data.sources.base import Source
from recmtl.data.sources.csv import CsvSource
from recmtl.data.sources.parts import NullsSource, PartSource
from recmtl.data.sources.typed import DIGEST_BLOCKS, ArrowSource, BlockSource, ParquetSource, TableSource
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
    is_column,
)
from recmtl.io.location import Location, expand
from recmtl.io.partitions import Partitions
from recmtl.schema.text_format import PLAIN_TEXT, TextFormat

DIGEST_BYTES = 1 << 16  # of each block of which a digest is taken

Data: TypeAlias = str | Path | Partitions | Frame | Source | Sequence[str | Path | Partitions | Frame | Source]


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


TYPED_SOURCES: Mapping[str, type[BlockSource]] = {PARQUET: ParquetSource, IPC: ArrowSource}


def open_sources(data: Data, name: str = "data", text: TextFormat = PLAIN_TEXT) -> list[Source]:
    """Open data in any accepted form as sources, with the name of data in memory for errors.

    Files are CSV (compressed, too), Parquet or Arrow IPC by their suffix or, without one of these, their first bytes;
    on disk or at a URI (``s3://``, ``gs://``, ``hdfs://``, ``file://``). Folders named like ``date=2024-01-01`` in a
    path add a column with this value, unless the file has a column of this name; `Partitions` are those of some days.
    """
    if isinstance(data, Source):
        return [NullsSource(data, text.null_words) if text.nulls is not None else data]
    if isinstance(data, str | Path | Partitions):
        found = data.files() if isinstance(data, Partitions) else expand(data)
        return [_open_file(location, text) for location in found]
    if is_column(data):
        check_rows(data)
    if isinstance(data, pd.DataFrame | ArrowStream):
        name = frame_name(data, name)
        return [_check_columns(TableSource(as_table(data, name), name, text))]
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
    found, nulls = location.part_keys, text.null_words
    keys = {key: None if value in nulls else value for key, value in found.items() if key not in read.columns}
    read.digest = partial(file_digest, location)
    return _check_columns(PartSource(read, keys) if keys else read)


def _check_columns(source: Source) -> Source:
    for column, count in Counter(source.columns).items():
        if count > 1:
            raise DataError(f"{source.name} has the column {column!r} twice")
    return source
