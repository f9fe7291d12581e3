"""How a column is read: what every rule of inference returns."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recmtl.schema.column_values import ColumnValues, Numbers
from recmtl.schema.features import KIND_NAMES, Categorical, Feature

LEFT_OUT, UNDECIDED = "left out", "undecided"
FEW = 20  # distinct values, or fewer, show no pattern
MIN_COUNT = 2  # of a category: one that is seen once teaches nothing
REFUSED = "an error when data is prepared; `--bad_rows skip` leaves such rows out"
CATEGORY = "a category of its own"
LONGEST = 24  # characters of a value that are shown
IDENTIFIER = re.compile(
    r"(^|[^A-Za-z0-9])(?i:id|code|key|index|uuid|guid|zip|zipcode|postcode)s?$|[a-z](Id|ID|Code|Key|Index)s?$"
    r"|(^|[^A-Za-z])(?i:[ucgps]|user|member|cust|customer|account|session|device|cookie|item|movie|book|song|track"
    r"|artist|author|product|prod|goods|sku|spu|shop|store|seller|merchant|brand|cate|cat|category|seg|group|city|region"
    r"|campaign|ad|adgroup|creative|banner|site|app|page|post|video|photo|query|search|order|doc|news|poi)(?i:ids?)$"
)


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


def category(c: ColumnValues) -> Categorical:
    """Return the feature of a column with one category per row."""
    return Categorical(c.name, min_count=MIN_COUNT)


def ask(c: ColumnValues, what: str, otherwise: str) -> Reading:
    """Return the reading of a column that could be meant in several ways: as a category, with the question."""
    say = f"`--kind {c.name}=categorical`, `--kind {c.name}=drop` (in Python `kinds={{{c.name!r}: 'drop'}}`)"
    return Reading(c.name, category(c), what, question=f"column {c.name!r} holds {what}: say {say}, {otherwise}")


def infinite(c: ColumnValues, what: str = REFUSED) -> str:
    """Return what becomes of the infinite values of a column, to add to a reason; empty if it has none."""
    return f"; infinite in {c.infinite:,} row{'s' * (c.infinite > 1)}: {what}" if c.infinite else ""


def span(n: Numbers) -> str:
    """Return the range of numbers in words."""
    return f"from {n.low:.6g} to {n.high:.6g}"


def shown(c: ColumnValues) -> str:
    """Return the first value, cut if it is long."""
    value = str(c.unique[0])
    return repr(value if len(value) <= LONGEST else f"{value[:LONGEST]}…")
