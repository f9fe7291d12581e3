"""What a page is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from recmtl.evaluate.intervals import Interval

COUNTS = ("rows", "positives", "vocabulary", "distinct", "step")  # the columns of whole numbers
SHARES = ("missing", "unknown", "unseen", "share")  # the columns whose names begin so

SMALL, LARGE = 1e-3, 1e4  # between which numbers have four decimals


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: What it shows.
        range: The ends of an interval, which stand below.
        key: What the table is sorted by; ``None`` comes last.
        number: Whether it is one.
    """

    text: str
    range: str = ""
    key: str | float | None = None
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; its first column heads its rows.

    Args:
        caption: What it shows.
        header: The names of its columns.
        rows: Its cells.
    """

    kind = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str, known: bool = True) -> Table:
        """Show a frame; cells may be intervals.

        Args:
            frame: The frame.
            caption: What it shows.
            known: Whether the names of its columns say how to write numbers; those of tasks and runs do not.
        """
        columns = [str(name) for name in frame.columns]
        asked = columns if known else [""] * len(columns)
        rows = [[cell(value, name) for value, name in zip(row, asked, strict=True)] for row in frame.to_numpy(object)]
        return cls(caption, columns, rows)


def cell(value: Any, column: str = "") -> Cell:
    """Show a value as its column asks for."""
    if isinstance(value, Interval):
        ends = "" if math.isnan(value.low) else " to ".join(_number(v, value.estimate) for v in (value.low, value.high))
        return Cell(_number(value.estimate), ends, value.estimate, True)
    if isinstance(value, str):
        return Cell(value, key=value)
    if pd.isna(value):
        return Cell("–")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", key=float(value))
    if column.startswith(SHARES):
        return Cell(f"{value:.2%}", key=float(value), number=True)
    if column.split(",")[0] == "p":
        return Cell(f"{value:.2g}", key=float(value), number=True)
    whole = column in COUNTS or isinstance(value, int)
    return Cell(f"{value:,.0f}" if whole else _number(float(value)), key=float(value), number=True)


def _number(value: float, size: float | None = None) -> str:
    """Write a number with four decimals; with as many digits where it, or another one, is large or small."""
    size = abs(value if size is None else size)
    return f"{value:.4f}" if size == 0 or SMALL <= size < LARGE else f"{value:.4g}"


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        title: What it shows.
        svg: The figure.
        words: What it shows, in words with numbers.
        table: Its numbers.
    """

    kind = "picture"
    title: str
    svg: Markup
    words: str
    table: Table | None = None


@dataclass(frozen=True)
class Code:
    """Text that is shown as it stands.

    Args:
        title: What it is.
        text: The text.
    """

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
    """A list of remarks."""

    kind = "notes"
    texts: Sequence[str]


Part = Table | Picture | Code | Heading | Text | Notes


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Args:
        name: What its address ends in.
        title: Its heading.
        parts: What it holds.
    """

    name: str
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


def gallery(parts: Iterable[Part]) -> list[list[Part]]:
    """Put pictures that follow each other together; all else stands alone."""
    grouped: list[list[Part]] = []
    for part in parts:
        together = isinstance(part, Picture) and grouped and isinstance(grouped[-1][0], Picture)
        if together:
            grouped[-1].append(part)
        else:
            grouped.append([part])
    return grouped
