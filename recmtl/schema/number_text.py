"""Rules of inference that ask about text that may stand for numbers."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from recmtl.schema.column_reading import FEW, Reading, ask
from recmtl.schema.column_values import SEPARATED, ColumnValues

NEARLY = 0.95  # the share of numbers in text that is nearly always a number


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
