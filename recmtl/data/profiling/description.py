"""The description of a dataset: one table for each kind of finding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any

import pandas as pd

from recmtl.data.columns.values import Codes, Floats
from recmtl.data.profiling.leaks import Leak, search_leaks
from recmtl.data.profiling.tally import SplitTally
from recmtl.schema import Schema, Task

NO_TASK = Task("(none)", "(none)")  # of raw rows whose labels are not known: a schema needs a task
LABEL_COLUMNS = ["split", "task", "rows", "positives", "mean"]
FILE_COLUMNS = ["split", "file", *LABEL_COLUMNS[1:]]
VALUE_COLUMNS = ["column", "value", "rows", "share"]
DRIFT_COLUMNS = ["split", "column", "missing", "unseen", "beyond", "shift"]


@dataclass(frozen=True, repr=False)
class Description:
    """The content of a dataset. Shares are of rows unless stated otherwise.

    Args:
        leaks: Features that alone separate a binary label: column, label, AUC, and whether the two are the same.
        columns: The kind of each column. Of raw data the share that is missing and the number of distinct values
            (``more``: more than that); of prepared data the size of the vocabulary, and for each split the share that
            is missing and the share of the others that is unknown (of a list: of its elements).
        values: The most frequent categories of each column of raw data.
        numbers: Range, mean and deviation of each numeric column. Of raw data also quantiles, taken from a sample; of
            prepared data as they are encoded, beside the mean and deviation of the raw ones.
        labels: For each split and task the rows that count, the positive ones and the mean label.
        files: The same for each file of raw data, if a split has several.
        drift: Differences of the other splits from the training rows: the share that is missing, the share of the
            others whose category the training rows lack (of a list: of its elements), the share of numbers outside of
            the range of the training rows (of raw data, in the sample), and the difference of means in deviations of
            the training rows.
        notes: Columns without information, and what was not examined.
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
        """Return warnings, tables and notes as plain data."""
        tables = {name: json.loads(table.to_json(orient="records")) for name, table in self._tables().items()}
        return {"warnings": self.warnings, **tables, "notes": list(self.notes)}

    def _tables(self) -> dict[str, pd.DataFrame]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "notes"}

    def __repr__(self) -> str:
        counts = f"{len(self.columns)} columns; {len(self.warnings)} warnings; {len(self.notes)} notes"
        return f"Description({counts})"

    def _repr_html_(self) -> str:
        """Return warnings, tables and notes for a notebook."""
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in (*self.warnings, *self.notes))
        tables = [(name, table) for name, table in self._tables().items() if not table.empty]
        shown = "".join(f"<h4>{name}</h4>{table.to_html(index=False)}" for name, table in tables)
        return (f"<ul>{sentences}</ul>" if sentences else "") + shown


def describe_splits(
    schema: Schema,
    splits: Mapping[str, SplitTally],
    features: Mapping[str, Floats | Codes],
    columns: pd.DataFrame,
    numbers: pd.DataFrame,
    values: Iterable[Sequence[Any]] = (),
    files: Iterable[Sequence[Any]] = (),
    notes: Iterable[str] = (),
) -> Description:
    """Build a description: search leaks in the sample of the training rows (`features`), and compare the splits."""
    train, sample = splits["train"], splits["train"].sample.table()
    leaks, unsearched = search_leaks(features, sample, schema)
    if schema.tasks == (NO_TASK,):
        unsearched = ["no label is named: columns that give one away were not looked for"]
    if sample.num_rows < train.rows:
        what = "quantiles and columns that give a label away"
        unsearched.append(f"{what} are those of a sample of {sample.num_rows:,} of {train.rows:,} rows")
    labels = [row for name, split in splits.items() for row in split.labels.table(name)]
    drift = [(name, *row) for name, split in splits.items() if name != "train" for row in split.drift(train)]
    return Description(
        leaks=pd.DataFrame(leaks, columns=Leak._fields),
        columns=columns,
        values=pd.DataFrame(list(values), columns=VALUE_COLUMNS),
        numbers=numbers,
        labels=pd.DataFrame(labels, columns=LABEL_COLUMNS),
        files=pd.DataFrame(list(files), columns=FILE_COLUMNS),
        drift=pd.DataFrame(drift, columns=DRIFT_COLUMNS),
        notes=(*notes, *unsearched),
    )
