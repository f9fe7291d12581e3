"""Rows copied out of the memory map of a split: those anywhere in it, in time that other rows do not add to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from recmtl.data.store.lists import IdLists

Integers = npt.NDArray[np.int64]
LONG_RUN = 16  # rows: shorter runs of neighbouring rows are copied row by row
Which = Sequence[tuple[int, int]] | Integers
"""Rows: ranges, each from its first row up to an end, or the rising numbers of rows."""


class Piece(NamedTuple):
    """Rows of one record batch."""

    chunk: pa.RecordBatch
    rows: slice | Integers  # in the record batch


class MappedRows:
    """Copies rows out of the buffers of tables, which may be memory maps.

    Args:
        starts: The first row of each table, and the number of rows ``[tables + 1]``.
        table: Returns one of the tables; others than those that have the rows asked for are not touched.
        columns: The names of the columns with as many values in each row, that are read as matrices.
        lists: The names of those with lists of ids.
    """

    def __init__(
        self, starts: Integers, table: Callable[[int], pa.Table], columns: Sequence[str], lists: Sequence[str]
    ) -> None:
        self._starts, self._table, self._columns, self._lists = starts, table, columns, lists
        self._known: dict[int, tuple[list[pa.RecordBatch], Integers]] = {}

    def _pieces(self, which: Which) -> Iterator[Piece]:
        if isinstance(which, np.ndarray):
            runs = np.flatnonzero(np.diff(which, prepend=-2, append=-2) != 1)  # of neighbouring rows, and the end
            if LONG_RUN * len(runs) > len(which):
                return self._of_rising(which)
            which = [*zip(which[runs[:-1]].tolist(), (which[runs[1:] - 1] + 1).tolist(), strict=True)]
        return (piece for span in which for piece in self._of_span(*span))

    def _of_rising(self, rising: Integers) -> Iterator[Piece]:
        for table, in_table in filled(rising, self._starts):
            chunks, starts = self._chunks(table)
            rows = rising[in_table]
            for chunk, own in filled(rows, starts):
                yield Piece(chunks[chunk], rows[own] - starts[chunk])

    def _of_span(self, start: int, end: int) -> Iterator[Piece]:
        while start < end:
            chunks, starts = self._chunks(int(np.searchsorted(self._starts, start, side="right")) - 1)
            chunk = int(np.searchsorted(starts, start, side="right")) - 1
            first, stop = starts[chunk : chunk + 2].tolist()
            yield Piece(chunks[chunk], slice(start - first, min(end, stop) - first))
            start = stop

    def _chunks(self, table: int) -> tuple[list[pa.RecordBatch], Integers]:
        """Return the record batches of a table, and the first row of each, then the number of rows."""
        if table not in self._known:
            chunks = [chunk for chunk in self._table(table).to_batches() if chunk.num_rows]
            self._known[table] = chunks, self._starts[table] + np.cumsum([0, *(chunk.num_rows for chunk in chunks)])
        return self._known[table]

    def matrix(self, which: Which, width: int) -> npt.NDArray[np.int32]:
        """Copy the columns of rows, bit by bit, to the first columns of a matrix ``[rows, width]``."""
        count = len(which) if isinstance(which, np.ndarray) else sum(end - start for start, end in which)
        matrix, row = np.empty((count, width), np.int32), 0
        for chunk, rows in self._pieces(which):
            start = 0
            for name in self._columns:
                values = _matrix(chunk.column(name))[rows]
                matrix[row : row + len(values), start : start + values.shape[1]] = values
                start += values.shape[1]
            row += rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        return matrix

    def lists(self, which: Which) -> tuple[IdLists, ...]:
        """Copy the lists of rows."""
        found, pieces = [], [*self._pieces(which)] if self._lists else []
        for name in self._lists:
            parts = [_list_values(chunk.column(name), rows) for chunk, rows in pieces]
            values = np.concatenate([np.empty(0, np.int32), *(values for values, _ in parts)])
            lengths = np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in parts)])
            found.append(IdLists.of_lengths(torch.from_numpy(values), torch.from_numpy(lengths)))
        return tuple(found)


def filled(rising: Integers, starts: Integers) -> Iterator[tuple[int, slice]]:
    """Yield the intervals between starts that hold some of rising numbers, and which of them."""
    bounds = np.searchsorted(rising, starts)
    for number in np.flatnonzero(np.diff(bounds)).tolist():
        yield number, slice(*bounds[number : number + 2].tolist())


def _matrix(column: pa.Array) -> npt.NDArray[np.int32]:
    """Return the values of a column, without a copy, as a matrix ``[rows, width]``; floats stand in it bit by bit."""
    values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    matrix: npt.NDArray[np.int32] = values.to_numpy().view(np.int32).reshape(len(column), -1)
    return matrix


def _list_values(column: pa.ListArray, rows: slice | Integers) -> tuple[npt.NDArray[np.int32], Integers]:
    """Return the values of the lists of rows, one list after the other, and their lengths."""
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64)
    if isinstance(rows, slice):
        own = offsets[rows.start : rows.stop + 1]
        return values[own[0] : own[-1]], np.diff(own)
    starts, lengths = offsets[rows], np.diff(offsets)[rows]
    shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return values[shifts + np.arange(len(shifts))], lengths
