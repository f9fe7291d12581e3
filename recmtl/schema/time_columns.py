"""Rules of inference for dates and times."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.schema.column_reading import FEW, IDENTIFIER, Reading, infinite
from recmtl.schema.column_values import ISO_DATE, ISO_TIME, ColumnValues
from recmtl.schema.features import Timestamp
from recmtl.schema.unix_time import NO_TIME, SECONDS_OF_DAY, TICKS, is_recent, unix_unit

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a name: `created_at`, `createdAt`, `CREATED_AT`
TIME_WORD = re.compile(
    r"(date|unix|event|log|start|end|create|update)?times?|(time|date|t)?stamps?|dates?|ts|ns|epoch|utc"
)
DAY_AND_HOUR = r"(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])([01][0-9]|2[0-3])"
DIGITS_OF_DATE = re.compile(rf"(19|20)[0-9]{{2}}{DAY_AND_HOUR}|[0-9]{{2}}{DAY_AND_HOUR}[0-5][0-9]")  # 2024013112
FEW_DIGITS = 3  # distinct values or more are no dates in digits by chance
DATE_PARTS, TIME_PARTS = ("weekday", "day", "month"), ("hour", "weekday", "day", "month")
CYCLES = {"hour": 1, "weekday": 7, "day": 30, "month": 365}  # days after which a part begins again
REPEATED = 2  # cycles that rows span, lest a part say in which of its single days or months a row was seen


def dates(c: ColumnValues) -> Reading | None:
    """Read dates and times, ISO 8601 if they are text, as parts of the calendar."""
    if c.numbers:
        return None
    is_date = pa.types.is_date(c.type) or (c.is_text and len(c.matching(ISO_DATE)) == c.distinct)
    if is_date:
        return Reading(c.name, timestamp(c, DATE_PARTS), "dates")
    known = c.is_text and len(c.matching(ISO_DATE)) + len(c.matching(ISO_TIME)) == c.distinct
    return Reading(c.name, timestamp(c), "dates with times") if known or pa.types.is_timestamp(c.type) else None


def unix_time(c: ColumnValues) -> Reading | None:
    """Read many Unix times, 0 or −1, that are named like times or whole and close to each other, as calendar parts."""
    unit = unit_of_times(c)
    if not c.numbers or unit is None or IDENTIFIER.search(c.name):
        return None
    times = np.setdiff1d(c.numbers.values, NO_TIME)
    few = len(times) <= FEW and c.distinct <= FEW + len(NO_TIME)
    low, high, named = float(times.min()), float(times.max()), named_like_a_time(c.name)
    # Amounts, such as bytes or turnovers, have the same sizes: two of three signs tell times from them.
    if few or c.numbers.whole + named + is_recent(low, high, unit) < 2:
        return None
    # Nanoseconds are of the size of many ids: they must be named like a time, or multiples of 1,000.
    if unit == "nanoseconds" and not (named or whole_microseconds(c)):
        return None
    first, last = (np.datetime64(int(time / TICKS[unit]), "s").astype("datetime64[D]") for time in (low, high))
    return Reading(c.name, timestamp(c, unit=unit), f"Unix time in {unit}, from {first} to {last}{infinite(c)}")


def named_like_a_time(name: str) -> bool:
    """Return whether a word of a name says that a column holds times: `event_time`, `ts`, `createdAt`."""
    words = [word.lower() for word in WORD.findall(name)]
    return words[-1:] == ["at"] or any(TIME_WORD.fullmatch(word) for word in words)


def unit_of_times(c: ColumnValues) -> str | None:
    """Return the unit in which all numbers but 0 and −1 are Unix times; ``None`` if they are none.

    Dates that are written as digits (``2024013112``, year to hour) are none.
    """
    times = np.setdiff1d(c.numbers.values, NO_TIME) if c.numbers else np.empty(0)
    digits = len(times) >= FEW_DIGITS and all(DIGITS_OF_DATE.fullmatch(f"{time:.15g}") for time in times)
    return unix_unit(float(times.min()), float(times.max())) if len(times) and not digits else None


def whole_microseconds(c: ColumnValues) -> bool:
    """Return whether nanoseconds are multiples of 1,000."""
    try:
        ticks = pc.utf8_trim_whitespace(c.unique) if c.is_text else c.unique
        integers = ticks.drop_null().cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return bool((integers.to_numpy(zero_copy_only=False) % 1000 == 0).all())


def timestamp(c: ColumnValues, parts: tuple[str, ...] = TIME_PARTS, unit: str | None = None) -> Timestamp:
    """Return the feature of a column of dates or times, with those of some parts whose cycle the rows span twice.

    A part that begins no second time tells one period from another: what a model learns of it does not hold later. Few
    distinct values keep all parts.
    """
    days = days_of(c, unit)
    if len(days) > FEW:
        first, last = np.quantile(days, (0.01, 0.99))
        repeated = tuple(part for part in parts if (last - first) / 0.98 >= REPEATED * CYCLES[part])
        parts = repeated or parts[:1]
    return Timestamp(c.name, parts=parts, format=unit)


def days_of(c: ColumnValues, unit: str | None) -> npt.NDArray[np.float64]:
    """Return the distinct dates or times of a column in days since 1970; none if they cannot be read."""
    if c.numbers:
        return np.setdiff1d(c.numbers.values, NO_TIME) / (TICKS[unit] * SECONDS_OF_DAY) if unit else np.empty(0)
    try:
        dates = pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(c.unique), 0, 10) if c.is_text else c.unique
        seconds = (
            dates.cast(pa.date32()).cast(pa.timestamp("s")) if c.is_text else dates.cast(pa.timestamp("s"), safe=False)
        )
        found: npt.NDArray[np.float64] = seconds.cast(pa.int64()).to_numpy(zero_copy_only=False) / SECONDS_OF_DAY
    except pa.ArrowException:
        return np.empty(0)
    return found
