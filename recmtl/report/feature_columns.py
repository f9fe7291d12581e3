"""Feature values of predicted rows, from keys, prepared rows or raw rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data import Rows
from recmtl.data.columns.restore_numbers import restored
from recmtl.data.columns.values import as_lists, as_numbers
from recmtl.data.sources.base import Source
from recmtl.data.store.format import IDS, NUMERIC, to_matrix
from recmtl.errors import BadValueError, DataError, unreadable
from recmtl.evaluate.predictions import Predictions
from recmtl.evaluate.scores import Floats, Integers
from recmtl.evaluate.slices import MISSING_VALUE, MOST_SLICES, FeatureValues, range_names
from recmtl.evaluate.task_columns import read_label
from recmtl.schema import Binned, Categorical, FittedSchema, IdBlock, MultiCategorical, Numeric, Schema, SchemaError
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

UNKNOWN_NAME = "(unknown)"
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FLOAT32_DIGITS = 6  # after the first
COUNTED_FROM_ONE = ("day", "month", "quarter")


def key_values(predictions: Predictions, name: str) -> FeatureValues:
    """Return the values of a key column of predictions."""
    return _of_text(predictions.keys[name], name)


def prepared_values(rows: Rows, name: str) -> FeatureValues:
    """Return the values of a feature of prepared rows, decoded with the fitted schema.

    A missing number is the value that it was filled in with, unless the feature has a missing indicator. Of a date,
    `name` is one of its parts, such as ``time.hour``.
    """
    schema = rows.schema
    blocks = {block.name: block for block in schema.id_blocks}
    numeric = {feature.name: feature for feature in schema.numeric}
    if name in blocks:
        return _of_ids(rows, blocks[name])
    if name in numeric:
        return FeatureValues.of_numbers(_prepared_numbers(rows, numeric[name]))
    raise SchemaError(f"`--slice`: there is no feature {name!r}, expected one of {', '.join([*blocks, *numeric])}")


def raw_values(sources: Sequence[Source], schema: Schema, name: str, predictions: Predictions) -> FeatureValues:
    """Return the values of a column of raw rows, which must be the predicted rows; the model may not use the column."""
    for source in sources:
        if name not in source.columns:
            raise SchemaError(f"`--slice`: there is no column {name!r} in {source.name}")
    feature = next((f for f in schema.features if f.name == name), None)
    labels = [label for label in schema.labels if all(label in source.columns for source in sources)]
    plain = {*labels} - schema.class_labels.keys()
    numbers = frozenset({*plain, name} if isinstance(feature, Numeric | Binned) else plain)
    where = ", ".join(source.name for source in sources)
    try:
        table = _read_columns(sources, list(dict.fromkeys([name, *labels])), numbers)
        found = {label: read_label(schema, table, label, label, where) for label in labels}
        check_predicted_rows(found, len(table), predictions, where)
        if isinstance(feature, Numeric | Binned):
            return FeatureValues.of_numbers(as_numbers(table[name].combine_chunks(), name, schema.decimal))
        if isinstance(feature, MultiCategorical):
            nulls = schema.text_format.null_words
            values, codes, lengths = as_lists(table[name].combine_chunks(), feature.separator, name, nulls)
            return _of_lists(values.to_pylist(), codes, lengths)
        return _of_text(table[name], name)
    except BadValueError as bad:
        raise DataError(f"{where}, {bad}") from bad
    except (OSError, pa.ArrowException) as error:
        raise unreadable(where, error) from error


def _read_columns(sources: Sequence[Source], columns: Sequence[str], numbers: frozenset[str]) -> pa.Table:
    batches = [batch for source in sources for batch in source.batches(columns, numbers)]
    return (
        pa.Table.from_batches(batches).unify_dictionaries() if batches else pa.table({column: [] for column in columns})
    )


def check_predicted_rows(labels: dict[str, Floats], rows: int, predictions: Predictions, where: str) -> None:
    """Check that rows are those that were predicted, by their number and labels."""
    predicted = len(next(iter(predictions.labels.values())))
    if rows != predicted:
        raise DataError(f"{where} has {rows:,} rows, expected the {predicted:,} that were predicted")
    for name, values in labels.items():
        differs = ~np.isclose(values, predictions.labels[name], rtol=1e-6, equal_nan=True)
        if differs.any():
            row = int(differs.argmax())
            raise DataError(
                f"{where}, row {row + 1}, column {name!r}: {values[row]:g}, but the predicted row has "
                f"{predictions.labels[name][row]:g}: expected the predicted rows in the same order"
            )


def _of_text(column: pa.ChunkedArray, name: str) -> FeatureValues:
    """Return the values of any column; many distinct numbers are binned."""
    found = FeatureValues.of_text(column, name)
    texts = found.names[:-1]  # without that of missing values
    if len(texts) > MOST_SLICES:
        with suppress(pa.ArrowInvalid):
            numbers = pa.array(texts, pa.string()).cast(pa.float64()).to_numpy()
            return FeatureValues.of_numbers(np.append(numbers, np.nan)[found.codes])
    return found


def _of_lists(names: Sequence[str | None], codes: Integers, lengths: Integers) -> FeatureValues:
    """Return the values of lists; a row may have any number of them."""
    empty = np.flatnonzero(lengths == 0)
    rows = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), empty])
    texts = [MISSING_VALUE if name is None else name for name in names]
    return FeatureValues(
        [*texts, MISSING_VALUE], np.concatenate([codes, np.full(len(empty), len(names))]), rows, len(lengths)
    )


def _of_ids(rows: Rows, block: IdBlock) -> FeatureValues:
    if block.listed:
        lists = rows.lists()[block.start]
        ids, row = lists.values.numpy(), np.repeat(np.arange(len(rows)), lists.offsets.diff().numpy())
    else:
        ids, row = _encoded(rows, IDS, block.start)[:, 0], np.arange(len(rows))
    known, codes = np.unique(ids, return_inverse=True)
    return FeatureValues(_id_names(known, block, rows.schema), codes, row, len(rows))


def _id_names(ids: Integers, block: IdBlock, schema: FittedSchema) -> list[str]:
    """Return the values that sorted ids stand for."""
    places = ids[ids >= FIRST] - FIRST
    if block.part is not None:
        known = [WEEKDAYS[p] if block.part == "weekday" else str(p + (block.part in COUNTED_FROM_ONE)) for p in places]
    elif isinstance(block.feature, Binned):
        named = range_names(np.array(schema.quantiles[block.feature.name]))
        known = [named[p] for p in places]
    elif isinstance(block.feature, Categorical) and not schema.schema.owner(block.feature).hash_buckets:
        known = schema.vocabularies[schema.schema.owner(block.feature).name].take(pa.array(places)).to_pylist()
    else:
        known = [f"bucket {p}" for p in places]
    reserved = {UNKNOWN: UNKNOWN_NAME, MISSING: MISSING_VALUE}
    return [reserved[i] for i in ids[ids < FIRST].tolist()] + known


def _prepared_numbers(rows: Rows, feature: Numeric) -> Floats:
    schema, place = rows.schema, rows.schema.numeric.index(feature)
    numbers = restored(_encoded(rows, NUMERIC, place)[:, 0].astype(float), feature, schema)
    # Among knots a number is as exact as it is large; otherwise all are as exact as the largest.
    sizes = np.abs(numbers) if feature.transform == "knots" else np.full(len(numbers), np.abs(numbers).max(initial=0))
    unit = 10.0 ** (np.floor(np.log10(np.where(sizes > 0, sizes, 1.0))) - FLOAT32_DIGITS)
    numbers = np.round(numbers / unit) * unit + 0.0  # no -0
    if not feature.missing_indicator:
        return numbers
    indicated = [f for f in schema.numeric if f.missing_indicator]
    missing = _encoded(rows, NUMERIC, len(schema.numeric) + indicated.index(feature))[:, 0]
    return np.where(missing == 1, np.nan, numbers)


def _encoded(rows: Rows, name: str, start: int, length: int = 1) -> npt.NDArray[Any]:
    """Return consecutive columns of the encoded ids or numbers, ``[rows, length]``."""
    return np.concatenate([to_matrix(chunk)[:, start : start + length] for chunk in rows.table[name].chunks])
