"""Read the raw rows of a split batch by batch, and convert them in threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.classes import class_codes
from recmtl.data.columns.timestamps import calendar_ids
from recmtl.data.columns.values import Floats, RowNumbers, as_integers, as_lists, as_numbers, as_text, stable_hash
from recmtl.data.sources.bad_rows import BadRowCounter, Checks
from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError, unreadable
from recmtl.io.prefetch import prefetch
from recmtl.io.spellings import FINITE, NUMBER
from recmtl.schema import Categorical, MultiCategorical, Schema, Timestamp
from recmtl.schema.tasks import lowest_label

Converted = TypeVar("Converted")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def convert(
    schema: Schema,
    sources: Sequence[Source],
    use: Callable[[pa.RecordBatch, RowNumbers], Converted],
    skipped: BadRowCounter | None = None,
    integer_keys: Collection[str] = (),
    threads: int = 0,
    allow_empty: bool = False,
    first_row: int = 0,
) -> Iterator[Converted]:
    """Read the schema's columns of several sources and convert them batch by batch.

    `use` converts a batch, given the number of each of its rows across all sources, from `first_row` on; if it depends
    on the batches before, `threads` must be at most 1; 0 converts in this one. `skipped` counts the rows that do not
    parse, which are then left out; ``None`` makes the first of them an error. `integer_keys` are the carried columns
    that must hold integers.
    """
    numbers = {f.name for f in schema.numbers} | {*schema.labels, *schema.weights} - schema.class_labels.keys()
    numbers -= set(schema.carried)  # ids, which numbers would round
    total, used = first_row, 0

    def jobs(source: Source) -> Iterator[Callable[[], Converted]]:
        nonlocal total, used
        found = frozenset(source.columns)
        columns = [c for c in schema.columns if c in found]
        checks = _column_checks(schema, columns, integer_keys)
        offset = 0
        for batch in source.batches(columns, frozenset(numbers), skipped.add if skipped else None):
            rows = np.arange(total, total + batch.num_rows)
            bad = _located(offset, skipped.bad, batch, checks, offset) if skipped else np.zeros(len(rows), np.bool_)
            if not bad.all():
                good = batch.filter(pa.array(~bad)) if bad.any() else batch
                yield partial(_located, offset, use, good, rows[~bad])
            used += int((~bad).sum())
            offset, total = offset + batch.num_rows, total + batch.num_rows

    for source in sources:
        try:
            yield from prefetch(jobs(source), threads)
        except BadValueError as bad_value:
            raise source.fault(_with_ways_out(bad_value, schema)) from None
        except (OSError, pa.ArrowException) as error:
            raise unreadable(source.name, error) from error
        if skipped:
            skipped.finish(source)
    if used == 0 and not allow_empty:
        raise no_rows(sources, skipped)


def _with_ways_out(bad: BadValueError, schema: Schema) -> BadValueError:
    """Return the error; that of an infinite number also says how many there are, and what to do with them."""
    if bad.expected == FINITE and bad.mask is not None:
        rows = int(bad.mask.sum())
        column = ", drop the column" if bad.column not in schema.unfeatured else ""
        bad.expected += (
            f": at least {rows:,} row{'s have' if rows > 1 else ' has'} an infinite one; leave out such rows "
            f"(`--bad_rows skip`, or `bad_rows` of the command or function){column}, or leave the cells empty"
        )
    return bad


def no_rows(sources: Sequence[Source], skipped: BadRowCounter | None) -> DataError:
    """Return the error for sources that have no rows, or bad ones alone."""
    nothing = f"there are no rows in {', '.join(source.name for source in sources)}"
    return DataError("; ".join([nothing, *(skipped.notes() if skipped else ())]))


def _located(offset: int, use: Callable[..., Converted], *arguments: Any) -> Converted:
    """Convert a batch; the row of a bad value is counted from the beginning of its source."""
    try:
        return use(*arguments)
    except BadValueError as bad:
        bad.row += offset
        raise


def _column_checks(schema: Schema, columns: Collection[str], integer_keys: Collection[str]) -> Checks:
    """Return for each column those conversions of fitting and encoding that may reject a value."""
    lists = {f.name: f.separator for f in schema.features if isinstance(f, MultiCategorical)}
    numeric, nulls = {f.name for f in schema.numbers}, schema.text_format.null_words
    times = {f.name: f for f in schema.features if isinstance(f, Timestamp)}
    texts = {f.name for f in schema.features if isinstance(f, Categorical)} - set(lists) | set(schema.carried)

    def check(column: str, batch: pa.RecordBatch) -> None:
        values = batch.column(column)
        if column in schema.class_labels and not schema.class_labels[column].classes:
            as_text(values, column, ids=False)
        elif column in schema.labels:
            label_column(schema, batch, column)
        if column in schema.weights:
            weight_column(schema, batch, column)
        if column in numeric:
            as_numbers(values, column, schema.decimal)
        if column in times:
            calendar_ids(values, times[column])
        if column in lists:
            as_lists(values, lists[column], column, nulls)
        if column in texts:
            text = as_text(values, column)
            if column in integer_keys:
                as_integers(*text, column)

    return {column: partial(check, column) for column in columns}


def label_column(schema: Schema, batch: pa.RecordBatch, name: str) -> Floats:
    """Return a label column ``[rows]``, NaN where it is missing; a binary one is in [0, 1], a condition 0 or 1.

    One of classes has their numbers; they must be known, as in a fitted schema.
    """
    if name in schema.class_labels:
        return class_codes(batch.column(name), schema.class_labels[name])[0]
    values = _label_numbers(schema, batch, name)
    if name in schema.conditions:
        bad = ~(np.isnan(values) | (values == 0) | (values == 1))
        _reject(bad, name, lambda row: f"{values[row]:g}", "a binary label: expected 0, 1 or nothing")
    elif name in schema.binary_labels:
        bad = (values < 0) | (values > 1)
        _reject(bad, name, lambda row: f"{values[row]:g}", "a binary label: expected a number from 0 to 1, or nothing")
    else:
        lowest = lowest_label(schema.tasks, name)
        expected = f"the label of an amount: expected a number of at least {lowest:g}, or nothing"
        _reject(values < lowest, name, lambda row: f"{values[row]:g}", expected)
    return values


def _label_numbers(schema: Schema, batch: pa.RecordBatch, name: str) -> Floats:
    """Return a label column of numbers ``[rows]``; the error of text says how labels of text are predicted."""
    try:
        return _float32_numbers(schema, batch, name)
    except BadValueError as bad:
        if bad.expected != NUMBER or not isinstance(bad.value, str):
            raise
        expected = "a binary label: expected 0 or 1" if name in schema.binary_labels else NUMBER
        if name not in schema.conditions:
            expected += f"; if these are names of classes, say `kind: multiclass`, or `--kind {name}=multiclass`"
        raise BadValueError(bad.row, name, bad.value, expected, bad.mask) from None


def weight_column(schema: Schema, batch: pa.RecordBatch, name: str | None) -> Floats:
    """Return a column of weights ``[rows]``, 1 without one; none is missing or negative."""
    if name is None:
        return np.ones(batch.num_rows)
    weight, column = _float32_numbers(schema, batch, name), batch.column(name)
    _reject(~(weight >= 0), name, lambda row: column[row].as_py(), "a weight: expected a number from 0")
    return weight


def row_weights(schema: Schema, batch: pa.RecordBatch, own: str | None) -> Floats:
    """Return the weights of the rows of a task ``[rows]``: the row weight times those of the task's own column."""
    return weight_column(schema, batch, schema.weight) * weight_column(schema, batch, own)


def _float32_numbers(schema: Schema, batch: pa.RecordBatch, name: str) -> Floats:
    values = as_numbers(batch.column(name), name, schema.decimal)
    too_large = np.abs(values) > FLOAT32_MAX  # training, in float32, would take them for infinite
    _reject(too_large, name, lambda row: float(values[row]), f"a number of at most {FLOAT32_MAX:.2g}")
    return values


def group_hashes(group: str | None, batch: pa.RecordBatch, rows: RowNumbers) -> npt.NDArray[np.uint64]:
    """Return the hash of each row's group, or else of its number ``[rows]``, given the numbers of the rows."""
    hashes = stable_hash(rows)
    if group is not None:
        values, codes = as_text(batch.column(group), group)
        grouped = codes >= 0
        hashes[grouped] = stable_hash(values)[codes[grouped]]
    return hashes


def _reject(bad: npt.NDArray[np.bool_], column: str, value: Callable[[int], object], expected: str) -> None:
    """Raise `BadValueError` for the first bad row, if there is any."""
    if bad.any():
        row = int(bad.argmax())
        raise BadValueError(row, column, value(row), expected, bad)
