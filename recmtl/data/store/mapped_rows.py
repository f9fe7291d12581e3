"""Rows copied out of the memory map of a split: those anywhere in it, in time that other rows do not add to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recmtl.data.store.lists import IdLists

Integers = npt.NDArray[np.int64]
Which = Sequence[tuple[int, int]] | Integers
"""Rows: ranges, each from its first row up to an end, or the numbers of rows in any order."""


class Piece(NamedTuple):
    """Rows of one record batch."""

    chunk: pa.RecordBatch
    rows: slice | Integers  # in the record batch
    places: slice | Integers  # among the rows that are asked for


class Picked(NamedTuple):
    """Rows that are asked for."""

    pieces: list[Piece]  # in the order in which they are stored
    rows: int
    order: Tensor | None = None  # the rows in the order of the pieces, if it is another: int64 [rows]


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

    def picked(self, which: Which) -> Picked:
        """Find rows in the record batches."""
        if isinstance(which, np.ndarray):
            order = np.argsort(which, kind="stable")
            pieces = [Piece(chunk, rows, order[places]) for chunk, rows, places in self._of_rising(which[order])]
            return Picked(pieces, len(which), torch.from_numpy(np.argsort(order, kind="stable")))
        pieces, place = [], 0
        for chunk, rows in (piece for span in which for piece in self._of_span(*span)):
            pieces.append(Piece(chunk, rows, slice(place, place := place + rows.stop - rows.start)))
        return Picked(pieces, place)

    def _of_rising(self, rising: Integers) -> Iterator[tuple[pa.RecordBatch, Integers, slice]]:
        for table, in_table in filled(rising, self._starts):
            chunks, starts = self._chunks(table)
            for chunk, own in filled(rising[in_table], starts):
                places = slice(in_table.start + own.start, in_table.start + own.stop)
                yield chunks[chunk], rising[places] - starts[chunk], places

    def _of_span(self, start: int, end: int) -> Iterator[tuple[pa.RecordBatch, slice]]:
        while start < end:
            chunks, starts = self._chunks(int(np.searchsorted(self._starts, start, side="right")) - 1)
            chunk = int(np.searchsorted(starts, start, side="right")) - 1
            first, stop = starts[chunk : chunk + 2].tolist()
            yield chunks[chunk], slice(start - first, min(end, stop) - first)
            start = stop

    def _chunks(self, table: int) -> tuple[list[pa.RecordBatch], Integers]:
        """Return the record batches of a table, and the first row of each, then that behind the last."""
        if table not in self._known:
            chunks = [chunk for chunk in self._table(table).to_batches() if chunk.num_rows]
            self._known[table] = chunks, self._starts[table] + np.cumsum([0, *(chunk.num_rows for chunk in chunks)])
        return self._known[table]

    def fill(self, matrix: npt.NDArray[np.int32], picked: Picked) -> None:
        """Copy the columns of rows, bit by bit, into the first columns of a matrix ``[rows, ≥ Σ widths]``."""
        for chunk, rows, places in picked.pieces:
            start = 0
            for name in self._columns:
                values = _matrix(chunk.column(name))
                matrix[places, start : start + values.shape[1]] = values[rows]
                start += values.shape[1]

    def lists(self, picked: Picked) -> tuple[IdLists, ...]:
        """Copy the lists of rows."""
        found = []
        for name in self._lists:
            parts = [_list_values(chunk.column(name), rows) for chunk, rows, _ in picked.pieces]
            values = np.concatenate([np.empty(0, np.int32), *(values for values, _ in parts)])
            lengths = np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in parts)])
            own = IdLists.of_lengths(torch.from_numpy(values), torch.from_numpy(lengths))
            found.append(own if picked.order is None else own.take(picked.order))
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
