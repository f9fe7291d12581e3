"""What describing a dataset finds out: a table for each kind of thing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from recmtl.data.profiling.leaks import Leak
from recmtl.schema import Feature
from recmtl.schema.features import KINDS

LABELS = ("split", "task", "rows", "positives", "mean")
FILES = ("split", "file", *LABELS[1:])
VALUES = ("column", "value", "rows", "share")
DRIFT = ("split", "column", "missing", "unseen", "shift")


def frame(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Give rows as a frame, also where there are none."""
    return pd.DataFrame(list(rows), columns=list(columns))


def kind(feature: Feature) -> str:
    """Name the kind of a feature as a dataset card does."""
    return next(name for name, cls in KINDS.items() if cls is type(feature))


def sampled(kept: int, rows: int) -> list[str]:
    """Say what was taken from a sample, where it is not all rows."""
    what = f"quantiles and columns that give a label away are those of a sample of {kept:,} of {rows:,} rows"
    return [what] if kept < rows else []


@dataclass(frozen=True)
class Description:
    """What is in a dataset. Shares are of rows, unless it says otherwise.

    Args:
        leaks: Features that alone separate a binary label: column, label, AUC, and whether the two are the same.
        columns: The kind of each column. Of raw data the share that is missing and the number of distinct values
            (``more``: more than that); of prepared data the size of the vocabulary, and for each split the share that
            is missing and the share of the others that is unknown (of a list: of its elements).
        values: The most frequent categories of each column of raw data.
        numbers: Range, mean and deviation of each numeric column. Of raw data also quantiles, taken from a sample; of
            prepared data as they are encoded, beside what they were standardised by.
        labels: For each split and task the rows that count, the positive ones and the mean label.
        files: The same for each file of raw data, where a split has several.
        drift: What is different in the other splits: the share that is missing, the share of the others whose category
            the training rows have not (of a list: of its elements), or by how many deviations of the training rows the
            mean differs.
        notes: Columns without information, and what could not be looked at.
    """

    leaks: pd.DataFrame
    columns: pd.DataFrame
    values: pd.DataFrame
    numbers: pd.DataFrame
    labels: pd.DataFrame
    files: pd.DataFrame
    drift: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """A sentence on each column that gives a label away."""
        return [str(Leak(*row)) for row in self.leaks.itertuples(index=False)]

    def to_dict(self) -> dict[str, Any]:
        """Give warnings, tables and notes as plain data."""
        frames = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "notes"}
        tables = {name: json.loads(table.to_json(orient="records")) for name, table in frames.items()}
        return {"warnings": self.warnings, **tables, "notes": list(self.notes)}
