"""Rules of inference for dates and times."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.io.spellings import NO_TIME, TICKS, digits_of
from recmtl.schema.column_reading import FEW, IDENTIFIER, Reading, ask, infinite
from recmtl.schema.column_values import ColumnValues
from recmtl.schema.date_text import DIGIT_FORMATS, are_dates, formats_of, has_time, other_order, parse_dates
from recmtl.schema.features import Timestamp
from recmtl.schema.number_text import MOSTLY, NEARLY, null_words
from recmtl.schema.unix_time import SECONDS_OF_DAY, is_recent, unix_unit

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a name: `created_at`, `createdAt`, `CREATED_AT`
TIME_WORD = re.compile(
    r"(date|unix|event|log|start|end|create|update)?times?|(time|date|t)?stamps?|dates?|ts|ns|epoch|utc"
)
DAY_AND_HOUR = r"(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])([01][0-9]|2[0-3])"
DIGITS_OF_DATE = re.compile(rf"(19|20)[0-9]{{2}}{DAY_AND_HOUR}|[0-9]{{2}}{DAY_AND_HOUR}[0-5][0-9]")  # 2024013112
FEW_DIGITS = 3  # distinct values or more are no dates in digits by chance
YEARS = (1970, 2099)  # of dates in digits
GUESSED = 20  # values that formats are guessed from
DATE_PARTS, TIME_PARTS = ("weekday", "day", "month"), ("hour", "weekday", "day", "month")
CYCLES = {"hour": 1, "weekday": 7, "day": 30, "month": 365}  # days after which a part begins again
REPEATED = 2  # cycles that rows span, lest a part say in which of its single days or months a row was seen


@dataclass(frozen=True)
class FoundDates:
    """The dates of a text column.

    Args:
        formats: The format that most rows have, ``None`` for ISO 8601; two if they differ in the order of day and month
            and both read all that the other does.
        rows: The number of rows that have it.
        in_any: The number of rows that are a date in any format.
        distinct: The number of distinct values that are.
        times: Whether dates have a time of day.
        others: The values that do not have the format, the most frequent first.
    """

    formats: tuple[str | None, ...]
    rows: int
    in_any: int
    distinct: int
    times: bool
    others: pa.Array

    @property
    def form(self) -> str:
        """What the column holds."""
        what = "dates with times" if self.times else "dates"
        return what if self.formats[0] is None else f"{what} in the format {self.formats[0]!r}"


def dates(c: ColumnValues) -> Reading | None:
    """Read dates and times of any usual form, if all rows have one form; ask where day and month can be swapped."""
    if c.numbers:
        return dates_in_digits(c)
    if c.is_text:
        found = find_dates(c)
        if found is None or not holds_dates(c, found):
            return None
        what = question_of(c, found)
        if what:
            return what
        return Reading(c.name, timestamp(c, parts_of(found.times), found.formats[0]), found.form)
    if pa.types.is_date(c.type):
        return Reading(c.name, timestamp(c, DATE_PARTS), "dates")
    return Reading(c.name, timestamp(c), "dates with times") if pa.types.is_timestamp(c.type) else None


def holds_dates(c: ColumnValues, found: FoundDates) -> bool:
    """Return whether all rows are dates, or nearly all, or half of many distinct values."""
    if found.rows == c.present:
        return True
    return c.distinct > FEW and (found.in_any >= NEARLY * c.present or found.distinct >= MOSTLY * c.distinct)


def question_of(c: ColumnValues, found: FoundDates) -> Reading | None:
    """Return the question about dates whose format is open, or that some rows lack; ``None`` if all is clear."""
    if len(found.formats) > 1:
        one, other = (f"`--date_format {shlex.quote(f'{c.name}={written}')}`" for written in found.formats)
        what = f"dates in which day and month may be swapped, such as {str(c.unique[0])!r}"
        return ask(c, what, f"or their format, {one} or {other} (in Python `date_formats={{{c.name!r}: …}}`)")
    if found.rows == c.present:
        return None
    said = f"`--date_format {shlex.quote(f'{c.name}={found.formats[0]}')}`" if found.formats[0] else ""
    said = said or f"`--kind {c.name}=timestamp`"
    skip = f"or {said} with `--bad_rows skip`, which leaves such rows out, of the test rows too"
    other, share = str(found.others[0]), found.rows / c.present
    form = f"{found.form} in {share:.1%} of its rows, and text such as {other!r} in others"
    if found.in_any > found.rows or formats_of(other):
        return ask(c, form, f"write them in one form, {skip}")
    return ask(c, form, f"{null_words(found.others)}, {skip}")


def find_dates(c: ColumnValues) -> FoundDates | None:
    """Return the dates of a text column; ``None`` if it seems to have none."""
    step = max(c.distinct // GUESSED, 1)
    guessed = dict.fromkeys(f for text in c.unique[::step].to_pylist() for f in formats_of(text))
    read: dict[str | None, npt.NDArray[np.bool_]] = {}
    for written in sorted(guessed, key=lambda f: f is not None):
        if None not in read or not read[None].all():
            read[written] = are_dates(c.unique, written)
    if not read:
        return None
    counts = c.rows_with(c.unique)
    rows = {written: int(counts[mask].sum()) for written, mask in read.items()}
    best = max(rows, key=lambda written: rows[written])
    swapped = other_order(best)
    both = swapped in read and bool((read[swapped] == read[best]).all())
    formats = (best, swapped) if swapped and both else (best,)
    in_any = np.any(list(read.values()), axis=0)
    times = pc.any(pc.match_substring_regex(c.unique, r"[T ][0-9]{2}")).as_py() if best is None else has_time(best)
    others = np.flatnonzero(~read[best])
    others = others[np.argsort(-counts[others], kind="stable")]
    return FoundDates(
        formats, rows[best], int(counts[in_any].sum()), int(in_any.sum()), bool(times), c.unique.take(pa.array(others))
    )


def parts_of(times: bool) -> tuple[str, ...]:
    """Return the calendar parts of dates, with or without a time of day."""
    return TIME_PARTS if times else DATE_PARTS


def dates_in_digits(c: ColumnValues) -> Reading | None:
    """Read whole numbers, 0 or −1 that are all dates of 1970 to 2099 in digits, such as 20240131, or with the hour."""
    written = digits_format(c)
    if written is None or (IDENTIFIER.search(c.name) and not named_like_a_time(c.name)):
        return None
    days = days_of(c, written)
    first, last = (np.datetime64(int(day), "D") for day in (days.min(), days.max()))
    reason = f"dates in the format {written!r}, from {first} to {last}{infinite(c)}"
    return Reading(c.name, timestamp(c, parts_of(has_time(written)), written), reason)


def digits_format(c: ColumnValues) -> str | None:
    """Return the format of whole numbers that are all dates in digits; ``None`` if they are none."""
    if not c.numbers or not c.numbers.whole or c.numbers.high < YEARS[0] * 10**4:
        return None
    numbers = np.setdiff1d(c.numbers.values, NO_TIME)
    for written in DIGIT_FORMATS.get(len(f"{numbers.max():.0f}"), ()):
        years = numbers // 10.0 ** (digits_of(written) - 4)
        if written.startswith("%y"):  # without the century, few numbers may be dates by chance
            if len(numbers) <= FEW:
                continue
        elif len(numbers) < FEW_DIGITS or years.min() < YEARS[0] or years.max() > YEARS[1]:
            continue
        if are_dates(digits(numbers), written).all():
            return written
    return None


def digits(numbers: npt.NDArray[np.float64]) -> pa.StringArray:
    """Return whole numbers as text."""
    return pa.array(numbers.astype(np.int64)).cast(pa.string())


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
    return Reading(c.name, timestamp(c, written=unit), f"Unix time in {unit}, from {first} to {last}{infinite(c)}")


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


def timestamp(c: ColumnValues, parts: tuple[str, ...] = TIME_PARTS, written: str | None = None) -> Timestamp:
    """Return the feature of a column of dates or times, with those of some parts whose cycle the rows span twice.

    A part that begins no second time tells one period from another: what a model learns of it does not hold later. Few
    distinct values keep all parts.
    """
    days = days_of(c, written)
    if len(days) > FEW:
        first, last = np.quantile(days, (0.01, 0.99))
        repeated = tuple(part for part in parts if (last - first) / 0.98 >= REPEATED * CYCLES[part])
        parts = repeated or parts[:1]
    return Timestamp(c.name, parts=parts, format=written)


def days_of(c: ColumnValues, written: str | None) -> npt.NDArray[np.float64]:
    """Return the distinct dates or times of a column in days since 1970, given their format; none if there are none."""
    if c.numbers and written is not None and written in TICKS:
        return np.setdiff1d(c.numbers.values, NO_TIME) / (TICKS[written] * SECONDS_OF_DAY)
    if c.numbers and not digits_of(written):
        return np.empty(0)
    try:
        text = digits(np.setdiff1d(c.numbers.values, NO_TIME)) if c.numbers else c.unique
        times = parse_dates(text, written).drop_null() if pa.types.is_string(text.type) else text
        seconds = times.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        found: npt.NDArray[np.float64] = seconds.to_numpy(zero_copy_only=False) / SECONDS_OF_DAY
    except (pa.ArrowException, ValueError):
        return np.empty(0)
    return found
