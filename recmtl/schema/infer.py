"""Guess what a column is from its first rows."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as pads

from recmtl.schema.checks import SchemaError
from recmtl.schema.features import Categorical, Feature, MultiCategorical, Numeric, Timestamp

HEAD_ROWS = 100_000
HEAD_BYTES = 1 << 24  # of a CSV file
SEPARATORS = ("|", ";")
FORMATS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "ipc"}  # all else is CSV
COMPRESSIONS = (".gz", ".zst", ".bz2")
IDENTIFIER = re.compile(r"(^|_)(id|code|key|index)s?$", re.IGNORECASE)
NULLS = ("", "nan", "NaN", "null", "NULL")  # the texts that mean "missing"
FEW_CODES = 20  # integers with at most this many distinct values are codes rather than quantities


def suffix(path: Path) -> str:
    """Give a file's suffix without that of its compression; ``.csv`` where it has none."""
    return next((s for s in reversed(path.suffixes) if s not in COMPRESSIONS), ".csv")


def head(data: str | Path | pd.DataFrame) -> pa.Table:
    """Read the first rows of a file or a frame.

    Raises:
        SchemaError: The file is missing or cannot be read.
    """
    try:
        if isinstance(data, pd.DataFrame):
            return pa.Table.from_pandas(data.head(HEAD_ROWS), preserve_index=False)
        path = Path(data)
        if suffix(path) in FORMATS:
            return pads.dataset(path, format=FORMATS[suffix(path)]).head(HEAD_ROWS)
        return _csv_head(path)
    except (OSError, TypeError, ValueError) as error:
        what = "the frame" if isinstance(data, pd.DataFrame) else repr(str(data))
        raise SchemaError(f"cannot infer a schema from {what}: {' '.join(str(error).split())}") from error


def _csv_head(path: Path) -> pa.Table:
    options = pacsv.ParseOptions(delimiter="\t" if suffix(path) == ".tsv" else ",", newlines_in_values=True)
    with pa.input_stream(str(path), compression="detect") as stream:
        missing = pacsv.ConvertOptions(null_values=NULLS, strings_can_be_null=True)
        reader = pacsv.open_csv(stream, pacsv.ReadOptions(block_size=HEAD_BYTES), options, missing)
        return pa.Table.from_batches(itertools.islice(reader, 1), reader.schema).slice(0, HEAD_ROWS)


def propose(table: pa.Table, column: str) -> Feature:
    """Propose the feature that a column most likely is."""
    values = table.column(column)
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return MultiCategorical(column)
    if pa.types.is_timestamp(kind):
        return Timestamp(column)
    if pa.types.is_date(kind):
        return Timestamp(column, parts=("weekday", "day", "month"))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        codes = IDENTIFIER.search(column) or pc.count_distinct(values).as_py() <= FEW_CODES
        return Categorical(column, min_count=2) if codes and _is_whole(values) else Numeric(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        for separator in SEPARATORS:
            if _is_list(values, separator):
                return MultiCategorical(column, separator=separator)
    return Categorical(column, min_count=2)


def _is_whole(values: pa.ChunkedArray) -> bool:
    """Whether numbers are integers: pandas holds integers as floats where one is missing."""
    present = values.drop_null()
    return len(present) > 0 and bool(pc.all(pc.equal(pc.floor(present), present)).as_py())


def _is_list(values: pa.ChunkedArray, separator: str) -> bool:
    """Whether a separator stands in many values, and splitting by it makes the values repeat."""
    values = values.drop_null()
    if not len(values) or pc.mean(pc.match_substring(values, separator)).as_py() < 0.05:
        return False
    parts = pc.list_flatten(pc.split_pattern(values, separator))
    return bool(pc.count_distinct(parts).as_py() < pc.count_distinct(values).as_py())
