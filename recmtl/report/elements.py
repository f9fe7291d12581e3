"""The elements of a report page: tables, figures, text and sections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recmtl.evaluate.intervals import Interval
from recmtl.io.display import decimal

INTEGER_COLUMNS = ("rows", "positives", "vocabulary", "distinct", "step")
SHARE_PREFIXES = ("missing", "unknown", "unseen", "beyond", "share")  # of the names of columns that hold shares
NARROW = 44  # characters on a line of a narrow screen
MOST_NARROW = 4  # columns of a table of which three fit beside each other


@dataclass(frozen=True)
class TableCell:
    """A cell of a table."""

    text: str
    range: str = ""  # the ends of an interval, in small print below the text
    key: str | float | None = None  # to sort by; `None` comes last
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column holds the row headers.

    Args:
        caption: The caption, above what scrolls.
        header: The names of the columns.
        rows: The cells of each row.
        faint: Which rows are written in grey; empty if none are.
        ordered: Whether the order of the rows is a part of what is said, so that they cannot be sorted.
        beside: Whether tables like it stand beside it.
    """

    kind = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    faint: Sequence[bool] = ()
    ordered: bool = False
    beside: bool = False

    @property
    def wide(self) -> bool:
        """Whether only two such tables fit beside each other."""
        return len(self.header) > MOST_NARROW

    @property
    def cards(self) -> bool:
        """Whether a narrow screen shows each row as a card, as there are too many columns for it."""
        header = self.header if self.ordered else [f"{name}__" for name in self.header]  # an arrow to sort by
        columns = zip(header, *([cell.text for cell in row] for row in self.rows), strict=True)
        words = [max(len(word) for text in column for word in text.split() or [""]) for column in columns]
        return sum(words) + 2 * len(words) > NARROW

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str, known: bool = True, **options: Any) -> Table:
        """Build a table from a DataFrame of texts, numbers and `Interval`s.

        Column names decide how numbers are written if they are `known`, not if they are those of tasks or runs.
        """
        header = [str(name) for name in frame.columns]
        names = header if known else [""] * len(header)
        rows = [[table_cell(v, name) for v, name in zip(row, names, strict=True)] for row in frame.to_numpy(object)]
        return cls(caption, header, rows, **options)


def table_cell(value: Any, column: str = "") -> TableCell:
    """Write a value in the format of its column."""
    if isinstance(value, Interval):
        ends = (decimal(end, value.estimate) for end in (value.low, value.high))
        return TableCell(
            decimal(value.estimate), "" if math.isnan(value.low) else " to ".join(ends), value.estimate, True
        )
    if isinstance(value, str):
        return TableCell(value, key=value)
    if pd.isna(value):
        return TableCell("–", number=True)
    if isinstance(value, bool):
        return TableCell("yes" if value else "no", key=float(value))
    if column.startswith(SHARE_PREFIXES):
        text = f"{value:.2%}"
    elif column.split(",")[0] == "p":
        text = f"{value:.2g}"
    elif column in INTEGER_COLUMNS or isinstance(value, int):
        text = f"{value:,.0f}"
    else:
        text = decimal(float(value))
    return TableCell(text, key=float(value), number=True)


@dataclass(frozen=True)
class Picture:
    """A figure with a description in words, also for screen readers, and a table of its numbers."""

    kind = "picture"
    wide = False
    title: str
    source: str  # the image as a data URI
    words: str
    table: Table


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    kind = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind = "heading"
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind = "text"
    text: str
    warning: bool = False


@dataclass(frozen=True)
class VerdictLine:
    """A line of a verdict: a word on the left, sentences on the right."""

    title: str
    sentences: Sequence[str]
    sections: Sequence[str] = ()  # the anchor of the section that each sentence is about
    warning: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a page shows, in a few lines."""

    kind = "verdict"
    lines: Sequence[VerdictLine]


@dataclass(frozen=True)
class Notes:
    """A list of notes."""

    kind = "notes"
    texts: Sequence[str]


Part = Table | Picture | Code | Heading | Text | Notes | Verdict


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    name: str  # the anchor
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


def stands_beside(part: Part) -> bool:
    """Return whether a part is drawn in a gallery, beside others of its kind."""
    return isinstance(part, Picture) or (isinstance(part, Table) and part.beside)


def gallery(parts: Iterable[Part]) -> list[list[Part]]:
    """Group consecutive pictures, and tables that stand beside each other; other parts are groups of their own."""
    groups: list[list[Part]] = []
    for part in parts:
        if groups and stands_beside(part) and stands_beside(groups[-1][0]) and groups[-1][0].kind == part.kind:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
