"""A file of a raw layout in the columns of a card: joined with other files, with labels made of raw ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from recmtl.data.raw.columns import Derived, Mask, RowChoice
from recmtl.data.raw.lookup_table import LookupTable, Positions, read_batches, take_rows
from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError
from recmtl.io.csv_records import MAX_EXAMPLES

Malformed = Callable[[], None] | None


@dataclass(frozen=True)
class Join:
    """A file whose columns are added to the rows that have its key.

    Args:
        table: The file; the columns that are read are held in memory.
        key: The column that tells its rows apart, of that name in the rows as well.
        required: Whether rows without a match are left out and counted; if not, they lack its columns.
    """

    table: Source
    key: str
    required: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it adds."""
        return tuple(name for name in self.table.columns if name != self.key)


class RawSource(Source):
    """The rows of a raw file, streamed, with columns of other files, which are held in memory.

    Args:
        rows: The file of the rows.
        joins: The files to join, each by one key of the rows.
        derived: Further columns, made of raw ones.
        chosen: Which rows belong to the split; ``None`` takes all.
        renamed: The raw column of each column that has another name than in the file.
        columns: The columns, in order; ``None`` takes all.
    """

    parses = True

    def __init__(
        self,
        rows: Source,
        joins: Sequence[Join] = (),
        derived: Mapping[str, Derived] | None = None,
        chosen: RowChoice | None = None,
        renamed: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.name, self._rows, self._joins = rows.name, rows, tuple(joins)
        self._derived, self._chosen, self._raw = dict(derived or {}), chosen, dict(renamed or {})
        named = {raw: name for name, raw in self._raw.items()}
        own = [named.get(name, name) for name in rows.columns]
        self._join_of = {name: i for i, join in reversed([*enumerate(self._joins)]) for name in join.columns}
        for name in (*own, *self._derived):
            self._join_of.pop(name, None)  # a column of the rows goes before one of a table
        self.columns = tuple(columns or dict.fromkeys((*own, *self._join_of, *self._derived)))
        self._bad_ids: dict[int, BadValueError] = {}  # the first rows skipped for a key
        self.unmatched = [0] * len(self._joins)  # rows without a match in the last complete reading, of each join

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Malformed = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, the rest as integers or text; as bytes if that fails."""
        tables, own = self._tables(columns, numbers, malformed is not None), self._own_columns(columns)
        as_numbers = frozenset(self._raw.get(c, c) for c in columns if c in numbers and self._is_own(c))
        read = invalid = kept = 0
        unmatched = np.zeros(len(self._joins), np.int64)
        self._bad_ids = {}
        for batch in read_batches(self._rows, own, as_numbers, malformed):
            found, bad = self._match(tables, batch)
            self._skip_invalid(bad, read, malformed)
            mask = self._mask(batch, found, bad)
            positions = np.flatnonzero(mask)
            good = np.ones(len(mask), np.bool_)
            good[list(bad)] = False
            for i, join in enumerate(self._joins):
                counted = good if join.required else mask
                unmatched[i] += int((counted & (found[i] < 0)).sum())
            read, invalid, kept = read + len(mask), invalid + len(bad), kept + len(positions)
            if len(positions):
                yield self._joined(columns, take_rows(batch, positions), tables, [f[positions] for f in found])
        self.unmatched = unmatched.tolist()
        self._check_joins(read - invalid)
        self.notes = (*self._rows.notes, *chain.from_iterable(table.notes() for table in tables))
        self.notes += tuple(self._unmatched_notes(read, kept))

    def _tables(self, columns: Sequence[str], numbers: frozenset[str], skip: bool) -> list[LookupTable]:
        """Read the files that are joined; of one that is not required, no more than its columns are wanted for."""
        of_join: list[list[str]] = [[] for _ in self._joins]
        for name in columns:
            if name in self._join_of:
                of_join[self._join_of[name]].append(name)
        return [
            LookupTable(join.table, join.key, wanted, numbers, skip)
            for join, wanted in zip(self._joins, of_join, strict=True)
        ]

    def _is_own(self, column: str) -> bool:
        return column not in self._derived and column not in self._join_of

    def _own_columns(self, columns: Sequence[str]) -> list[str]:
        """Return the columns of the rows' file that are needed."""
        own = [self._raw.get(c, c) for c in columns if self._is_own(c)]
        own += [self._derived[c].column for c in columns if c in self._derived]
        return list(dict.fromkeys((*self._placing, *own))) or [self._rows.columns[0]]

    @property
    def _placing(self) -> list[str]:
        """The columns that decide which rows there are."""
        return [*(self._raw.get(j.key, j.key) for j in self._joins), *(self._chosen.columns if self._chosen else ())]

    def _match(
        self, tables: Sequence[LookupTable], batch: pa.RecordBatch
    ) -> tuple[list[Positions], dict[int, BadValueError]]:
        """Return the row of each table for each row (-1: none), and the rows with an invalid key."""
        found, invalid = [], dict[int, BadValueError]()
        for join, table in zip(self._joins, tables, strict=True):
            positions, bad = table.find(batch.column(self._raw.get(join.key, join.key)))
            found.append(positions)
            invalid = bad | invalid
        return found, invalid

    def _mask(self, batch: pa.RecordBatch, found: Sequence[Positions], bad: Mapping[int, BadValueError]) -> Mask:
        """Return which rows are passed on ``[rows]``."""
        mask: Mask = np.ones(batch.num_rows, np.bool_)
        mask[list(bad)] = False
        for join, positions in zip(self._joins, found, strict=True):
            if join.required:
                mask &= positions >= 0
        return mask & self._chosen.mask(batch) if self._chosen else mask

    def _joined(
        self,
        columns: Sequence[str],
        own: Mapping[str, pa.Array],
        tables: Sequence[LookupTable],
        found: Sequence[Positions],
    ) -> pa.RecordBatch:
        """Return the columns of rows, given their own ones and their rows of the tables."""
        joined = [table.take(positions) for table, positions in zip(tables, found, strict=True)]
        arrays = []
        for name in columns:
            if name in self._derived:
                arrays.append(self._derived[name].of(own[self._derived[name].column]))
            elif name in self._join_of:
                arrays.append(joined[self._join_of[name]][name])
            else:
                arrays.append(own[self._raw.get(name, name)])
        return pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def _check_joins(self, rows: int) -> None:
        for join, missing in zip(self._joins, self.unmatched, strict=True):
            if missing and missing == rows and join.required:
                raise DataError(
                    f"no {join.key} of {self.name} is in {join.table.name}: expected files of the same data and split"
                )

    def _unmatched_notes(self, read: int, kept: int) -> Iterator[str]:
        for join, missing in zip(self._joins, self.unmatched, strict=True):
            rows, table, key = f"rows of {self.name}", join.table.name, join.key
            if missing and join.required:
                yield f"{missing:,} of {read:,} {rows} are left out: {table} has no such {key}"
            elif missing:
                yield f"{missing:,} of {kept:,} {rows} lack the columns of {table}, which has no such {key}"

    def _skip_invalid(self, bad: Mapping[int, BadValueError], before: int, malformed: Malformed) -> None:
        """Count rows with an invalid key, or raise the error of the first."""
        for row, fault in bad.items():
            if malformed is None:
                fault.row += before
                raise self._rows.fault(fault)
            malformed()
            if len(self._bad_ids) < MAX_EXAMPLES:
                self._bad_ids[before + row] = fault

    def fault(self, bad: BadValueError) -> DataError:
        """Return the error for a bad value, with its line in the file that it stands in."""
        join, row = self._join_of.get(bad.column), bad.row
        bad = self._as_raw(bad)
        own, found = self._origin(row)
        bad.row = own if join is None else found[join]
        return (self._rows if join is None else self._joins[join].table).fault(bad)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Return why rows were skipped, by line of the rows' file."""
        reasons = dict(self._bad_ids)
        for row, fault in bad.items():
            own, found = self._origin(row, skip=True)
            join = self._join_of.get(fault.column)
            if join is None:
                reasons[own] = self._as_raw(fault)
            else:
                reasons[own] = BadJoinedError(fault, self._joins[join].table.place(found[join]))
        return self._rows.reasons(reasons)

    def place(self, row: int) -> str:
        """Return the line of the rows' file where a row begins."""
        return self._rows.place(self._origin(row)[0])

    def _as_raw(self, bad: BadValueError) -> BadValueError:
        """Return the error of a bad value under the name of its raw column."""
        derived = self._derived.get(bad.column)
        if derived:
            return BadValueError(bad.row, derived.column, bad.value, derived.expected)
        if bad.column in self._raw:
            return BadValueError(bad.row, self._raw[bad.column], bad.value, bad.expected)
        return bad

    def _origin(self, row: int, skip: bool = False) -> tuple[int, list[int]]:
        """Return the rows of the file, and of each table (-1: none), that a row is joined from."""
        tables, before = self._tables((), frozenset(), skip), 0
        placing = self._own_columns(())
        for batch in read_batches(self._rows, placing, frozenset(), (lambda: None) if skip else None):
            found, bad = self._match(tables, batch)
            positions = np.flatnonzero(self._mask(batch, found, bad))
            if row < len(positions):
                return before + int(positions[row]), [int(f[positions[row]]) for f in found]
            row, before = row - len(positions), before + batch.num_rows
        raise IndexError(f"{self.name} has no such row")


class BadJoinedError(BadValueError):
    """A bad value of a row that stands in a file joined with it."""

    def __init__(self, bad: BadValueError, place: str) -> None:
        self._place = place
        super().__init__(bad.row, bad.column, bad.value, bad.expected)

    @property
    def reason(self) -> str:
        """The error, with the place in the other file."""
        return f"joined from {self._place}, {super().reason}"
