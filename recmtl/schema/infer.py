"""Read each column by a rule: what it holds decides which feature it becomes, or that it is left out.

`RULES` are tried in their order, and the first that applies decides; its docstring says what it reads how.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.schema.column_values import ISO_DATE, ISO_TIME, SEPARATED, ColumnValues, Numbers
from recmtl.schema.features import KIND_NAMES, Categorical, Feature, MultiCategorical, Numeric, Timestamp
from recmtl.schema.list_text import bracketed, parse_list
from recmtl.schema.unix_time import NO_TIME, SECONDS_OF_DAY, TICKS, unix_unit

LEFT_OUT, UNDECIDED = "left out", "undecided"
MAX_CODES = 20  # whole numbers with at most this many distinct values are read as categories
FEW = 20  # distinct values, or fewer, show no pattern
MIN_COUNT = 2  # of a category: one that is seen once teaches nothing
ENOUGH = 100  # rows that all differ by chance no longer
COLLISIONS = 20  # expected by chance among values of a row number's range: if there is none, they are row numbers
NEARLY = 0.95  # the share of numbers in text that is nearly always a number
LIST_SEPARATORS = ("|", ";")
MANY_LISTS = 0.05  # the share of values with a separator
VECTORS = "lists of numbers that are not whole"
FRACTION, NESTED = r"[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]+)?", "["
LONGEST = 24  # characters of a value that are shown
IDENTIFIER = re.compile(
    r"(^|[^A-Za-z0-9])(?i:id|code|key|index|uuid|guid|zip|zipcode|postcode)s?$|[a-z](Id|ID|Code|Key|Index)s?$"
)
TIME = re.compile(r"(?i)time|date|stamp|(^|[^a-z])(ts|ns|at)$")
LISTS_PARSED = 1000  # distinct values that may be lists
DATE_PARTS, TIME_PARTS = ("weekday", "day", "month"), ("hour", "weekday", "day", "month")
CYCLES = {"hour": 1, "weekday": 7, "day": 30, "month": 365}  # days after which a part begins again
REPEATED = 2  # cycles that rows span, lest a part say in which of its single days or months a row was seen


@dataclass(frozen=True)
class Reading:
    """How a column is read.

    Args:
        column: The column.
        feature: The feature that it is read as, or would be if it were not left out; ``None`` if it cannot be read.
        reason: What it holds.
        used: Whether it is a feature; otherwise it is left out.
        question: Why it cannot be decided, with what to say; ``None`` if it can.
    """

    column: str
    feature: Feature | None
    reason: str
    used: bool = True
    question: str | None = None

    @property
    def kind(self) -> str:
        """The kind of the feature, or that the column is left out or undecided."""
        if self.question:
            return UNDECIDED
        return KIND_NAMES[type(self.feature)] if self.used and self.feature else LEFT_OUT


Rule: TypeAlias = Callable[[ColumnValues], Reading | None]


def missing(c: ColumnValues) -> Reading | None:
    """Leave out a column without a value."""
    return Reading(c.name, category(c), "no value in any row", used=False) if not c.present else None


def unreadable(c: ColumnValues) -> Reading | None:
    """Leave out structs, maps, lists of these, bytes that are no text, and extension types such as intervals."""
    inner = c.type.value_type if is_list(c) else c.type
    unread = pa.types.is_nested(inner) or pa.types.is_binary(inner) or pa.types.is_large_binary(inner)
    unread |= isinstance(c.type, pa.BaseExtensionType)
    return Reading(c.name, None, f"values of type {c.type}", used=False) if unread else None


def lists(c: ColumnValues) -> Reading | None:
    """Read lists as several categories; leave out lists of numbers that are not whole."""
    if not is_list(c):
        return None
    elements = pc.list_flatten(c.values).drop_null()
    fractions = pa.types.is_floating(elements.type) and not pc.all(pc.equal(pc.floor(elements), elements)).as_py()
    return Reading(c.name, MultiCategorical(c.name), VECTORS if fractions else "lists", used=not fractions)


def constant(c: ColumnValues) -> Reading | None:
    """Leave out a column with one value in every row; one value or none is a category."""
    if c.distinct > 1 or c.rows == 1:
        return None
    if c.present < c.rows:
        return Reading(c.name, category(c), f"one value, {shown(c)}, or none")
    return Reading(c.name, category(c), f"{shown(c)} in every row", used=False)


def booleans(c: ColumnValues) -> Reading | None:
    """Read booleans as categories."""
    return Reading(c.name, category(c), "true or false") if c.is_boolean else None


def dates(c: ColumnValues) -> Reading | None:
    """Read dates and times, ISO 8601 if they are text, as parts of the calendar."""
    if c.numbers:
        return None
    is_date = pa.types.is_date(c.type) or (c.is_text and len(c.matching(ISO_DATE)) == c.distinct)
    if is_date:
        return Reading(c.name, timestamp(c, DATE_PARTS), "dates")
    known = c.is_text and len(c.matching(ISO_DATE)) + len(c.matching(ISO_TIME)) == c.distinct
    return Reading(c.name, timestamp(c), "dates with times") if known or pa.types.is_timestamp(c.type) else None


def separated_numbers(c: ColumnValues) -> Reading | None:
    """Ask about text that is nearly always a number with a decimal comma or with separators of thousands."""
    separated = c.other_words.filter(pc.match_substring_regex(c.other_words, SEPARATED)) if c.is_text else []
    if c.rows == 1 or not len(separated):
        return None
    if c.count(pa.concat_arrays([separated, c.number_words])) < NEARLY * c.present:
        return None
    what = f"numbers with a decimal comma or separators of thousands, such as {str(separated[0])!r}"
    return ask(c, what, "or write them like 1234.5")


def nearly_numbers(c: ColumnValues) -> Reading | None:
    """Ask about text that is nearly always a number, where the rest are no words for a missing one."""
    if not c.is_text or c.distinct <= FEW or not len(c.other_words):
        return None
    share = c.count(c.number_words) / c.present
    if share < NEARLY:
        return None
    what = f"numbers in {share:.1%} of its rows, and text such as {str(c.other_words[0])!r} in others"
    return ask(c, what, f"or `--kind {c.name}=numeric` with `--data.bad_rows skip`, which leaves such rows out")


def unix_time(c: ColumnValues) -> Reading | None:
    """Read many numbers, not named like an id, that are Unix times of 1990 to 2099, 0 or −1, as calendar parts."""
    if not c.numbers or IDENTIFIER.search(c.name):
        return None
    unit = unit_of_times(c)
    # Nanoseconds are of the size of many ids: they must be named like a time, or multiples of 1,000.
    few = len(np.setdiff1d(c.numbers.values, NO_TIME)) <= FEW and c.distinct <= FEW + len(NO_TIME)
    if unit is None or few or (unit == "nanoseconds" and not (TIME.search(c.name) or whole_microseconds(c))):
        return None
    return Reading(c.name, timestamp(c, unit=unit), f"Unix time in {unit}")


def row_numbers(c: ColumnValues) -> Reading | None:
    """Leave out whole numbers that differ in every row although their range is too small for that to be chance."""
    n = c.numbers
    if not (n and n.whole and n.exact and c.all_distinct and c.present >= ENOUGH):
        return None
    if c.present**2 / 2 < COLLISIONS * (n.high - n.low + 1):
        return None
    return Reading(c.name, Numeric(c.name), f"numbers the rows: {span(n)}, each once", used=False)


def identifiers(c: ColumnValues) -> Reading | None:
    """Read whole numbers named like an id, or beyond 2⁵³, as categories; leave them out if they differ in every row."""
    n = c.numbers
    if not (n and n.whole and (IDENTIFIER.search(c.name) or not n.exact)):
        return None
    if c.all_distinct and c.present >= ENOUGH:
        return Reading(c.name, category(c), "an id that differs in every row", used=False)
    what = "named like an id" if n.exact else "whole numbers beyond 2⁵³"
    return Reading(c.name, category(c), f"{what}: {c.distinct:,} distinct values")


def codes(c: ColumnValues) -> Reading | None:
    """Read few distinct whole numbers as categories."""
    n = c.numbers
    if n and n.whole and len(n.values) <= MAX_CODES:
        return Reading(c.name, category(c), f"{len(n.values)} distinct whole numbers")
    return None


def numbers(c: ColumnValues) -> Reading | None:
    """Read all other numbers as numbers."""
    if not c.numbers:
        return None
    reason = f"{len(c.numbers.values):,} distinct {'whole ' * c.numbers.whole}numbers, {span(c.numbers)}"
    return Reading(c.name, Numeric(c.name), reason)


def written_lists(c: ColumnValues) -> Reading | None:
    """Read lists that were written as text, such as ``['a', 'b']``, like lists; leave out those that hold lists."""
    bracketed_values = c.unique.filter(bracketed(c.unique)) if c.is_text else c.unique.slice(0, 0)
    if not len(bracketed_values) or c.count(bracketed_values) < MANY_LISTS * c.present:
        return None
    step = max(len(bracketed_values) // LISTS_PARSED, 1)
    parsed = [written_list(text) for text in bracketed_values[::step].to_pylist()]
    found = [elements for elements in parsed if elements is not None]
    several = sum(len(elements) != 1 for elements in found)
    if len(parsed) > 2 * len(found) or several < MANY_LISTS * len(parsed):
        return None
    if any(element == NESTED for elements in found for element in elements):
        return Reading(c.name, None, "lists that hold lists, or are not whole, written as text", used=False)
    fractions = all(re.fullmatch(FRACTION, element) for elements in found for element in elements if element)
    reason = VECTORS if fractions else "lists written as text"
    return Reading(c.name, MultiCategorical(c.name), reason, used=not fractions)


def separated_lists(c: ColumnValues) -> Reading | None:
    """Read text with a separator, whose parts repeat, as several categories."""
    for separator in LIST_SEPARATORS if c.is_text else ():
        if is_separated_list(c, separator):
            return Reading(c.name, MultiCategorical(c.name, separator=separator), f"lists separated by {separator!r}")
    return None


def text(c: ColumnValues) -> Reading | None:
    """Read everything else as categories; leave it out if it differs in every row."""
    if c.all_distinct and c.present >= ENOUGH:
        return Reading(c.name, category(c), "differs in every row", used=False)
    zeros = ", digits after a zero" if c.is_text and c.has_leading_zeros and not len(c.other_words) else ""
    return Reading(c.name, category(c), f"{c.distinct:,} distinct values{zeros}")


RULES: tuple[Rule, ...] = (
    missing,
    unreadable,
    lists,
    constant,
    booleans,
    dates,
    separated_numbers,
    nearly_numbers,
    unix_time,
    row_numbers,
    identifiers,
    codes,
    numbers,
    written_lists,
    separated_lists,
    text,
)


def suggest_feature(column: ColumnValues) -> Reading:
    """Return how a column is read: by the first rule that applies."""
    return next(reading for rule in RULES if (reading := rule(column)))


def is_list(c: ColumnValues) -> bool:
    """Return whether the values are lists."""
    return any(check(c.type) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def written_list(text: str) -> list[str | None] | None:
    """Return the elements of a list that was written as text, `NESTED` if it holds lists; ``None`` if it is no list."""
    try:
        return parse_list(text, "|")
    except ValueError:
        return [NESTED, NESTED]


def is_separated_list(c: ColumnValues, separator: str) -> bool:
    """Return whether many values contain the separator and splitting by it yields fewer distinct values."""
    joined = c.unique.filter(pc.match_substring(c.unique, separator))
    if c.count(joined) < MANY_LISTS * c.present:
        return False
    return bool(pc.count_distinct(pc.list_flatten(pc.split_pattern(c.unique, separator))).as_py() < c.distinct)


def unit_of_times(c: ColumnValues) -> str | None:
    """Return the unit in which all numbers but 0 and −1 are Unix times; ``None`` if they are none."""
    times = np.setdiff1d(c.numbers.values, NO_TIME) if c.numbers else np.empty(0)
    return unix_unit(float(times.min()), float(times.max())) if len(times) else None


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


def category(c: ColumnValues) -> Categorical:
    """Return the feature of a column with one category per row."""
    return Categorical(c.name, min_count=MIN_COUNT)


def ask(c: ColumnValues, what: str, otherwise: str) -> Reading:
    """Return the reading of a column that could be meant in several ways: as a category, with the question."""
    say = f"`--kind {c.name}=categorical`, `--kind {c.name}=drop` (in Python `kinds={{{c.name!r}: 'drop'}}`)"
    return Reading(c.name, category(c), what, question=f"column {c.name!r} holds {what}: say {say}, {otherwise}")


def span(n: Numbers) -> str:
    """Return the range of numbers in words."""
    return f"from {n.low:.6g} to {n.high:.6g}"


def shown(c: ColumnValues) -> str:
    """Return the first value, cut if it is long."""
    value = str(c.unique[0])
    return repr(value if len(value) <= LONGEST else f"{value[:LONGEST]}…")
