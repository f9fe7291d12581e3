"""Dates and times of any source as categories of the calendar."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import as_text
from recmtl.errors import BadValueError
from recmtl.schema import Timestamp
from recmtl.schema.features import ZONE
from recmtl.schema.fitted import FIRST, MISSING

UNITS = {"seconds": "s", "milliseconds": "ms"}  # of Unix time
LATEST = {"s": 253_402_300_799, "ms": 253_402_300_799_999}  # the end of the year 9999
ISO = r"^\d{4}-?\d\d-?\d\d([T ]|$)"  # a whole date, with or without a time
CLOCK = r"([T ][0-9:]+)([.,][0-9]+)?\s*(Z|[+-][0-9]{2}(:?[0-9]{2})?)?$"  # fraction and offset change no part
OFFSET = r"\s*(Z|[+-][0-9]{2}:?[0-9]{2})$"
# Each part from 0.
PARTS: Mapping[str, Callable[[pa.Array], pa.Array]] = {
    "minute": pc.minute,
    "hour": pc.hour,
    "weekday": pc.day_of_week,
    "day": lambda times: pc.subtract(pc.day(times), 1),
    "month": lambda times: pc.subtract(pc.month(times), 1),
    "quarter": lambda times: pc.subtract(pc.quarter(times), 1),
}


def calendar_ids(array: pa.Array, feature: Timestamp) -> npt.NDArray[np.int32]:
    """Give the index of each part of a column of dates or times.

    Shape:
        - output: ``[rows, parts]``

    Raises:
        BadValueError: A value is no date.
    """
    times = as_times(array, feature)
    columns = [PARTS[part](times).fill_null(MISSING - FIRST).to_numpy(zero_copy_only=False) for part in feature.parts]
    return np.column_stack(columns).astype(np.int32) + np.int32(FIRST)


def as_times(array: pa.Array, feature: Timestamp) -> pa.TimestampArray:
    """Give a column as timestamps, null where it is missing.

    Raises:
        BadValueError: A value is no date.
    """
    if pa.types.is_dictionary(array.type) and pa.types.is_temporal(array.type.value_type):
        array = array.dictionary_decode()
    if pa.types.is_timestamp(array.type):
        return array
    if pa.types.is_date(array.type):
        return array.cast(pa.timestamp("ms"))
    expected = _expected(feature.format)
    if pa.types.is_nested(array.type):
        raise BadValueError(0, feature.name, array[0].as_py() if len(array) else None, expected)
    values, codes = as_text(array, feature.name)
    parsed = _parse(values, feature.format)
    bad = pc.and_(parsed.is_null(), values.is_valid()).to_numpy(zero_copy_only=False)
    if bad.any():
        rows = np.append(bad, False)[codes]
        row = int(rows.argmax())
        raise BadValueError(row, feature.name, values[codes[row]].as_py(), expected, rows)
    return parsed.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


def _expected(written: str | None) -> str:
    if written in UNITS:
        return f"a Unix time in {written}"
    return "a date as in ISO 8601" if written is None else f"a date in the format {written!r}"


def _parse(values: pa.StringArray, written: str | None) -> pa.TimestampArray:
    """Parse distinct values, null where they are no date."""
    if written in UNITS:
        unit = UNITS[written]
        numbers = pd.to_numeric(values.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
        known = np.abs(numbers) <= LATEST[unit]
        return pa.array(np.where(known, numbers, 0).astype(np.int64), mask=~known).cast(pa.timestamp(unit))
    if written is None:
        text = pc.replace_substring_regex(values, CLOCK, r"\1")
        text = pc.if_else(pc.match_substring_regex(text, ISO), text, None)
    else:
        text = pc.replace_substring_regex(values, OFFSET, "") if written.endswith(ZONE) else values
        text = pc.if_else(pc.match_substring_regex(text, r"\d"), text, None)  # pandas takes "now" for a date
        written = written.removesuffix(ZONE).rstrip()
    times = pd.to_datetime(text.to_pandas(), format=written or "ISO8601", errors="coerce")
    return pa.Array.from_pandas(times).cast(pa.timestamp("us"), safe=False)
