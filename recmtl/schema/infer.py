"""Guess what a column is from its first rows."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from recmtl.schema.checks import SchemaError
from recmtl.schema.features import Categorical, Feature, MultiCategorical, Numeric

HEAD_ROWS = 100_000
SEPARATORS = ("|", ";")
IDENTIFIER = re.compile(r"(^|_)(id|code|key|index)s?$", re.IGNORECASE)
FEW_CODES = 20  # integers with at most this many distinct values are codes rather than quantities


def head(data: str | Path | pd.DataFrame) -> pa.Table:
    """Read the first rows of a file or a frame.

    Raises:
        SchemaError: The file is missing or cannot be read.
    """
    if isinstance(data, pd.DataFrame):
        return pa.Table.from_pandas(data.head(HEAD_ROWS), preserve_index=False)
    path = Path(data)
    suffix = next((s for s in reversed(path.suffixes) if s not in (".gz", ".zst")), ".csv").lstrip(".")
    try:
        return pads.dataset(path, format={"arrow": "ipc", "feather": "ipc"}.get(suffix, suffix)).head(HEAD_ROWS)
    except (OSError, ValueError) as error:
        raise SchemaError(f"cannot infer a schema from {str(path)!r}: {error}") from error


def propose(table: pa.Table, column: str) -> Feature:
    """Propose the feature that a column most likely is."""
    values = table.column(column)
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return MultiCategorical(column)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return Numeric(column)
    if pa.types.is_integer(kind):
        distinct = len(pc.unique(values))
        return (
            Categorical(column, min_count=2) if IDENTIFIER.search(column) or distinct <= FEW_CODES else Numeric(column)
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        for separator in SEPARATORS:
            if _is_list(values, separator):
                return MultiCategorical(column, separator=separator)
    return Categorical(column, min_count=2)


def _is_list(values: pa.ChunkedArray, separator: str) -> bool:
    """Whether a separator stands in many values, and splitting by it makes the values repeat."""
    values = values.drop_null()
    if not len(values) or pc.mean(pc.match_substring(values, separator)).as_py() < 0.05:
        return False
    parts = pc.list_flatten(pc.split_pattern(values, separator))
    return bool(pc.count_distinct(parts).as_py() < pc.count_distinct(values).as_py())
