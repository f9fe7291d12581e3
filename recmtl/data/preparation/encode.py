"""The second pass: raw columns to the integer and float matrices that training reads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.categorical import encode_ids
from recmtl.data.columns.numeric import encode_numbers
from recmtl.data.columns.values import as_integers, as_text
from recmtl.data.preparation.convert import label_column, weight_column
from recmtl.data.store.format import IDS, KEY_PREFIX, LABELS, NUMERIC, WEIGHT, from_matrix, to_matrix
from recmtl.schema import FittedSchema


def encode_batch(fitted: FittedSchema, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Encode a batch of raw columns.

    Labels, weights and keys may be absent, as in rows to predict: then labels are missing and weights 1.

    Returns:
        The columns ``ids`` (int32 ``[rows, id columns]``), ``numeric`` (float32 ``[rows, numeric columns]``),
        ``labels`` (float32 ``[rows, labels]``, NaN: missing), ``weight`` (float32, only if the schema has one) and
        one column ``key:NAME`` per carried column.
    """
    schema, present = fitted.schema, set(batch.schema.names)
    missing = np.full(batch.num_rows, np.nan)
    labels = [label_column(schema, batch, name) if name in present else missing for name in schema.labels]
    columns: dict[str, pa.Array] = {}
    if fitted.id_columns:
        columns[IDS] = from_matrix(encode_ids(fitted, batch))
    if fitted.numeric:
        columns[NUMERIC] = from_matrix(encode_numbers(batch, fitted))
    columns[LABELS] = from_matrix(np.column_stack(labels).astype(np.float32))
    if schema.weight:
        weight = weight_column(schema, batch) if schema.weight in present else np.ones(batch.num_rows)
        columns[WEIGHT] = pa.array(weight.astype(np.float32))
    for key in schema.carried:
        if key in present:
            columns[KEY_PREFIX + key] = _encode_key(fitted, batch.column(key), key)
    return pa.RecordBatch.from_pydict(columns)


def _encode_key(fitted: FittedSchema, column: pa.Array, key: str) -> pa.Array:
    """Return a carried column as integers if the training rows had nothing else, otherwise as text."""
    if key in fitted.integer_keys and pa.types.is_int64(column.type):
        return column
    values, codes = as_text(column, key)
    if key in fitted.integer_keys:
        values = as_integers(values, codes, key)
    return values.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


def select_rows(encoded: pa.RecordBatch, mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """Return the rows of an encoded batch that a mask selects."""

    def selected(column: pa.Array) -> pa.Array:
        if pa.types.is_fixed_size_list(column.type):
            return from_matrix(to_matrix(column)[mask])  # far faster than Arrow's filter
        return column.filter(pa.array(mask))

    return pa.RecordBatch.from_arrays([selected(column) for column in encoded.columns], encoded.schema.names)
