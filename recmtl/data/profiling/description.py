"""The description of a dataset: one table for each kind of finding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any

import pandas as pd

from recmtl.data.columns.values import Codes, Floats
from recmtl.data.profiling.cautions import cautions
from recmtl.data.profiling.leaks import Leak, search_leaks
from recmtl.data.profiling.tally import SplitTally
from recmtl.errors import counted
from recmtl.schema import Schema, Task

SHARES = ("missing", "unknown", "unseen", "beyond", "share")  # how the names of columns with shares begin
NAMED_CLASSES = 4  # of a task, in a line, beside the rarest one
UNFOLDED_ROWS = 12  # of a table in a notebook
WARNING_STYLE = "border-left: 4px solid #c0392b; padding: 0.25em 0.75em"
NO_TASK = Task("(none)", "(none)")  # of raw rows whose labels are not known: a schema needs a task
LABEL_COLUMNS = ["split", "task", "class", "rows", "positives", "mean"]
FILE_COLUMNS = ["split", "file", *LABEL_COLUMNS[1:]]
VALUE_COLUMNS = ["column", "value", "rows", "share"]
DRIFT_COLUMNS = ["split", "column", "missing", "unseen", "beyond", "shift"]


@dataclass(frozen=True, repr=False)
class Description:
    """The content of a dataset. Shares are of rows unless stated otherwise.

    Args:
        warnings: What would harm a model: columns that give a label away, values and means that differ between the
            splits, columns that are read as something else than they are, labels with few positives, and values that
            are an error when the data is prepared.
        rows: The number of rows of each split.
        leaks: Features that alone separate a binary label: column, label, AUC, and whether the two are the same.
        columns: The kind of each column. Of raw data the share that is missing and the number of distinct values
            (``more``: more than that); of prepared data the size of the vocabulary, and for each split the share that
            is missing and the share of the others that is unknown (of a list: of its elements).
        values: The most frequent categories of each column of raw data.
        numbers: Range, mean and deviation of each numeric column. Of raw data also quantiles, taken from a sample; of
            prepared data as they are encoded, beside the mean and deviation of the raw ones.
        labels: For each split and task the rows that count, the positive ones and the mean label; if there is a
            multi-class task, also ``class``, and a line for each class.
        files: The same for each file of raw data, if a split has several.
        drift: Differences of the other splits from the training rows: the share that is missing, the share of the
            others whose category the training rows lack (of a list: of its elements), the share of numbers outside of
            the range of the training rows (of raw data, in the sample), and the difference of means in deviations of
            the training rows.
        notes: Columns that are left out or without information, and what was not examined.
    """

    warnings: tuple[str, ...]
    rows: Mapping[str, int]
    leaks: pd.DataFrame
    columns: pd.DataFrame
    values: pd.DataFrame
    numbers: pd.DataFrame
    labels: pd.DataFrame
    files: pd.DataFrame
    drift: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def summary(self) -> list[str]:
        """The rows of each split, the number of columns of each kind, and a line for each task."""
        counts = self.columns["kind"].value_counts(sort=False).items() if len(self.columns) else ()
        rows = ", ".join(counted(count, f"{split} row") for split, count in self.rows.items())
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts)
        lines = [f"{rows}; {counted(len(self.columns), 'column')}: {kinds}"]
        for task, found in self.labels.groupby("task", sort=False):
            splits = [_label_text(rows) for _, rows in found.groupby("split", sort=False)]
            lines.append(f"task {task}: {', '.join(splits)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return warnings, rows, tables and notes as plain data."""
        tables = {name: json.loads(table.to_json(orient="records")) for name, table in self._tables().items()}
        return {"warnings": list(self.warnings), "rows": dict(self.rows), **tables, "notes": list(self.notes)}

    def _tables(self) -> dict[str, pd.DataFrame]:
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), pd.DataFrame)}

    def __repr__(self) -> str:
        found = {"column": len(self.columns), "warning": len(self.warnings), "note": len(self.notes)}
        return f"Description({'; '.join(counted(count, what) for what, count in found.items())})"

    def _repr_html_(self) -> str:
        """Return warnings, summary, tables and notes for a notebook; large tables are folded."""
        warnings = "".join(f"<li>{escape(text)}</li>" for text in self.warnings)
        parts = [f'<div style="{WARNING_STYLE}"><strong>Warnings</strong><ul>{warnings}</ul></div>'] if warnings else []
        parts += [f"<p>{'<br>'.join(map(escape, self.summary))}</p>"]
        for name, table in self._tables().items():
            if not table.empty:
                unfolded = " open" if len(table) <= UNFOLDED_ROWS else ""
                shown = f"<summary><strong>{name}</strong> ({counted(len(table), 'row')})</summary>{_html_table(table)}"
                parts.append(f"<details{unfolded}>{shown}</details>")
        notes = "".join(f"<li>{escape(text)}</li>" for text in self.notes)
        return "".join([*parts, f"<ul>{notes}</ul>" if notes else ""])


def label_table(rows: Iterable[Sequence[Any]], columns: Sequence[str] = LABEL_COLUMNS) -> pd.DataFrame:
    """Return the table of labels, without a column of classes if there are none."""
    table = pd.DataFrame([tuple(row) for row in rows], columns=list(columns))
    return table.drop(columns="class") if table["class"].isna().all() else table


def _label_text(labels: pd.DataFrame) -> str:
    """Return the labels of a task in a split in words; of several classes the most and the least frequent ones."""
    first, *others = labels.sort_values("positives", ascending=False, kind="stable").to_dict("records")
    rows = counted(first["rows"], f"{first['split']} row")
    if others:
        named = [f"{row['class']} {row['mean']:.2%}" for row in (first, *others)]
        shown = [*named[:NAMED_CLASSES], "…", named[-1]] if len(named) > NAMED_CLASSES + 1 else named
        return f"{counted(len(named), 'class')} in {rows}: {', '.join(shown)}"
    row = first
    if pd.isna(row["positives"]):
        return f"mean {number_text(row['mean'])} of {rows}"
    return f"{counted(int(row['positives']), 'positive')} in {rows} ({row['mean']:.2%})"


def _html_table(table: pd.DataFrame) -> str:
    """Return a table as HTML: shares in percent, other numbers with four digits."""
    shown = table.astype(object)
    for name, column in table.items():
        if pd.api.types.is_float_dtype(column.dtype):
            shown[name] = column.map(_percent if str(name).startswith(SHARES) else number_text)
    return str(shown.to_html(index=False, na_rep="–", border=0))


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2%}"


def number_text(value: float, digits: int = 4) -> str:
    """Write a number with some digits; the whole part of one below a million has all of its own, such as 2016."""
    if pd.isna(value):
        return "–"
    return f"{value:.0f}" if 10 ** (digits - 1) <= abs(value) < 1e6 else f"{value:.{digits}g}"


def describe_splits(
    schema: Schema,
    splits: Mapping[str, SplitTally],
    features: Mapping[str, Floats | Codes],
    columns: pd.DataFrame,
    numbers: pd.DataFrame,
    values: Iterable[Sequence[Any]] = (),
    files: Iterable[Sequence[Any]] = (),
    warnings: Iterable[str] = (),
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
    rows = {name: split.rows for name, split in splits.items()}
    drift = [(name, *row) for name, split in splits.items() if name != "train" for row in split.drift(train)]
    tables = {
        "columns": columns,
        "values": pd.DataFrame(list(values), columns=VALUE_COLUMNS),
        "numbers": numbers,
        "labels": label_table(row for name, split in splits.items() for row in split.labels.table(name)),
        "drift": pd.DataFrame(drift, columns=DRIFT_COLUMNS),
    }
    return Description(
        warnings=(*map(str, leaks), *warnings, *cautions(schema, rows, **tables)),
        rows=rows,
        leaks=pd.DataFrame(leaks, columns=Leak._fields),
        files=label_table(files, FILE_COLUMNS),
        notes=(*notes, *unsearched),
        **tables,
    )
