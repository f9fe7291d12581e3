"""Encode a batch of raw rows by a fitted schema as the columns of a split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.categorical import encode_ids
from recmtl.data.columns.classes import class_codes
from recmtl.data.columns.id_lists import Ids
from recmtl.data.columns.numeric import encode_numbers
from recmtl.data.columns.values import as_integers, as_text
from recmtl.data.columns.variation import OTHER_CLASS, EncodingFindings
from recmtl.data.preparation.convert import label_column, weight_column
from recmtl.data.preparation.label_rates import encode_label_rates
from recmtl.data.store.format import (
    KEY_PREFIX,
    LABELS,
    NUMERIC,
    TASK_WEIGHTS,
    WEIGHT,
    from_matrix,
    id_columns,
    to_matrix,
)
from recmtl.schema import FittedSchema


def encode_batch(
    fitted: FittedSchema,
    batch: pa.RecordBatch,
    rates: Callable[[Ids], npt.NDArray[np.float32]] | None = None,
    findings: EncodingFindings | None = None,
) -> pa.RecordBatch:
    """Encode a batch of raw columns as the columns of a split, which `check_encoded` lists.

    Labels, weights and keys may be absent, as in rows to predict: then labels are missing (NaN) and weights 1. `rates`
    encodes ids as label rates; ``None`` takes those of all training rows. `findings` counts the rows that are not read
    as they are.
    """
    schema, present = fitted.schema, set(batch.schema.names)
    missing = np.full(batch.num_rows, np.nan)
    labels = [label_column(schema, batch, name) if name in present else missing for name in schema.labels]
    (ids, lists), numbers = encode_ids(fitted, batch, findings), [encode_numbers(batch, fitted, findings)]
    if findings:
        findings.add_rows(ids, lists, labels)
        for name in schema.class_labels.keys() & present:
            findings.add(name, OTHER_CLASS, class_codes(batch.column(name), schema.class_labels[name])[1])
    if fitted.rated_blocks:
        numbers.append(rates(ids) if rates else encode_label_rates(fitted, ids))
    columns = id_columns(fitted, ids, lists)
    if fitted.numeric_columns:
        columns[NUMERIC] = from_matrix(np.hstack(numbers) if len(numbers) > 1 else numbers[0])
    columns[LABELS] = from_matrix(np.column_stack(labels).astype(np.float32))
    weights = {name: weight_column(schema, batch, name if name in present else None) for name in schema.weights}
    if schema.weight:
        columns[WEIGHT] = pa.array(weights[schema.weight].astype(np.float32))
    if schema.task_weights:
        own = np.column_stack([weights[name] for name in schema.task_weights])
        columns[TASK_WEIGHTS] = from_matrix(own.astype(np.float32))
    for key in schema.carried:
        if key in present:
            columns[KEY_PREFIX + key] = _encode_key(fitted, batch.column(key), key)
    return pa.RecordBatch.from_pydict(columns)


def _encode_key(fitted: FittedSchema, column: pa.Array, key: str) -> pa.Array:
    """Return a carried column as integers if the training rows had nothing else, otherwise as text."""
    if key in fitted.integer_keys and pa.types.is_int64(column.type):
        missing = column.is_null().to_numpy(zero_copy_only=False)
        return pa.array(column.fill_null(0).to_numpy(), mask=missing) if column.null_count else column
    values, codes = as_text(column, key)
    if key in fitted.integer_keys:
        values = as_integers(values, codes, key)
    return values.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


def select_rows(encoded: pa.RecordBatch, mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """Return the rows of an encoded batch that a mask selects."""
    rows = np.flatnonzero(mask)

    def selected(column: pa.Array) -> pa.Array:
        if pa.types.is_fixed_size_list(column.type):
            return from_matrix(to_matrix(column).take(rows, axis=0))  # far faster than Arrow's filter
        return column.filter(pa.array(mask))

    return pa.RecordBatch.from_arrays([selected(column) for column in encoded.columns], encoded.schema.names)
