"""Prepared rows as one matrix, for models that read tables: ids, numbers, and counts of lists."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recmtl.comparison.baselines.base import Examples, TaskRows
from recmtl.data import PreparedData, Rows
from recmtl.errors import DataError
from recmtl.evaluate import task_labels
from recmtl.schema import Categorical, FittedSchema, Task

LISTED = 32  # ids of a multi-valued feature that are counted: those of a vocabulary are the most frequent ones
MOST_IDS = 1 << 24  # that float32 tells apart

Matrix = npt.NDArray[np.float32]


def input_matrix(rows: Rows) -> Matrix:
    """Return what baselines read of prepared rows ``[rows, columns]``.

    The columns are the ids and the encoded numbers as a net gets them, label rates among them, and of each
    multi-valued feature how many values a row has, and how many of them are each of its first 32 ids.

    Raises:
        DataError: A feature has more ids than float32 tells apart.
    """
    schema = rows.schema
    for block in schema.id_blocks:
        if block.size > MOST_IDS:
            raise DataError(f"baselines read at most {MOST_IDS:,} ids, {block.name!r} has {block.size:,}")
    packed, ids, numbers = rows.packed().numpy(), schema.id_columns, schema.numeric_columns
    columns = [packed[:, :ids].astype(np.float32), packed[:, ids : ids + numbers].view(np.float32)]
    for block, lists in zip(schema.list_blocks, rows.lists(), strict=True):
        counted = min(LISTED, block.size)
        lengths = lists.offsets.diff().numpy()
        row, value = np.repeat(np.arange(len(rows)), lengths), lists.values.numpy()[: lengths.sum()]
        first = value < counted
        counts = np.bincount(row[first] * counted + value[first], minlength=len(rows) * counted)
        columns += [lengths[:, None].astype(np.float32), counts.reshape(-1, counted).astype(np.float32)]
    return np.hstack(columns)


def id_places(schema: FittedSchema) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the places of the columns of `input_matrix` that hold categories, and of those that hold bins."""
    single = [block for block in schema.id_blocks if not block.listed]
    categories = tuple(block.start for block in single if isinstance(block.feature, Categorical))
    return categories, tuple(block.start for block in single if block.start not in categories)


def examples_of(task: Task, rows: Rows, x: Matrix) -> Examples:
    """Return the rows that count for a task; a soft label becomes a positive and a negative with parts of its weight.

    Args:
        task: The task.
        rows: The rows.
        x: Their inputs ``[rows, columns]``.
    """
    labels = task_labels(task, rows.labels)
    own = rows.task_weights.get(task.weight_column) if task.weight_column else None
    factors = [weight for weight in (rows.weight, own, rows.sampling_weight) if weight is not None]
    weight = np.prod(factors, axis=0) if factors else None
    counts = ~np.isnan(labels) if weight is None else ~np.isnan(labels) & (weight > 0)
    labels, weight = labels[counts], None if weight is None else weight[counts]
    soft = task.kind == "binary" and bool(((labels > 0) & (labels < 1)).any())
    if not soft:
        return Examples(x[counts], labels, weight)
    weight = np.ones(len(labels)) if weight is None else weight
    halves = np.concatenate([weight * labels, weight * (1 - labels)])
    kept = halves > 0
    return Examples(np.tile(x[counts], (2, 1))[kept], np.repeat([1.0, 0.0], len(labels))[kept], halves[kept])


def task_rows(task: Task, data: PreparedData, inputs: dict[str, Matrix]) -> TaskRows:
    """Return the training and validation rows of a task; its validation rows are ``None`` if none counts."""
    valid = examples_of(task, data.valid, inputs["valid"]) if "valid" in data.splits else None
    held_out = valid if valid is not None and len(valid.labels) else None
    train = examples_of(task, data.train, inputs["train"])
    return TaskRows(task, train, held_out, *id_places(data.schema), len(data.schema.classes(task.name)))
