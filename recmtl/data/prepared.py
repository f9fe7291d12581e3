"""A prepared dataset: encoded rows on disk or in memory, and the fitted schema that encoded them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc
import torch
from torch import Tensor

from recmtl.data.encode import IDS, KEY_PREFIX, LABELS, NUMERIC, WEIGHT
from recmtl.data.errors import DataError
from recmtl.schema import FittedSchema

MANIFEST = "manifest.json"
VERSION = 2


class Rows:
    """The encoded rows of one split.

    Args:
        schema: The fitted schema that encoded them.
        table: The columns that `Encoder.encode` gives; memory-mapped tables are read when they are used.
        name: The split's name.
    """

    def __init__(self, schema: FittedSchema, table: pa.Table, name: str = "rows") -> None:
        self.schema, self.table, self.name = schema, table, name

    def __len__(self) -> int:
        return int(self.table.num_rows)

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
        """
        spans = [(0, len(self))] if spans is None else spans
        matrix = np.empty((sum(end - start for start, end in spans), sum(self.widths.values())), np.int32)
        row = 0
        for start, end in spans:
            table, column = self.table.slice(start, end - start), 0
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
        """Open a prepared dataset; its rows stay on disk until they are used.

        Raises:
            DataError: The folder is missing, incomplete, damaged, or was written by another version.
            SchemaError: The fitted schema in it cannot be read.
        """
        folder = Path(folder)
        manifest = _manifest(folder)
        schema = FittedSchema.load(folder)
        if schema.fingerprint != manifest["fingerprint"]:
            raise DataError(
                f"the prepared dataset {str(folder)!r} is damaged: its schema is not the one of its manifest"
            )
        splits = {}
        for name, split in manifest["splits"].items():
            table = _map(folder / split["file"])
            if table.num_rows != split["rows"]:
                raise DataError(f"{folder / split['file']} is damaged: {table.num_rows} rows, expected {split['rows']}")
            splits[name] = Rows(schema, table, name)
            for part, width in splits[name].widths.items():
                if width and part not in table.column_names:
                    raise DataError(f"{folder / split['file']} is damaged: it lacks the column {part!r}")
        return cls(schema, splits, tuple(manifest["notes"]))


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{str(folder)!r} is not a prepared dataset: it has no {MANIFEST}") from None
    except ValueError as error:
        raise DataError(f"{folder / MANIFEST} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise DataError(f"{str(folder)!r} was prepared by another version: prepare the data again")
    if not {"fingerprint", "splits", "notes"} <= set(manifest):
        raise DataError(f"{folder / MANIFEST} is damaged: it lacks the fingerprint, the splits or the notes")
    return manifest


def _map(path: Path) -> pa.Table:
    try:
        return ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
