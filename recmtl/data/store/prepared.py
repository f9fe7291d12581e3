"""A prepared dataset: encoded rows on disk or in memory, and the fitted schema that encoded them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from recmtl.data.store.format import (
    IDS,
    KEY_PREFIX,
    LABELS,
    LIST_PREFIX,
    NUMERIC,
    SPLIT_NAMES,
    TASK_WEIGHTS,
    WEIGHT,
    Manifest,
    ShardFile,
    file_digest,
    read_manifest,
    shard_file,
)
from recmtl.data.store.group_numbers import group_numbers
from recmtl.errors import DataError, counted
from recmtl.schema import SAMPLING_WEIGHT, FittedSchema, Thinning
from recmtl.schema.serialization import load_fitted

if TYPE_CHECKING:  # loaded when first used: it takes a second, and preparing rows does not need it
    from torch import Tensor

    from recmtl.data.store.lists import IdLists
    from recmtl.data.store.mapped_rows import MappedRows, Which

GROUPS = "groups"  # of packed rows


class Rows:
    """The encoded rows of one split.

    Args:
        schema: The fitted schema that encoded them.
        table: The encoded columns, or the files that hold them one after the other, each of which is read when one of
            its rows is used first.
        name: The split's name.
        thinning: How their file was thinned; ``None`` if it was not.
    """

    def __init__(
        self,
        schema: FittedSchema,
        table: pa.Table | Sequence[pa.Table | ShardFile],
        name: str = "rows",
        thinning: Thinning | None = None,
    ) -> None:
        self.schema, self.name, self.thinning = schema, name, thinning
        self._shards: list[pa.Table | ShardFile] = [table] if isinstance(table, pa.Table) else [*table]
        self._starts = np.cumsum([0, *(shard.num_rows for shard in self._shards)])  # of the shards, and the end

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Rows({self.name}: {counted(len(self), 'row')}; {summary(self.schema)})"

    @cached_property
    def table(self) -> pa.Table:
        """All columns. Files are checked the first time, then mapped into memory.

        Raises:
            DataError: A file is damaged.
        """
        return pa.concat_tables([self._shard(number) for number in range(len(self._shards))])

    @cached_property
    def _tables(self) -> dict[int, pa.Table]:
        return {}

    def _shard(self, number: int) -> pa.Table:
        """Return the columns of a shard."""
        if number not in self._tables:
            shard = self._shards[number]
            self._tables[number] = shard.read() if isinstance(shard, ShardFile) else shard
        return self._tables[number]

    def span(self, start: int, end: int) -> Rows:
        """Return the rows from one up to another, without a copy; files that hold none of them are not read."""
        shards = [(number, int(self._starts[number])) for number in range(len(self._shards))]
        tables = [
            self._shard(number).slice(max(0, start - first), end - max(start, first))
            for number, first in shards
            if max(start, first) < min(end, first + self._shards[number].num_rows)
        ]
        return Rows(self.schema, tables or self._shard(0).slice(0, 0), self.name, self.thinning)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 that identifies the rows and their thinning: rows in memory have that of their files."""
        shards = [shard.sha256 if isinstance(shard, ShardFile) else file_digest(shard) for shard in self._shards]
        thinning = None if self.thinning is None else self.thinning.to_dict()
        return hashlib.sha256(json.dumps([shards, thinning]).encode()).hexdigest()

    @property
    def widths(self) -> dict[str, int]:
        """The parts of a packed row, in order, and their widths."""
        columns = {
            IDS: self.schema.id_columns,
            NUMERIC: self.schema.numeric_columns,
            LABELS: len(self.schema.schema.labels),
        }
        columns |= {WEIGHT: 1} if self.schema.schema.weight else {}
        columns |= {TASK_WEIGHTS: own} if (own := len(self.schema.schema.task_weights)) else {}
        return columns | ({SAMPLING_WEIGHT: 1} if self.thinning else {})

    def packed(self, which: Which | None = None, groups: npt.NDArray[np.int64] | None = None) -> Tensor:
        """Copy rows into one row-major matrix, so that a batch is one gather.

        Args:
            which: First row and end of each range of rows, or their rising numbers, int64 ``[n]``; ``None`` takes all.
            groups: The group of each of the rows ``[rows]``, which is then the last column; ``None`` leaves it out.

        Shape:
            - output: int32 ``[n, Σ widths]``; floats stand in it bit by bit.

        Raises:
            DataError: The file is damaged.
        """
        import torch

        which = [(0, len(self))] if which is None else which
        bounds = np.cumsum([0, *self.widths.values(), 0 if groups is None else 1]).tolist()
        matrix = self._mapped.matrix(which, bounds[-1])
        places = dict(zip(self.widths, map(slice, bounds, bounds[1:]), strict=False))
        if self.thinning:
            labels = matrix[:, places[LABELS]].view(np.float32).astype(np.float64)
            weight = self.thinning.sampling_weight(dict(zip(self.schema.schema.labels, labels.T, strict=True)))
            matrix[:, places[SAMPLING_WEIGHT].start] = weight.astype(np.float32).view(np.int32)
        if groups is not None:
            numbers = which if isinstance(which, np.ndarray) else np.concatenate([np.arange(*span) for span in which])
            matrix[:, -1] = groups[numbers]
        return torch.from_numpy(matrix)

    def lists(self, which: Which | None = None) -> tuple[IdLists, ...]:
        """Copy the ids of each multi-valued feature in rows, given as in `packed`.

        Raises:
            DataError: The file is damaged.
        """
        return self._mapped.lists([(0, len(self))] if which is None else which)

    @cached_property
    def _mapped(self) -> MappedRows:
        from recmtl.data.store.mapped_rows import MappedRows

        stored = [name for name, width in self.widths.items() if width and name != SAMPLING_WEIGHT]
        lists = [LIST_PREFIX + block.name for block in self.schema.list_blocks]
        return MappedRows(self._starts, self._shard, stored, lists)

    @cached_property
    def bytes_per_row(self) -> float:
        """The bytes of a row in memory, of its lists the mean."""
        lists = (self.table.column(LIST_PREFIX + block.name) for block in self.schema.list_blocks)
        of_lists = sum(8 * len(self) + 4 * sum(len(chunk.flatten()) for chunk in column.chunks) for column in lists)
        return 4 * sum(self.widths.values()) + of_lists / max(1, len(self))

    @cached_property
    def labels(self) -> dict[str, npt.NDArray[np.float64]]:
        """The label columns ``[rows]``, NaN where a label is missing."""
        return _labels(self.schema, self.table)

    @cached_property
    def weight(self) -> npt.NDArray[np.float64] | None:
        """The row weights ``[rows]``, or ``None`` if the schema has no weight column."""
        if not self.schema.schema.weight:
            return None
        return np.asarray(self.table.column(WEIGHT).to_numpy(), dtype=np.float64)

    @cached_property
    def task_weights(self) -> dict[str, npt.NDArray[np.float64]]:
        """The columns of weights of single tasks ``[rows]``."""
        return _matrix(self.table, TASK_WEIGHTS, self.schema.schema.task_weights)

    @cached_property
    def sampling_weight(self) -> npt.NDArray[np.float64] | None:
        """How many rows of the file before it was thinned each row stands for ``[rows]``; ``None`` if it was not."""
        return self.thinning.sampling_weight(self.labels) if self.thinning else None

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """The number of the group of each row ``[rows]``, by the schema's `group`."""
        name = self.schema.schema.group or ""
        return group_numbers(self.table.column(KEY_PREFIX + name), name)

    @property
    def keys(self) -> pa.Table:
        """The columns carried through, under their own names."""
        names = [n for n in self.table.column_names if n.startswith(KEY_PREFIX)]
        return self.table.select(names).rename_columns([n.removeprefix(KEY_PREFIX) for n in names])


def _labels(schema: FittedSchema, table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
    """Return the label columns of encoded rows ``[rows]``."""
    return _matrix(table, LABELS, schema.schema.labels)


def _matrix(table: pa.Table, column: str, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the columns ``[rows]`` of a matrix of floats by name."""
    block = np.empty((table.num_rows, len(names)), np.int32)
    if names:
        _fill(block, table.column(column))
    values = block.view(np.float32).astype(np.float64)
    return {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}


def _fill(block: npt.NDArray[np.int32], column: pa.ChunkedArray) -> None:
    """Copy the values of a prepared column, bit by bit, into a block ``[rows, width]``."""
    row = 0
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk
        part = block[row : row + len(chunk)]
        part[:] = values.to_numpy().view(np.int32).reshape(part.shape)
        row += len(chunk)


def summary(fitted: FittedSchema) -> str:
    """Return the number of features and the names of the tasks in a few words."""
    return f"{counted(len(fitted.schema.features), 'feature')}; tasks {', '.join(t.name for t in fitted.schema.tasks)}"


@dataclass(frozen=True, repr=False)
class PreparedData:
    """A prepared dataset.

    Args:
        schema: The fitted schema.
        splits: The rows of each split: ``train``, and ``valid`` and ``test`` if there are any.
        notes: Findings of fitting: columns and tasks without information, rows that contradict the funnel.
        folder: Where its files lie; ``None`` if it is held in memory.
    """

    schema: FittedSchema
    splits: Mapping[str, Rows]
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    def __repr__(self) -> str:
        rows = " · ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        return f"PreparedData({rows} rows; {summary(self.schema)})"

    def _repr_html_(self) -> str:
        """Return the splits, the kinds of features and the training labels as tables for a notebook."""
        kinds = Counter(type(feature).__name__ for feature in self.schema.schema.features)
        rates = [(t.name, t.label, *self.schema.rate(t)) for t in self.schema.schema.tasks]
        tables = (
            pd.DataFrame({"split": list(self.splits), "rows": map(len, self.splits.values())}),
            pd.DataFrame(kinds.items(), columns=["feature", "columns"]),
            pd.DataFrame(rates, columns=["task", "label", "training rows", "mean"]),
        )
        return "".join(table.to_html(index=False) for table in tables)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that identifies the fitted schema and the rows of all splits."""
        splits = sorted((name, rows.fingerprint) for name, rows in self.splits.items())
        return hashlib.sha256(json.dumps([self.schema.fingerprint, splits]).encode()).hexdigest()

    @property
    def train(self) -> Rows:
        """The training rows."""
        return self._split("train")

    @property
    def valid(self) -> Rows:
        """The validation rows: those of the validation file, or those held out of the training file."""
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
    def open(cls, folder: str | Path, trust: Collection[str] = ()) -> PreparedData:
        """Open a prepared dataset. Its rows stay on disk; the file of a split is checked on first use.

        Args:
            folder: The folder.
            trust: Modules of your own that hold losses of its tasks.

        Raises:
            DataError: The folder is missing, incomplete, damaged, or was written by another version.
            SchemaError: The fitted schema in it cannot be read.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        return cls.stored(folder, manifest, load_fitted(folder, trust))

    @classmethod
    def stored(cls, folder: Path, manifest: Manifest, schema: FittedSchema, mapped: bool = True) -> PreparedData:
        """Return the dataset that a folder holds, given its manifest and fitted schema: `mapped`, or held in memory."""
        splits, thinning = {}, Thinning(**manifest.thinning) if manifest.thinning else None
        for name in SPLIT_NAMES:
            if name in manifest.rows:
                paths = [folder / shard_file(name, number) for number in range(len(manifest.rows[name]))]
                files = [
                    ShardFile(path, schema, rows, *manifest.files[path.name], mapped=mapped)
                    for path, rows in zip(paths, manifest.rows[name], strict=True)
                ]
                splits[name] = Rows(schema, files, name, thinning.of(name) if thinning else None)
        return cls(schema, splits, tuple(manifest.notes), folder if mapped else None)

    def held(self) -> PreparedData:
        """Return the dataset after all of its files have been read, which may then go."""
        self.check()
        return self

    def check(self) -> None:
        """Check the files of all splits.

        Raises:
            DataError: A file is damaged.
        """
        for rows in self.splits.values():
            _ = rows.table
