"""Read the columns of predictions from files of any library."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa

from recmtl.data.columns.values import as_text
from recmtl.data.sources.base import Source
from recmtl.data.sources.open import open_sources
from recmtl.errors import BadValueError, DataError
from recmtl.evaluate.task_columns import UNCALIBRATED_PREFIX, with_classes
from recmtl.io.formats import without_nulls
from recmtl.io.machine import available_memory
from recmtl.io.partitions import Partitions, public_name_of
from recmtl.schema import SAMPLING_WEIGHT, Schema, SchemaError

LABEL_PREFIX = "label_"  # of label columns in files, as a task may be named like its label
FLOAT_BYTES = 8


def read_predictions(schema: Schema, path: str | Path | Partitions, group: str | None = None) -> pa.Table:
    """Read predictions, labels, row weights, keys and groups of files: keys and groups as text or integers.

    Raises:
        SchemaError: A file cannot be read, or does not fit into memory.
    """
    try:
        sources = open_sources(path, text=schema.text_format.with_all_numbers)
        parts = [_read_columns(source, schema, group) for source in sources]
        if any(SAMPLING_WEIGHT in part.column_names for part in parts):
            parts = [_weighted(part) for part in parts]
        columns = [c for c in parts[0].column_names if all(c in part.column_names for part in parts)]
        return pa.concat_tables(_alike([part.select(columns) for part in parts]))
    except DataError as error:
        raise SchemaError(str(error)) from error
    except (OSError, MemoryError, pa.ArrowException) as error:
        raise SchemaError(f"{public_name_of(path)} cannot be read: {' '.join(str(error).split())}") from error


def _read_columns(source: Source, schema: Schema, group: str | None) -> pa.Table:
    """Read the columns of predictions, labels, weight and keys: keys as text or integers, never as decimals."""
    schema = with_classes(schema, source.columns)
    predicted = [column for task in schema.reported_tasks for column in task.columns]
    computed = {*predicted, *(UNCALIBRATED_PREFIX + name for name in predicted), SAMPLING_WEIGHT}
    numbers = [*computed, *schema.weights]
    labels = {label: (LABEL_PREFIX + label, label) for label in schema.labels}
    numbers += [name for label, names in labels.items() if label not in schema.class_labels for name in names]
    classes = [name for label, names in labels.items() if label in schema.class_labels for name in names]
    wanted = {*numbers, *classes, *schema.carried, group}
    columns = [column for column in source.columns if column in wanted]
    _check_memory(source, len(columns))
    ids = [column for column in columns if column in {*schema.carried, group} - {*numbers}]
    given, nulls = [column for column in columns if column not in computed], schema.text_format.null_words
    batches = []
    for batch in source.batches(columns, parsed := frozenset(columns) & {*numbers}):
        for name, column in zip(given, without_nulls(batch.select(given), nulls, parsed).columns, strict=True):
            batch = batch.set_column(batch.schema.get_field_index(name), name, column)
        batches.append(_with_ids(batch, ids, source.name))
    if not batches:
        return pa.table({column: pa.array([], pa.string()) for column in columns})
    return pa.concat_tables(_alike([pa.Table.from_batches([batch]) for batch in batches]))


def _with_ids(batch: pa.RecordBatch, ids: Collection[str], source: str) -> pa.RecordBatch:
    """Return rows with keys and groups as text or integers; raise a `DataError` for other types and inexact numbers."""
    for name in ids:
        column = batch.column(name)
        if pa.types.is_nested(column.type):
            raise DataError(f"{source}: column {name!r} must have one value per row, got {column.type}")
        if not pa.types.is_integer(column.type):
            try:
                text = _text(column, name)
            except BadValueError as bad:
                raise DataError(f"{source}: {bad.reason}") from bad
            if pa.types.is_floating(column.type):
                batch = batch.set_column(batch.schema.get_field_index(name), name, text)
    return batch


def _weighted(table: pa.Table) -> pa.Table:
    """Return predictions with sampling weights: 1 in those of a file that was not thinned."""
    if SAMPLING_WEIGHT in table.column_names:
        return table
    return table.append_column(SAMPLING_WEIGHT, pa.array(np.ones(table.num_rows)))


def _check_memory(source: Source, columns: int) -> None:
    """Check that the columns to read fit into memory: rows that are alike take little room in a file."""
    size, free = (source.rows or 0) * columns * FLOAT_BYTES, available_memory()
    if size > free:
        raise DataError(f"{source.name} cannot be read: its rows need at least {size:,} bytes, but {free:,} are free")


def _alike(tables: list[pa.Table]) -> list[pa.Table]:
    """Return tables of the same columns whose types are equal: text where they differ, as in integers before text."""
    types = {name: {table.schema.field(name).type for table in tables} for name in tables[0].column_names}
    for name, kinds in types.items():
        if len(kinds) > 1:
            columns = [pa.chunked_array([_text(chunk, name) for chunk in t[name].chunks], pa.string()) for t in tables]
            places = [table.schema.get_field_index(name) for table in tables]
            tables = [t.set_column(i, name, c) for t, i, c in zip(tables, places, columns, strict=True)]
    return tables


def _text(array: pa.Array, column: str) -> pa.Array:
    """Return a column as text, null where it is missing."""
    values, codes = as_text(array, column)
    return values.take(pa.array(np.maximum(codes, 0), mask=codes < 0)).cast(pa.string())


def label_column(label: str, table: pa.Table, tasks: list[str]) -> str | None:
    """Return the column of a table that holds a label, unless a task has its name; ``None`` if there is none."""
    names = (name for name in (LABEL_PREFIX + label, label) if name in table.column_names and name not in tasks)
    return next(names, None)
