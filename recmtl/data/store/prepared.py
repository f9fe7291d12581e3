"""A prepared dataset: encoded rows on disk or in memory, and the fitted schema that encoded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recmtl.data.store.layout import IDS, KEY_PREFIX, LABELS, NUMERIC, WEIGHT
from recmtl.data.store.manifest import read_manifest
from recmtl.data.store.shard import Shard
from recmtl.errors import DataError
from recmtl.schema import FittedSchema
from recmtl.schema.serialization import load_fitted


class Rows:
    """The encoded rows of one split.

    Args:
        schema: The fitted schema that encoded them.
        table: The columns that `Encoder.encode` gives, or the file that they are read from when they are used.
        name: The split's name.
    """

    def __init__(self, schema: FittedSchema, table: pa.Table | Shard, name: str = "rows") -> None:
        self.schema, self.name = schema, name
        self._shard = table if isinstance(table, Shard) else None
        self._table: pa.Table = table.table if isinstance(table, Shard) else table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def table(self) -> pa.Table:
        """All columns.

        Raises:
            DataError: The file is damaged.
        """
        self.check([(0, len(self))])
        return self._table

    def check(self, spans: Sequence[tuple[int, int]]) -> None:
        """Check rows that come from a file, where nobody has: that they are as they were written, and can be used.

        Args:
            spans: Where the rows begin and end, span after span.

        Raises:
            DataError: The file is damaged.
        """
        if self._shard is not None:
            self._shard.check(spans)

    @property
    def widths(self) -> dict[str, int]:
        """The parts of a packed row, in order, and their widths."""
        columns = {
            IDS: self.schema.id_columns,
            NUMERIC: self.schema.numeric_columns,
            LABELS: len(self.schema.schema.labels),
        }
        return columns | ({WEIGHT: 1} if self.schema.schema.weight else {})

    def packed(self, spans: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Give rows as one row-major matrix, so that a batch is one gather.

        Args:
            spans: Where the rows begin and end, span after span; ``None`` takes all.

        Shape:
            - output: int32 ``[rows, Σ widths]``; floats stand in it bit by bit.

        Raises:
            DataError: The file is damaged where these rows lie.
        """
        spans = [(0, len(self))] if spans is None else spans
        self.check(spans)
        matrix = np.empty((sum(end - start for start, end in spans), sum(self.widths.values())), np.int32)
        row = 0
        for start, end in spans:
            table, column = self._table.slice(start, end - start), 0
            for name, width in self.widths.items():
                if width:
                    fill(matrix[row : row + end - start, column : column + width], table.column(name))
                column += width
            row += end - start
        return torch.from_numpy(matrix)

    @cached_property
    def labels(self) -> dict[str, npt.NDArray[np.float64]]:
        """The label columns ``[rows]``, NaN where a label is missing."""
        names = self.schema.schema.labels
        block = np.empty((len(self), len(names)), np.int32)
        fill(block, self.table.column(LABELS))
        values = block.view(np.float32).astype(np.float64)
        return {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}

    @cached_property
    def weight(self) -> npt.NDArray[np.float64] | None:
        """The row weights ``[rows]``, ``None`` where the schema names no column for them."""
        if not self.schema.schema.weight:
            return None
        return np.asarray(self.table.column(WEIGHT).to_numpy(), dtype=np.float64)

    @property
    def keys(self) -> pa.Table:
        """The columns carried through, under their own names."""
        names = [n for n in self.table.column_names if n.startswith(KEY_PREFIX)]
        return self.table.select(names).rename_columns([n.removeprefix(KEY_PREFIX) for n in names])


def fill(block: npt.NDArray[np.int32], column: pa.ChunkedArray) -> None:
    """Copy the values of a prepared column, bit by bit, into a block ``[rows, width]``."""
    row = 0
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk
        part = block[row : row + len(chunk)]
        part[:] = values.to_numpy().view(np.int32).reshape(part.shape)
        row += len(chunk)


@dataclass(frozen=True)
class PreparedData:
    """A prepared dataset.

    Args:
        schema: The fitted schema.
        splits: The rows of each split: ``train``, and ``valid`` and ``test`` where there are any.
        notes: What was noticed while fitting: columns and tasks without information, rows that contradict the funnel.
    """

    schema: FittedSchema
    splits: Mapping[str, Rows]
    notes: tuple[str, ...] = ()

    @property
    def train(self) -> Rows:
        """The training rows."""
        return self._split("train")

    @property
    def valid(self) -> Rows:
        """The validation rows: the validation file's, or those held out of the training file."""
        return self._split("valid")

    @property
    def test(self) -> Rows:
        """The test rows."""
        return self._split("test")

    def _split(self, name: str) -> Rows:
        if name not in self.splits:
            raise DataError(f"this prepared dataset has no {name} rows: it has {', '.join(self.splits)}")
        return self.splits[name]

    @classmethod
    def open(cls, folder: str | Path) -> PreparedData:
        """Open a prepared dataset; its rows stay on disk until they are used, and are checked then.

        Raises:
            DataError: The folder is missing, incomplete, damaged, or was written by another version.
            SchemaError: The fitted schema in it cannot be read.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        schema = load_fitted(folder)
        if schema.fingerprint != manifest.fingerprint:
            raise DataError(f"{str(folder)!r} is damaged, prepare the data again: its schema is another's")
        splits = {
            name: Rows(schema, Shard(folder / f"{name}.arrow", schema, *split), name)
            for name, split in manifest.splits.items()
        }
        return cls(schema, splits, tuple(manifest.notes))

    def check(self) -> None:
        """Check all rows, where that was not done yet.

        Raises:
            DataError: A file is damaged.
        """
        for rows in self.splits.values():
            rows.check([(0, len(rows))])
