"""Read each column by a rule: what it holds decides which feature it becomes, or that it is left out.

`RULES` are tried in their order, and the first that applies decides; its docstring says what it reads how.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from recmtl.io.list_text import parse_list
from recmtl.schema.column_reading import (
    CATEGORY,
    FEW,
    IDENTIFIER,
    LONGEST,
    REFUSED,
    Reading,
    category,
    infinite,
    shown,
    span,
)
from recmtl.schema.column_values import ColumnValues
from recmtl.schema.features import MultiCategorical, Numeric
from recmtl.schema.number_text import nearly_numbers, numbers_with_units, separated_numbers
from recmtl.schema.text_format import bracketed
from recmtl.schema.time_columns import dates, unit_of_times, unix_time

MAX_CODES = 20  # whole numbers with at most this many distinct values are read as categories
ENOUGH = 100  # rows that all differ by chance no longer
COLLISIONS = 20  # expected by chance among values of a row number's range: if there is none, they are row numbers
LIST_SEPARATORS = ("|", ";")
MANY_LISTS = 0.05  # the share of values with a separator
VECTORS = "lists of numbers that are not whole"
FRACTION, NESTED = r"[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]+)?", "["
ROW_NUMBER = re.compile(
    r"Unnamed: ?0([._][0-9]+)?|__index_level_[0-9]+__|level_0|index(_right)?|\.\.\.1"
    r"|(?i:row[ ._]?(names?|nr|number|num|no|index|id))"
)
LISTS_PARSED = 1000  # distinct values that may be lists

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


def row_numbers(c: ColumnValues) -> Reading | None:
    """Leave out whole numbers that differ in every row, in a range too small for chance, or named like row numbers."""
    n = c.numbers
    if n and n.whole and n.low >= 0 and (c.all_distinct or c.distinct > MAX_CODES) and ROW_NUMBER.fullmatch(c.name):
        return Reading(c.name, Numeric(c.name), "named like the row numbers that pandas, R or Polars write", used=False)
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
    if c.rounded:
        reason = "ids that went through a float or a spreadsheet, which do not tell them apart"
        return Reading(c.name, None, reason, used=False)
    if c.all_distinct and c.present >= ENOUGH:
        return Reading(c.name, category(c), "an id that differs in every row", used=False)
    what = "named like an id" if n.exact else "whole numbers beyond 2⁵³"
    return Reading(c.name, category(c), f"{what}: {c.distinct:,} distinct values{infinite(c, CATEGORY)}")


def codes(c: ColumnValues) -> Reading | None:
    """Read few distinct whole numbers as categories."""
    n = c.numbers
    if n and n.whole and len(n.values) <= MAX_CODES:
        return Reading(c.name, category(c), f"{len(n.values)} distinct whole numbers{infinite(c, CATEGORY)}")
    return None


def numbers(c: ColumnValues) -> Reading | None:
    """Read all other numbers as numbers."""
    if not c.numbers:
        return None
    unit = unit_of_times(c) if c.numbers.whole and len(c.numbers.values) > FEW else None
    times = f"; if they are Unix times in {unit}, say `--kind {c.name}=timestamp`" if unit else ""
    reason = (
        f"{len(c.numbers.values):,} distinct {'whole ' * c.numbers.whole}numbers, {span(c.numbers)}{infinite(c)}{times}"
    )
    return Reading(c.name, Numeric(c.name), reason)


def written_lists(c: ColumnValues) -> Reading | None:
    """Read lists that were written as text, such as ``['a', 'b']``, like lists; leave out those that hold lists."""
    bracketed_values = c.unique.filter(bracketed(c.unique)) if c.is_text else c.unique.slice(0, 0)
    if not len(bracketed_values) or c.count(bracketed_values) < MANY_LISTS * c.present:
        return None
    step = max(len(bracketed_values) // LISTS_PARSED, 1)
    looked_at = bracketed_values[::step]
    parsed = [written_list(text) for text in looked_at.to_pylist()]
    found = [elements for elements in parsed if elements is not None]
    several = sum(len(elements) != 1 for elements in found)
    if len(parsed) > 2 * len(found) or several < MANY_LISTS * len(parsed):
        return None
    nested = looked_at.filter(pa.array([elements == [NESTED, NESTED] for elements in parsed]))
    if c.count(nested) >= MANY_LISTS * c.count(looked_at):
        return Reading(c.name, None, "lists that hold lists, or are not whole, written as text", used=False)
    whole = [elements for elements in found if elements != [NESTED, NESTED]]
    fractions = all(re.fullmatch(FRACTION, element) for elements in whole for element in elements if element)
    reason = VECTORS if fractions else "lists written as text"
    if len(nested) and not fractions:
        reason = f"{reason}; {str(nested[0])[:LONGEST]!r} is none that can be read: {REFUSED}"
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
    numbers_with_units,
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
