"""Read all columns of a dataset: by the rules of inference, or as the user says; labels become tasks."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import SchemaError
from recmtl.io.csv_records import BadRows
from recmtl.io.spellings import TICKS
from recmtl.schema.column_reading import LEFT_OUT, Reading, category
from recmtl.schema.column_values import ColumnValues
from recmtl.schema.date_text import has_time
from recmtl.schema.features import KIND_NAMES, KINDS, Feature, MultiCategorical, Timestamp
from recmtl.schema.infer import LIST_SEPARATORS, MANY_LISTS, suggest_feature
from recmtl.schema.sample import Rows, Sample, read_sample
from recmtl.schema.task_kinds import TASK_KINDS
from recmtl.schema.tasks import Task
from recmtl.schema.text_format import TextFormat, format_options
from recmtl.schema.time_columns import digits_format, find_dates, parts_of, question_of, timestamp, unit_of_times

ColumnKind = Literal[
    "categorical",
    "multi_categorical",
    "numeric",
    "binned",
    "timestamp",
    "drop",
    "binary",
    "regression",
    "multiclass",
    "amount",
]
"""What a column is said to be: the kind of a feature or, of a label, of its task."""
READ_AS = {
    "regression": "has more than two values: a regression (`--kind {label}=amount` for a count or duration, or "
    "`=multiclass`)",
    "multiclass": "holds classes: a multiclass task",
}
NO_KINDS: Mapping[str, str] = {}
SAID_SEPARATORS = (*LIST_SEPARATORS, ",", "\t", " ")  # of columns that are said to hold lists
AS_SAID = "as you say"
INDEX = "the index of a pandas frame"
SHOWN = 8  # columns that are named in a note


@dataclass(frozen=True)
class InferredColumns:
    """What the columns of a dataset were inferred to be.

    Args:
        source: The name of the data.
        rows: The number of rows that were looked at.
        tasks: The tasks.
        readings: How each column is read that is no label and has no other role.
        sample: These rows.
    """

    source: str
    rows: int
    tasks: tuple[Task, ...]
    readings: tuple[Reading, ...]
    sample: Sample = field(repr=False)

    @property
    def features(self) -> list[Feature]:
        """The features of the columns that are used.

        Raises:
            SchemaError: The rules cannot decide what a column is, or no column is left.
        """
        for reading in self.readings:
            if reading.question:
                raise SchemaError(f"{self.source}: {reading.question}")
        found = [reading.feature for reading in self.readings if reading.used and reading.feature]
        if not found:
            raise SchemaError(f"no column of {self.source} is left for a feature: a schema needs at least one feature")
        return found

    @property
    def notes(self) -> list[str]:
        """What was inferred, in a few lines: the columns of each kind, those left out, and regressions."""
        counts = Counter(reading.kind for reading in self.readings)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KIND_NAMES.values() if counts[kind])
        read = sum(counts.values()) - counts[LEFT_OUT]
        notes = [f"read {read} columns of {self.source} by {self.rows:,} of its rows: {kinds}"]
        notes += left_out_notes(self.readings)
        forms = [
            f"{r.column} ({r.feature.format})"
            for r in self.readings
            if r.used and isinstance(r.feature, Timestamp) and r.feature.format not in (None, *TICKS)
        ]
        if forms:
            more = f" and {len(forms) - SHOWN} more" * (len(forms) > SHOWN)
            notes.append(f"read as dates, in every file in the same format: {', '.join(forms[:SHOWN])}{more}")
        labels = dict.fromkeys((task.label, task.kind) for task in self.tasks if task.kind in READ_AS)
        return notes + [f"label {label!r} {READ_AS[kind].format(label=label)}" for label, kind in labels]


def left_out_notes(readings: Sequence[Reading]) -> Iterator[str]:
    """Yield a note on the columns that are left out, if there are any."""
    left_out = [f"{r.column} ({r.reason})" for r in readings if not r.used]
    if left_out:
        more = f" and {len(left_out) - SHOWN} more" * (len(left_out) > SHOWN)
        yield f"{LEFT_OUT}: {', '.join(left_out[:SHOWN])}{more}"


def infer_columns(
    data: Rows,
    tasks: Sequence[Task | str],
    kinds: Mapping[str, str] | None = None,
    drop: Collection[str] = (),
    roles: Mapping[str, Any] | None = None,
    bad_rows: BadRows = "error",
    date_formats: Mapping[str, str] | None = None,
) -> InferredColumns:
    """Read the columns of a dataset; arguments as of `Schema.infer`."""
    roles = roles or {}
    tasks = [tasks] if isinstance(tasks, str) else tasks
    sample = read_sample(data, TextFormat(**format_options(roles)), bad_rows)
    kinds = kinds or {}
    funnel = roles.get("funnel")
    steps = funnel.labels if funnel else ()
    found = tuple(task if isinstance(task, Task) else read_label(sample, task, kinds, steps) for task in tasks)
    kinds = {
        name: kind for name, kind in kinds.items() if kind not in TASK_KINDS or name not in {t.label for t in found}
    }
    used = [name for task in found for name in (task.label, task.given, task.weight_column)]
    used += steps
    used += [roles.get("group"), *roles.get("keys", ()), roles.get("weight")]
    named = {name for name in used if name is not None}
    for name in named:
        check_column(sample, name)
    domain = roles.get("domain")
    if domain is not None:
        check_column(sample, domain)
    labels = {name for task in found for name in (task.label, task.given)}
    weights = {roles.get("weight"), *(task.weight_column for task in found)}
    kinds = {**dict.fromkeys(date_formats or {}, "timestamp"), **kinds}
    if domain is not None:
        kinds = {domain: "categorical", **kinds}
    carried = [roles.get("group"), *roles.get("keys", ())]  # features as well, if a kind is said
    also = {name for name in carried if kinds.get(name, "drop") != "drop"} - labels - weights
    readings = read_columns(sample, named - also, kinds, drop, date_formats or {})
    return InferredColumns(sample.name, sample.table.num_rows, found, readings, sample)


def read_label(sample: Sample, given: str, kinds: Mapping[str, str] = NO_KINDS, steps: Collection[str] = ()) -> Task:
    """Return the task of a label column.

    It is binary if the column is a step of a funnel or holds 0 and 1, a regression if it holds more than two numbers,
    multi-class if it holds text, and otherwise of the kind that is said.

    Args:
        sample: The rows.
        given: The column, whose name the task has, or ``TASK=COLUMN``.
        kinds: The kind of columns that is said, among them perhaps that of the label.
        steps: The labels of a funnel. What they hold is checked when rows are read, which names the line.

    Raises:
        SchemaError: There is no such column, or it holds something else.
    """
    task, equals, name = ("", "", given) if given in sample.table.column_names else given.partition("=")
    task, name = (task, name) if equals else (given, given)
    check_column(sample, name)
    said = kinds.get(name)
    if said in TASK_KINDS:
        return Task(task, name, kind=said)  # type: ignore[arg-type]
    values = sample.column(name)
    if name in steps or values.is_boolean or not values.present:
        return Task(task, name)
    numbers = values.numbers
    if numbers is None:
        if values.is_text and not len(values.number_words) and values.distinct > 1:
            return Task(task, name, kind="multiclass")
        other = values.other_words if values.is_text and len(values.other_words) else values.values
        raise SchemaError(
            f"label {name!r} of {sample.name} holds {str(other[0])!r}: expected 0 and 1, numbers, or text alone; "
            f"{way(name)}"
        )
    if set(numbers.values) <= {0, 1}:
        return Task(task, name)
    if len(numbers.values) <= 2:
        found = " and ".join(f"{value:g}" for value in sorted(numbers.values))
        raise SchemaError(
            f"label {name!r} of {sample.name} holds {found}: expected 0 and 1, or more than two numbers; {way(name)}"
        )
    return Task(task, name, kind="regression")


def way(label: str) -> str:
    """Return how a label is said to hold classes."""
    return f"if these are classes, say `--kind {label}=multiclass`"


def read_columns(
    sample: Sample,
    used: Collection[str],
    kinds: Mapping[str, str],
    drop: Collection[str] = (),
    date_formats: Mapping[str, str] | None = None,
) -> tuple[Reading, ...]:
    """Return how each column is read, but for those in `used`, which are labels and other roles.

    Args:
        sample: The rows.
        used: Columns that are no feature.
        kinds: The kind of each column that is not read by the rules; a name may be a pattern.
        drop: Columns to leave out; a name may be a pattern.
        date_formats: The format of columns that are of the kind ``timestamp``; a name may be a pattern.

    Raises:
        SchemaError: A column is missing, has another role or cannot be read as its kind, or the rules cannot decide.
    """
    said = _said_kinds(sample, used, {**dict.fromkeys(drop, "drop"), **kinds})
    formats = _said_formats(said, date_formats or {})
    readings, index = [], set(sample.index)
    for name in sample.table.column_names:
        if name not in used:
            values = sample.column(name)
            if name in said:
                readings.append(_as_said(values, said[name], formats.get(name)))
            elif name in index:
                readings.append(Reading(name, None, INDEX, used=False))
            else:
                readings.append(suggest_feature(values))
    return tuple(readings)


def _said_kinds(sample: Sample, used: Collection[str], kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the kind that is given for each column; that of a name comes before that of a pattern."""
    said: dict[str, str] = {}
    for name, kind in sorted(kinds.items(), key=lambda item: item[0] in sample.table.column_names):
        if kind in TASK_KINDS:
            raise SchemaError(f"column {name!r} is no label: {kind!r} is the kind of a task (`--label {name}`)")
        if kind not in get_args(ColumnKind):
            words = ", ".join(get_args(ColumnKind))
            hint = did_you_mean(str(kind), get_args(ColumnKind)) or f": expected one of {words}"
            raise SchemaError(f"column {name!r} cannot be read as {kind!r}{hint}")
        if name in used:
            raise SchemaError(f"column {name!r} is a label, a group, a key or a weight: it cannot be {kind!r} as well")
        columns = [column for column in sample.table.column_names if column not in sample.index]
        matched = [name] if name in sample.table.column_names else fnmatch.filter(columns, name)
        if not matched:
            check_column(sample, name)
        said |= dict.fromkeys((column for column in matched if column not in used), kind)
    return said


def _said_formats(kinds: Mapping[str, str], date_formats: Mapping[str, str]) -> dict[str, str]:
    """Return the format that is given for each column of a kind; that of a name comes before that of a pattern."""
    said: dict[str, str] = {}
    for name, written in sorted(date_formats.items(), key=lambda item: item[0] in kinds):
        columns = [name] if name in kinds else fnmatch.filter(kinds, name)
        for column in columns:
            if kinds[column] != "timestamp":
                raise SchemaError(
                    f"column {column!r} cannot be {kinds[column]!r} and have a date format: leave out one"
                )
        said |= dict.fromkeys(columns, written)
    return said


def _as_said(c: ColumnValues, kind: str, date_format: str | None = None) -> Reading:
    """Return the reading of a column as a kind, with a date format if one is given."""
    if kind == "drop":
        return Reading(c.name, None if c.rounded else category(c), AS_SAID, used=False)
    feature: Feature = KINDS[kind](c.name)
    if kind == "categorical":
        feature = category(c)
    elif kind == "multi_categorical" and c.is_text:
        feature = MultiCategorical(c.name, separator=_list_separator(c))
    elif kind == "timestamp":
        return _as_dates(c, date_format)
    return Reading(c.name, feature, AS_SAID)


def _as_dates(c: ColumnValues, date_format: str | None) -> Reading:
    """Return the reading of a column as dates or times: in a format, or in that which most of its rows have."""
    if date_format is not None:
        Timestamp(c.name, format=date_format)
        parts = parts_of(has_time(date_format) or date_format in TICKS)
        return Reading(c.name, timestamp(c, parts, date_format), AS_SAID)
    found = find_dates(c) if c.is_text and not c.numbers else None
    if found and len(found.formats) > 1:
        return question_of(c, found) or Reading(c.name, None, AS_SAID)
    if found:
        return Reading(c.name, timestamp(c, parts_of(found.times), found.formats[0]), AS_SAID)
    digits = digits_format(c)
    days = pa.types.is_date(c.type) or (digits is not None and not has_time(digits))
    return Reading(c.name, timestamp(c, parts_of(not days), digits or unit_of_times(c)), AS_SAID)


def _list_separator(c: ColumnValues) -> str:
    """Return the separator of lists in text: the first one that many values have, or else any value."""
    counts = {s: c.count(c.unique.filter(pc.match_substring(c.unique, s))) for s in SAID_SEPARATORS}
    many = [s for s, count in counts.items() if count >= max(MANY_LISTS * c.present, 1)]
    return next(iter([*many, *(s for s, count in counts.items() if count)]), LIST_SEPARATORS[0])


def check_column(sample: Sample, name: str) -> None:
    """Check that there is a column."""
    columns = sample.table.column_names
    if name not in columns:
        first = f"; its columns begin with {', '.join(map(repr, columns[:3]))}"
        raise SchemaError(f"column {name!r} is not in {sample.name}{did_you_mean(name, columns, most=3) or first}")
