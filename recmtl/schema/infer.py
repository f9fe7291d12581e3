"""Suggest a feature for each column from the first rows of a file."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as pads

from recmtl.errors import SchemaError
from recmtl.io.location import Location, public_name
from recmtl.schema.features import Categorical, Feature, MultiCategorical, Numeric, Timestamp

HEAD_ROWS = 100_000
HEAD_BYTES = 1 << 24  # of a CSV file
HEADER_BYTES = 1 << 20  # of a CSV file
COLUMN_SEPARATORS = (",", "\t", ";", "|")  # on a tie, the first one
LIST_SEPARATORS = ("|", ";")
QUOTED, LINE_BREAK = re.compile(r'"[^"]*"'), re.compile(r"[\r\n]")
ARROW_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "ipc"}  # all else is CSV
IDENTIFIER = re.compile(r"(^|_)(id|code|key|index)s?$", re.IGNORECASE)
NULLS = ("", "nan", "NaN", "null", "NULL")  # text read as missing
MAX_CODES = 20  # integers with at most this many distinct values are codes, not quantities


def detect_separator(stream: pa.NativeFile) -> str:
    """Return the column separator of a CSV file: the most frequent candidate in its header, outside quotes."""
    text = stream.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    header = LINE_BREAK.split(QUOTED.sub("", text).lstrip("\r\n"), maxsplit=1)[0]
    return max(COLUMN_SEPARATORS, key=header.count)


def read_head(data: str | Path | Location | pd.DataFrame, separator: str | None = None) -> pa.Table:
    """Read the first rows of a file or frame; without a separator the header of a CSV file decides."""
    try:
        if isinstance(data, pd.DataFrame):
            return pa.Table.from_pandas(data.head(HEAD_ROWS), preserve_index=False)
        location = data if isinstance(data, Location) else Location.of(data)
        if location.suffix in ARROW_FORMATS:
            kind = ARROW_FORMATS[location.suffix]
            return pads.dataset(location.path, filesystem=location.filesystem, format=kind).head(HEAD_ROWS)
        return _read_csv_head(location, separator)
    except (OSError, TypeError, ValueError) as error:
        if isinstance(data, pd.DataFrame):
            name = "the frame"
        else:
            name = repr(data.name if isinstance(data, Location) else public_name(data))
        raise SchemaError(f"cannot infer a schema from {name}: {' '.join(str(error).split())}") from error


def _read_csv_head(location: Location, separator: str | None) -> pa.Table:
    if separator is None:
        with location.stream() as stream:
            separator = detect_separator(stream)
    parse = pacsv.ParseOptions(delimiter=separator, newlines_in_values=True)
    convert = pacsv.ConvertOptions(null_values=NULLS, strings_can_be_null=True)
    with location.stream() as stream:
        reader = pacsv.open_csv(stream, pacsv.ReadOptions(block_size=HEAD_BYTES), parse, convert)
        return pa.Table.from_batches(itertools.islice(reader, 1), reader.schema).slice(0, HEAD_ROWS)


def suggest_feature(table: pa.Table, column: str) -> Feature:
    """Return the most likely feature for a column."""
    values = table.column(column)
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return MultiCategorical(column)
    if pa.types.is_timestamp(kind):
        return Timestamp(column)
    if pa.types.is_date(kind):
        return Timestamp(column, parts=("weekday", "day", "month"))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        codes = IDENTIFIER.search(column) or pc.count_distinct(values).as_py() <= MAX_CODES
        return Categorical(column, min_count=2) if codes and _is_whole(values) else Numeric(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        for separator in LIST_SEPARATORS:
            if _is_list(values, separator):
                return MultiCategorical(column, separator=separator)
    return Categorical(column, min_count=2)


def _is_whole(values: pa.ChunkedArray) -> bool:
    """Return whether all numbers are whole: pandas turns integers with a missing value into floats."""
    present = values.drop_null()
    return len(present) > 0 and bool(pc.all(pc.equal(pc.floor(present), present)).as_py())


def _is_list(values: pa.ChunkedArray, separator: str) -> bool:
    """Return whether many values contain the separator and splitting by it yields fewer distinct values."""
    values = values.drop_null()
    if not len(values) or pc.mean(pc.match_substring(values, separator)).as_py() < 0.05:
        return False
    parts = pc.list_flatten(pc.split_pattern(values, separator))
    return bool(pc.count_distinct(parts).as_py() < pc.count_distinct(values).as_py())
