"""Timestamp features: encode dates and times from any source as calendar categories."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import Codes, as_text
from recmtl.errors import BadValueError
from recmtl.io.spellings import LATEST, LONGEST_TIME, MISSING_NUMBERS, NO_TIME, TICKS, UNIX_TIME, digits_of
from recmtl.schema import Timestamp
from recmtl.schema.date_text import formats_of, parse_dates
from recmtl.schema.fitted import FIRST, MISSING
from recmtl.schema.unix_time import unix_unit

UNIX_UNITS = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}
# Each counted from 0.
CALENDAR_PARTS: Mapping[str, Callable[[pa.Array], pa.Array]] = {
    "minute": pc.minute,
    "hour": pc.hour,
    "weekday": pc.day_of_week,
    "day": lambda times: pc.subtract(pc.day(times), 1),
    "month": lambda times: pc.subtract(pc.month(times), 1),
    "quarter": lambda times: pc.subtract(pc.quarter(times), 1),
}


def calendar_ids(array: pa.Array, feature: Timestamp) -> npt.NDArray[np.int32]:
    """Return the id of each calendar part of a column of dates or times ``[rows, parts]``."""
    times = as_times(array, feature)
    parts = [CALENDAR_PARTS[part](times).fill_null(MISSING - FIRST) for part in feature.parts]
    ids = np.column_stack([part.to_numpy(zero_copy_only=False) for part in parts])
    return ids.astype(np.int32) + np.int32(FIRST)


def as_times(array: pa.Array, feature: Timestamp) -> pa.TimestampArray:
    """Return a column as timestamps, null where it is missing; a value that is no date raises `BadValueError`."""
    array = _decoded(array)
    if pa.types.is_timestamp(array.type):
        return array
    if pa.types.is_date(array.type):
        return array.cast(pa.timestamp("ms"))
    if pa.types.is_nested(array.type):
        raise BadValueError(0, feature.name, array[0].as_py() if len(array) else None, _expected(feature, None))
    values, codes = _as_text(array, feature)
    unit = UNIX_UNITS.get(feature.format or "")
    parsed = _parse_unix_times(values, unit) if unit else parse_dates(values, feature.format)
    bad = pc.and_(parsed.is_null(), values.is_valid()).to_numpy(zero_copy_only=False)
    if bad.any():
        rows = np.append(bad, False)[codes]
        row = int(rows.argmax())
        value = values[codes[row]].as_py()
        raise BadValueError(row, feature.name, value, _expected(feature, value), rows)
    return parsed.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


def missing_times(array: pa.Array, feature: Timestamp) -> int:
    """Return in how many rows of a column there is no date or time; text is not parsed."""
    array = _decoded(array)
    if pa.types.is_temporal(array.type):
        return int(array.null_count)
    values, codes = _as_text(array, feature)
    return int(np.append(values.is_null().to_numpy(zero_copy_only=False), True)[codes].sum())


def _decoded(array: pa.Array) -> pa.Array:
    encoded = pa.types.is_dictionary(array.type) and pa.types.is_temporal(array.type.value_type)
    return array.dictionary_decode() if encoded else array


def _as_text(array: pa.Array, feature: Timestamp) -> tuple[pa.StringArray, Codes]:
    """Return the distinct values of a column as text, null where they stand for no time, and the code of each row."""
    values, codes = as_text(array, feature.name, ids=False)
    if feature.format in UNIX_UNITS or digits_of(feature.format):
        values = pc.if_else(pc.is_in(values, pa.array([*map(str, NO_TIME), *MISSING_NUMBERS])), None, values)
    return values, codes


def _expected(feature: Timestamp, value: str | None) -> str:
    """Return what a value should be, and the format that it would be in."""
    expected = "an ISO 8601 date" if feature.format is None else f"a date in the format {feature.format!r}"
    if feature.format in UNIX_UNITS:
        expected = f"a Unix time in {feature.format}"
    number = float(pd.to_numeric(pd.Series([value]), errors="coerce").to_numpy(np.float64, na_value=np.nan)[0])
    unit = unix_unit(number, number)
    if unit is not None:
        return f'{expected}: for Unix time in {unit} set `format="{unit}"`'
    formats = [f'`format="{written}"`' for written in formats_of(value or "") if written]
    if formats:
        return f"{expected}: for such dates set {' or '.join(formats)}"
    return f"{expected}: dates in another form need a `format`" if feature.format is None else expected


def _parse_unix_times(values: pa.StringArray, unit: str) -> pa.TimestampArray:
    """Parse distinct values in a unit of Unix time, null where they are none."""
    name = next(name for name, short in UNIX_UNITS.items() if short == unit)
    short = pc.less_equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), LONGEST_TIME)
    values = pc.if_else(short, values, None)
    numbers = pd.to_numeric(values.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    valid = np.abs(numbers) <= LATEST[name]
    for smaller in itertools.takewhile(lambda other: other != name, TICKS):  # 1970, of seconds as milliseconds
        valid &= ~((numbers >= UNIX_TIME[0] * TICKS[smaller]) & (numbers <= UNIX_TIME[1] * TICKS[smaller]))
    return pa.array(np.where(valid, numbers, 0).astype(np.int64), mask=~valid).cast(pa.timestamp(unit))
