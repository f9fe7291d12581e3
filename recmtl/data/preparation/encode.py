"""The second pass: raw columns to the integer and float matrices that training reads."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.categorical import encode_ids
from recmtl.data.columns.numeric import encode_numbers
from recmtl.data.columns.values import as_integers, as_text
from recmtl.data.preparation.fit import label_column, weight_column
from recmtl.data.store.format import IDS, KEY_PREFIX, LABELS, NUMERIC, WEIGHT
from recmtl.schema import FittedSchema, Schema


class Encoder:
    """Encodes batches of raw columns by a fitted schema.

    Args:
        fitted: The fitted schema.
    """

    def __init__(self, fitted: FittedSchema) -> None:
        self.fitted = fitted

    def encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Encode a batch of raw columns.

        Labels, weights and keys that the batch lacks are missing, 1 and left out: rows to predict have none.

        Returns:
            The columns ``ids`` (int32 ``[rows, id columns]``), ``numeric`` (float32 ``[rows, numeric columns]``),
            ``labels`` (float32 ``[rows, labels]``, NaN: missing), ``weight`` (float32, only where the schema names
            one) and one column ``key:NAME`` per carried column.

        Raises:
            BadValueError: A value does not parse.
        """
        schema, present = self.fitted.schema, set(batch.schema.names)
        columns: dict[str, pa.Array] = {}
        if self.fitted.id_columns:
            columns[IDS] = _matrix(encode_ids(self.fitted, batch))
        if self.fitted.numeric:
            columns[NUMERIC] = _matrix(encode_numbers(batch, self.fitted))
        columns[LABELS] = _matrix(labels_of(schema, batch, present))
        if schema.weight:
            known = schema.weight in present
            weight = weight_column(schema, batch) if known else np.ones(batch.num_rows)
            columns[WEIGHT] = pa.array(weight.astype(np.float32))
        for key in schema.carried:
            if key in present:
                columns[KEY_PREFIX + key] = self._key(batch.column(key), key)
        return pa.RecordBatch.from_pydict(columns)

    def _key(self, column: pa.Array, key: str) -> pa.Array:
        """A carried column: integers where the training rows had nothing else, or text."""
        if key in self.fitted.integer_keys and pa.types.is_int64(column.type):
            return column
        values, codes = as_text(column, key)
        if key in self.fitted.integer_keys:
            values = as_integers(values, codes, key)
        return values.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


def labels_of(schema: Schema, batch: pa.RecordBatch, present: Collection[str]) -> npt.NDArray[np.float32]:
    """Read the label columns ``[rows, labels]``; those that the batch lacks are all missing."""
    missing = np.full(batch.num_rows, np.nan)
    columns = [label_column(schema, batch, name) if name in present else missing for name in schema.labels]
    return np.column_stack(columns).astype(np.float32)


def _matrix(values: npt.NDArray[np.generic]) -> pa.FixedSizeListArray:
    """A row-major matrix as an Arrow column without a copy."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def chosen(encoded: pa.RecordBatch, rows: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """Give the rows of an encoded batch that a mask chooses."""

    def filtered(column: pa.Array) -> pa.Array:
        if not pa.types.is_fixed_size_list(column.type):
            return column.filter(pa.array(rows))
        return _matrix(column.flatten().to_numpy().reshape(len(column), -1)[rows])  # far faster than Arrow's filter

    return pa.RecordBatch.from_arrays([filtered(column) for column in encoded.columns], encoded.schema.names)
