"""The elements of a report page: tables, figures, text and sections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recmtl.evaluate.intervals import Interval

INTEGER_COLUMNS = ("rows", "positives", "vocabulary", "distinct", "step")
SHARE_PREFIXES = ("missing", "unknown", "unseen", "beyond", "share")  # of the names of columns that hold shares
FIXED_POINT = 1e-3, 1e4  # the range of numbers that are written with four decimals


@dataclass(frozen=True)
class TableCell:
    """A cell of a table."""

    text: str
    range: str = ""  # the ends of an interval, in small print below the text
    key: str | float | None = None  # to sort by; `None` comes last
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column holds the row headers."""

    kind = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[TableCell]]

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str, known: bool = True) -> Table:
        """Build a table from a DataFrame of texts, numbers and `Interval`s.

        Column names decide how numbers are written if they are `known`, not if they are those of tasks or runs.
        """
        header = [str(name) for name in frame.columns]
        names = header if known else [""] * len(header)
        rows = [[table_cell(v, name) for v, name in zip(row, names, strict=True)] for row in frame.to_numpy(object)]
        return cls(caption, header, rows)


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
        return TableCell("–")
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


def decimal(value: float, scale: float | None = None) -> str:
    """Write a number with four decimals, or four digits if it (or `scale`) is very large or small."""
    size = abs(value if scale is None else scale)
    smallest, largest = FIXED_POINT
    return f"{value:.4f}" if size == 0 or smallest <= size < largest else f"{value:.4g}"


@dataclass(frozen=True)
class Picture:
    """A figure with a description in words, also for screen readers, and a table of its numbers."""

    kind = "picture"
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
class Notes:
    """A list of notes."""

    kind = "notes"
    texts: Sequence[str]


Part = Table | Picture | Code | Heading | Text | Notes


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    name: str  # the anchor
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


def gallery(parts: Iterable[Part]) -> list[list[Part]]:
    """Group consecutive pictures; each other part is a group of its own."""
    groups: list[list[Part]] = []
    for part in parts:
        if isinstance(part, Picture) and groups and isinstance(groups[-1][0], Picture):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
