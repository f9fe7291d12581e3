"""Predictions and labels of tasks as the columns of a table: one per task, of classes one per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.classes import class_codes
from recmtl.data.columns.values import as_numbers
from recmtl.errors import BadValueError
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.scores import Floats
from recmtl.schema import SAMPLING_WEIGHT, Schema, SchemaError, Task
from recmtl.schema.task_kinds import TASK_KINDS
from recmtl.schema.tasks import in_class_order

UNCALIBRATED_PREFIX = "uncalibrated_"  # of columns with what the model itself predicts, if it is calibrated


def prediction_columns(task: Task, values: Floats) -> dict[str, pa.Array]:
    """Return the predictions of a task, ``[rows]`` or ``[rows, C]``, by column."""
    columns = [values] if values.ndim == 1 else list(np.ascontiguousarray(values.T))
    return {name: pa.array(column) for name, column in zip(task.columns, columns, strict=True)}


def label_array(schema: Schema, label: str, values: Floats) -> pa.Array:
    """Return a label column ``[rows]`` as it stands in tables: classes by their names, as integers if all are."""
    if label not in schema.class_labels:
        return pa.array(values, from_pandas=True)
    names = pa.array(map(str, schema.class_labels[label].classes), pa.string())
    if pc.all(pc.match_substring_regex(names, "^(0|-?[1-9][0-9]{0,17})$")).as_py():
        names = names.cast(pa.int64())
    missing = np.isnan(values)
    return names.take(pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing))


def read_classes(column: pa.ChunkedArray, task: Task, source: str) -> Floats:
    """Return the numbers of the classes in a label column of a table ``[rows]``, NaN where it is missing.

    Raises:
        SchemaError: A label is no class of a task that takes no others.
    """
    try:
        return class_codes(column.combine_chunks(), task)[0]
    except BadValueError as bad:
        raise SchemaError(f"{source}, row {bad.row + 1}, {bad.reason}") from None


def with_classes(schema: Schema, columns: Sequence[str]) -> Schema:
    """Return a schema whose multi-class tasks have classes: where it names none, those that columns are named after."""
    own = {*schema.columns, *(task.name for task in schema.reported_tasks)}
    tasks = []
    for task in schema.tasks:
        if task.has_classes and not task.classes:
            named = [c.removeprefix(f"{task.name}_") for c in columns if c.startswith(f"{task.name}_") and c not in own]
            task = replace(task, classes=in_class_order(named)) if len(named) > 1 else task
        tasks.append(task)
    return schema if tuple(tasks) == schema.tasks else replace(schema, tasks=tasks)


def read_prediction(table: pa.Table, task: Task, source: str, decimal: str, prefix: str = "") -> Floats:
    """Return the predictions of a task in a table, ``[rows]`` or ``[rows, C]``; its columns begin with `prefix`."""
    columns = [float_column(table, prefix + name, source, decimal) for name in task.columns]
    return np.column_stack(columns) if task.has_classes else columns[0]


def uncalibrated_columns(schema: Schema, table: pa.Table, source: str) -> dict[str, Floats]:
    """Return what the model itself predicts of calibrated tasks; columns that the schema has are its own."""
    own = {*schema.columns, *(column for task in schema.reported_tasks for column in task.columns)}
    found = {}
    for task in schema.reported_tasks:
        columns = {UNCALIBRATED_PREFIX + name for name in task.columns}
        if columns and columns <= {*table.column_names} and not columns & own:
            found[task.name] = read_prediction(table, task, source, schema.decimal, UNCALIBRATED_PREFIX)
    return found


def read_label(schema: Schema, table: pa.Table, name: str, label: str, source: str) -> Floats:
    """Return a label in the column of a name ``[rows]``: of classes their numbers."""
    task = schema.class_labels.get(label)
    if task is not None and task.classes:
        return read_classes(table[name], task, source)
    return float_column(table, name, source, schema.decimal)


def float_column(table: pa.Table, name: str, source: str, decimal: str = ".") -> Floats:
    """Return a column of numbers ``[rows]``, NaN where it is missing.

    Raises:
        SchemaError: There is no such column, or it is not numeric.
    """
    if name not in table.column_names:
        raise SchemaError(f"column {name!r} is not in {source}")
    try:
        return as_numbers(table[name].combine_chunks(), name, decimal)
    except BadValueError as bad:
        if bad.mask is None:
            raise SchemaError(f"{source}: column {name!r} must be numeric, got {table[name].type}") from None
        raise SchemaError(f"{source}, row {bad.row + 1}, {bad.reason}") from None


def sampling_weight_column(schema: Schema, table: pa.Table, source: str) -> Floats | None:
    """Return the sampling weights of a table, unless it has none or the schema has a column of that name."""
    own = {*schema.columns, *(task.name for task in schema.reported_tasks)}
    if SAMPLING_WEIGHT in own or SAMPLING_WEIGHT not in table.column_names:
        return None
    return float_column(table, SAMPLING_WEIGHT, source, schema.decimal)


def check_task(task: Task, labels: Floats, values: Floats, source: str, condition: bool = False) -> None:
    """Check the labels of a task ``[rows]``, and its predictions ``[rows]`` or ``[rows, C]`` of rows with a label.

    Args:
        task: The task.
        labels: Its labels, NaN where a row does not count.
        values: Its predictions.
        source: The name of the predictions in error messages.
        condition: Whether its label is the condition of another task as well, and so not soft.

    Raises:
        SchemaError: One is not what the kind of the task takes.
    """
    measure, kind, where = MEASURES[task.kind], TASK_KINDS[task.kind], f"{source}, label {task.label!r}"
    if task.kind == "binary":
        wrong = ~np.isin(labels, (0, 1)) & ~np.isnan(labels) if condition else (labels < 0) | (labels > 1)
        check_values(wrong, labels, where, "0, 1 or no value" if condition else "a number from 0 to 1, or no value")
    else:
        check_values(labels < kind.low, labels, where, f"a number of at least {kind.low:g}, or no value")
    counted = ~np.isnan(labels)
    for name, column in zip(task.columns, values.T if values.ndim == 2 else [values], strict=True):
        check_values(counted & ~measure.fits(column), column, f"{source}, column {name!r}", measure.expected)
    if values.ndim == 2:
        where = f"{source}, sum of the columns {task.columns[0]!r} to {task.columns[-1]!r}"
        check_values(counted & ~measure.is_valid(values), values.sum(1), where, "1")


def check_values(bad: npt.NDArray[np.bool_], values: Floats, where: str, expected: str) -> None:
    """Raise `SchemaError` for the first bad value ``[rows]``, if there is any."""
    if bad.any():
        row = int(bad.argmax())
        value = "no value" if np.isnan(values[row]) else f"{values[row]:g}"
        raise SchemaError(f"{where}, row {row + 1}: expected {expected}, got {value} (rows: {bad.sum():,})")
