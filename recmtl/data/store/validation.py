"""What the columns of prepared rows may hold: a file that is whole may still be a stranger's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.categorical import PADDING
from recmtl.data.store.layout import IDS, KEY_PREFIX, LABELS, NUMERIC, WEIGHT
from recmtl.schema import FittedSchema, MultiCategorical


class RowValidator:
    """Says what is wrong with prepared rows.

    Args:
        schema: The fitted schema that encoded them.

    Attributes:
        row_bytes: What a row takes at least.
    """

    def __init__(self, schema: FittedSchema) -> None:
        blocks = schema.id_blocks
        lengths = [block.length for block in blocks]
        padded = [isinstance(block.feature, MultiCategorical) for block in blocks]
        # Ids are compared as numbers without a sign, from the least that may stand in their column.
        self._least = np.repeat([PADDING if p else 0 for p in padded], lengths).astype(np.int32)
        self._counts = (np.repeat([block.size for block in blocks], lengths) - self._least).astype(np.uint32)
        names = schema.schema.labels
        self._binary = np.array([name in schema.schema.binary_labels for name in names])
        widths = {IDS: (pa.int32(), schema.id_columns), NUMERIC: (pa.float32(), schema.numeric_columns)}
        widths[LABELS] = pa.float32(), len(names)
        self._types = {name: pa.list_(kind, width) for name, (kind, width) in widths.items() if width}
        if schema.schema.weight:
            self._types[WEIGHT] = pa.float32()
        self.row_bytes = 4 * (sum(width for _, width in widths.values()) + bool(schema.schema.weight))
        self._keys = {KEY_PREFIX + key: key in schema.integer_keys for key in schema.schema.carried}

    def check_columns(self, columns: pa.Schema) -> None:
        """Check that columns are those of the schema.

        Raises:
            ValueError: They are not.
        """
        if columns.names != [*self._types, *self._keys]:
            raise ValueError(f"it has the columns {columns.names}, expected {[*self._types, *self._keys]}")
        for name, kind in self._types.items():
            if columns.field(name).type != kind:
                raise ValueError(f"its column {name!r} is {columns.field(name).type}, expected {kind}")
        for name, integer in self._keys.items():
            kind = columns.field(name).type
            if not (pa.types.is_int64(kind) if integer else pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ValueError(f"its column {name!r} is {kind}, expected {'integers' if integer else 'text'}")

    def fault(self, batch: pa.RecordBatch) -> str | None:
        """Say what is wrong with rows; ``None`` where nothing is."""
        try:
            for name in batch.schema.names:
                batch.column(name).validate(full=name in self._keys)
        except pa.ArrowInvalid as error:
            return " ".join(str(error).split())
        blocks = {name: _matrix(batch.column(name)) for name in self._types}
        if any(block is None for block in blocks.values()):
            return "a value is missing"
        return self._fault({name: block for name, block in blocks.items() if block is not None})

    def _fault(self, blocks: dict[str, npt.NDArray[Any]]) -> str | None:
        if IDS in blocks and ((blocks[IDS] - self._least).view(np.uint32) >= self._counts).any():
            return "an id is outside its vocabulary"
        if NUMERIC in blocks and not np.isfinite(blocks[NUMERIC]).all():
            return "a number is not finite"
        labels = blocks[LABELS][:, self._binary]
        if not ((labels == 0) | (labels == 1) | np.isnan(labels)).all():
            return "a binary label is not 0 or 1"
        if WEIGHT in blocks and not (blocks[WEIGHT] >= 0).all():
            return "a row weight is not a number from 0"
        return None


def _matrix(column: pa.Array) -> npt.NDArray[Any] | None:
    """The values ``[rows, width]`` of a column that has no gaps."""
    values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    if column.null_count or values.null_count:
        return None
    matrix: npt.NDArray[Any] = values.to_numpy().reshape(len(column), -1)
    return matrix
