"""The second pass: raw columns to the integer and float matrices that training reads."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.errors import BadValueError
from recmtl.data.fit import label_column, weight_column
from recmtl.data.numeric import bins, numbers
from recmtl.data.values import Codes, all_integers, as_lists, as_text, stable_hash
from recmtl.schema import Binned, Categorical, FittedSchema, IdBlock, MultiCategorical, Schema
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

PADDING = -1  # in the columns of a list that is shorter than the longest
IDS, NUMERIC, LABELS, WEIGHT = "ids", "numeric", "labels", "weight"  # the columns of a prepared table
KEY_PREFIX = "key:"  # before the name of a column that is carried through

Ids = npt.NDArray[np.int32]


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
            columns[IDS] = _matrix(self._ids(batch))
        if self.fitted.numeric:
            columns[NUMERIC] = _matrix(numbers(batch, self.fitted))
        columns[LABELS] = _matrix(labels_of(schema, batch, present))
        if schema.weight:
            known = schema.weight in present
            weight = weight_column(schema, batch) if known else np.ones(batch.num_rows)
            columns[WEIGHT] = pa.array(weight.astype(np.float32))
        for key in schema.carried:
            if key in present:
                columns[KEY_PREFIX + key] = self._key(batch.column(key), key)
        return pa.RecordBatch.from_pydict(columns)

    def _ids(self, batch: pa.RecordBatch) -> Ids:
        ids = np.empty((batch.num_rows, self.fitted.id_columns), np.int32)
        for block in self.fitted.id_blocks:
            column = batch.column(block.feature.name)
            if isinstance(block.feature, MultiCategorical):
                ids[:, block.start : block.start + block.length] = self._bag(column, block, block.feature)
            elif isinstance(block.feature, Binned):
                ids[:, block.start] = bins(batch, block.feature, self.fitted)
            else:
                values, codes = as_text(column, block.feature.name)
                ids[:, block.start] = self._lookup(values, block.feature)[codes]
        return ids

    def _bag(self, column: pa.Array, block: IdBlock, feature: MultiCategorical) -> Ids:
        values, codes, lengths = as_lists(column, feature.separator, feature.name)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = position < block.length
        bag = np.full((len(lengths), block.length), PADDING, np.int32)
        bag[lengths == 0, 0] = MISSING
        bag[rows[kept], position[kept]] = self._lookup(values, feature)[codes[kept]]
        return bag

    def _lookup(self, values: pa.StringArray, feature: Categorical) -> Codes:
        """The index of each distinct value, and at the end (position -1) that of "missing"."""
        if feature.hash_buckets:
            indices = (stable_hash(values) % np.uint64(feature.hash_buckets)).astype(np.int64) + FIRST
        else:
            found = pc.index_in(values, self.fitted.vocabularies[feature.name], skip_nulls=True)
            indices = found.fill_null(UNKNOWN - FIRST).to_numpy(zero_copy_only=False).astype(np.int64) + FIRST
        return np.append(indices, MISSING)

    def _key(self, column: pa.Array, key: str) -> pa.Array:
        """A carried column: integers where the training rows had nothing else, or text."""
        values, codes = as_text(column, key)
        if key in self.fitted.integer_keys:
            if not all_integers(values, key):
                bad = next(v for v in values.drop_null().to_pylist() if not all_integers(pa.array([v]), key))
                row = int(np.argmax(codes == values.index(bad).as_py()))
                raise BadValueError(row, key, bad, "an integer, as this key was in the training rows")
            values = values.cast(pa.int64())
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
