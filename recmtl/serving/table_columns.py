"""The columns of DataFrames and Arrow tables as the reader of an exported model takes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.errors import RequestError
from recmtl.io.formats import Frame, as_table
from recmtl.serving.feature_encoders import Column

NUMBERS = "fiub"  # kinds of types: floats, integers, booleans
NARROW_FLOATS = (pa.float16(), pa.float32())


def columns_of(data: Frame | pa.RecordBatch, kinds: Mapping[str, str]) -> dict[str, Column]:
    """Return the columns of a table that are fields.

    Args:
        data: The table.
        kinds: The kind of each field's feature.

    Raises:
        DataError: The table holds values that Arrow has no type for.
        RequestError: A column stands twice in the table.
    """
    found = _plain_columns(data, kinds) if isinstance(data, pd.DataFrame) else {}
    if isinstance(data, pd.DataFrame) and found:
        data = data[[name for name in kinds if name in data.columns and name not in found]]
    if len(found) == len(kinds):
        return found
    table = as_table(data, "the table of rows")
    twice = next((name for name in kinds if table.column_names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"the table has the column {twice!r} twice", twice)
    others = [(name, kind) for name, kind in kinds.items() if name not in found and name in table.column_names]
    return found | {name: _values(table.column(name).combine_chunks(), kind) for name, kind in others}


def _plain_columns(frame: pd.DataFrame, kinds: Mapping[str, str]) -> dict[str, Column]:
    """Return the columns of NumPy's numbers, which Arrow need not convert."""
    if not frame.columns.is_unique:
        return {}
    types = dict(zip(frame.columns, frame.dtypes, strict=True))
    plain = [name for name in kinds if isinstance(types.get(name), np.dtype) and types[name].kind in NUMBERS]
    return {name: frame[name].to_numpy() for name in plain}


def _values(array: pa.Array, kind: str) -> Column:
    """Return a column as an array where NumPy has its type, else as a list."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if kind in ("numeric", "binned"):
        if number or pa.types.is_boolean(array.type) or pa.types.is_decimal(array.type):
            array = array.cast(pa.int8()) if pa.types.is_boolean(array.type) else array
            return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    elif kind == "timestamp" and (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        local = pc.local_timestamp(array) if pa.types.is_timestamp(array.type) and array.type.tz else array
        return local.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    elif pa.types.is_temporal(array.type):
        return array.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]
    elif kind == "multi_categorical" and not number:
        return _lists(array)
    if number and (array.null_count == 0 or pa.types.is_floating(array.type)):
        return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    return array.to_pylist()  # type: ignore[no-any-return]


def _lists(array: pa.Array) -> Column:
    """Return a column of lists; of floats narrower than 64 bits their text, as it is shorter."""
    if getattr(array.type, "value_type", None) in NARROW_FLOATS:
        array = array.cast(pa.list_(pa.string()))
    return array.to_pylist()  # type: ignore[no-any-return]
