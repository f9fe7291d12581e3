"""Rules of inference that ask about text that may stand for numbers."""

from __future__ import annotations

import re
import shlex

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.schema.column_reading import FEW, IDENTIFIER, Reading, ask
from recmtl.schema.column_values import INTEGER, SEPARATED, ColumnValues

NEARLY = 0.95  # the share of numbers in text that is nearly always a number
MOSTLY = 0.5  # the share of numbers among the distinct values of text that mostly holds numbers
MOST_UNITS = 3  # in one column: `12 kg`, `300 g`
MOST_WORDS = 3  # that a question names
IN_PARENTHESES, PARENTHESES = r"^[+-]?\(\s*(.*?)\s*\)$", "()"  # a negative number to accountants
# Prefix, number and suffix: `-$1,234.50`, `12 kg`, `4.5/5`.
BEFORE, AFTER = r"[^0-9()+-]{0,8}?", r"(?:[^0-9\s()+,.:;|_#-][^()]{0,20})?"
AMOUNT = r"[0-9]{1,3}(?:[,.' ][0-9]{3})+(?:[.,][0-9]+)?|[0-9]+(?:[.,][0-9]+)?|\.[0-9]+"
WITH_UNIT = rf"^[+-]?\s*(?P<before>{BEFORE})\s*[+-]?(?P<number>{AMOUNT})\s*(?P<after>{AFTER})$"
PERHAPS = rf"^[+-]?\(?\s*[+-]?\s*{BEFORE}\s*[+-]?(?:{AMOUNT})\s*{AFTER}\s*\)?$"  # quicker
WITH_MARK = r"^[+-]?[0-9]*{}[0-9]*([eE][+-]?[0-9]+)?$"  # a number with one decimal mark
MARK_NAMES = {",": "comma", ".": "point"}
OF_NAMES = r"[\pL#_/:@№]"  # in a prefix of whole numbers: `user_17`, `#5`


def separated_numbers(c: ColumnValues) -> Reading | None:
    """Ask about text that is nearly always a number with another decimal mark or with separators of thousands."""
    separated = separated_words(c) if c.is_text else []
    if c.rows == 1 or not len(separated):
        return None
    if c.count(pa.concat_arrays([separated, c.number_words])) < NEARLY * written_rows(c):
        return None
    other = "," if c.decimal == "." else "."
    what = f"numbers with a decimal {MARK_NAMES[other]} or separators of thousands, such as {str(separated[0])!r}"
    own, swapped = (WITH_MARK.format(re.escape(mark)) for mark in (c.decimal, other))
    alone = pc.all(pc.match_substring_regex(separated, swapped)).as_py() and not c.count(c.matching(own))
    said = (
        f"`--decimal {other}` (in Python `decimal='{other}'`) if the {MARK_NAMES[other]} is the decimal mark, " * alone
    )
    return ask(c, what, f"{said}or write them like {'1234,5' if c.decimal == ',' else '1234.5'}")


def written_rows(c: ColumnValues) -> int:
    """Return the number of rows of a text column that hold no word for a missing number."""
    return c.count(c.number_words) + c.count(c.other_words)


def separated_words(c: ColumnValues) -> pa.Array:
    """Return the values of a text column that are numbers with another decimal mark or separators of thousands."""
    return c.other_words.filter(pc.match_substring_regex(c.other_words, SEPARATED))


def numbers_with_units(c: ColumnValues) -> Reading | None:
    """Ask about text that is nearly always a number with a unit, such as ``3.46%``, or a number in parentheses."""
    if not c.is_text or c.rows == 1 or not len(c.other_words):
        return None
    written = written_rows(c)
    plain, least = c.count(pa.concat_arrays([separated_words(c), c.number_words])), NEARLY * written
    words = c.other_words.filter(pc.match_substring_regex(pc.utf8_trim_whitespace(c.other_words), PERHAPS))
    if c.count(words) + plain < least:
        return None
    found, whole = united_words(c, words)
    few = whole and c.distinct <= FEW and len(c.matching(INTEGER)) == len(c.number_words)
    rows = c.count(found)
    if few or rows <= written - least or rows + plain < least:
        return None
    bare = pc.all(pc.match_substring_regex(pc.utf8_trim_whitespace(found), r"^\([0-9., ]*\)$")).as_py()
    kind, otherwise = ("in parentheses", "-1234.5") if bare else ("with a unit", "1234.5, without it")
    return ask(c, f"numbers {kind}, such as {str(found[0])!r}", f"or write them like {otherwise}")


def united_words(c: ColumnValues, words: pa.Array) -> tuple[pa.Array, bool]:
    """Return those of some words that are a number with a frequent unit, and whether all these numbers are whole.

    Whole numbers behind a name (``user_17``), with a zero before them, or in a column named like an id are no amounts.
    """
    trimmed = pc.utf8_trim_whitespace(words)
    inner = pc.replace_substring_regex(trimmed, IN_PARENTHESES, r"\1")
    parts = pc.extract_regex(inner, WITH_UNIT)
    before, number, after = (pc.struct_field(parts, name).fill_null("") for name in ("before", "number", "after"))
    unit = pc.utf8_lower(pc.binary_join_element_wise(before, after, "…"))
    unit = pc.if_else(pc.and_(pc.equal(unit, "…"), pc.not_equal(inner, trimmed)), PARENTHESES, unit)
    whole = pc.match_substring_regex(number, INTEGER)
    named = pc.or_(pc.match_substring_regex(before, OF_NAMES), bool(IDENTIFIER.search(c.name)))
    plain = pc.or_(pc.equal(unit, "…"), pc.match_substring_regex(number, "^0[0-9]"))
    amount = pc.and_not(parts.is_valid(), plain)
    frequent = pc.and_(amount, pc.is_in(unit, frequent_words(unit, c.rows_with(words) * as_mask(amount))))
    whole, named = whole.filter(frequent), named.filter(frequent)
    if pc.all(pc.and_(whole, named)).as_py():
        return words.slice(0, 0), True
    return words.filter(frequent), bool(pc.all(whole).as_py())


def frequent_words(words: pa.Array, rows: npt.NDArray[np.int64]) -> pa.Array:
    """Return the distinct words that most rows have, at most `MOST_UNITS`, given the rows of each word."""
    found = words.dictionary_encode()
    counts = np.bincount(found.indices.to_numpy(), rows, len(found.dictionary))
    places = np.argsort(-counts, kind="stable")[:MOST_UNITS]
    return found.dictionary.take(pa.array(places[counts[places] > 0]))


def as_mask(values: pa.Array) -> npt.NDArray[np.bool_]:
    """Return booleans as an array of numpy."""
    mask: npt.NDArray[np.bool_] = values.to_numpy(zero_copy_only=False)
    return mask


def nearly_numbers(c: ColumnValues) -> Reading | None:
    """Ask about text that is nearly always a number, or mostly by its many distinct values, and no word for none."""
    if not c.is_text or c.distinct <= FEW or not len(c.other_words):
        return None
    share = c.count(c.number_words) / written_rows(c)
    if share < NEARLY and (len(c.number_words) < MOSTLY * c.distinct or are_codes(c)):
        return None
    words = c.other_words.take(pa.array(np.argsort(-c.rows_with(c.other_words), kind="stable")))
    what = f"numbers in {share:.1%} of its rows, and text such as {str(words[0])!r} in others"
    skip = "which leaves such rows out, of the test rows too"
    return ask(c, what, f"{null_words(words)}, or `--kind {c.name}=numeric` with `--bad_rows skip`, {skip}")


def are_codes(c: ColumnValues) -> bool:
    """Return whether the numbers in text are whole in a column named like an id, or digits after a zero."""
    whole = len(c.matching(INTEGER)) == len(c.number_words)
    return c.has_leading_zeros or (whole and bool(IDENTIFIER.search(c.name)))


def null_words(words: pa.Array) -> str:
    """Return how to say that some text stands for a missing value."""
    if len(words) > MOST_WORDS:
        return "`--null WORD` for each text that stands for a missing value (in Python `nulls=[…]`)"
    given, listed = " ".join(f"--null {shlex.quote(word)}" for word in words.to_pylist()), words.to_pylist()
    return f"`{given}` if such text stands for a missing value (in Python `nulls={listed}`)"
