"""The raw layout of AliExpress: join items with the user of their search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import Codes, as_text, find_integers
from recmtl.data.sources.aliexpress_layout import (
    CLICK,
    CONVERSION,
    ITEM_COLUMNS,
    PROCESSED_COLUMNS,
    RAW_LABEL,
    SEARCH_ID,
    USER_COLUMNS,
)
from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError, unreadable
from recmtl.io.archives import ZIP_ERRORS
from recmtl.io.csv_records import MAX_EXAMPLES

Positions = npt.NDArray[np.int64]


class RawSource(Source):
    """Raw files as the processed layout: items joined with the user of their search, and click and conversion labels.

    The user file is held in memory, items are streamed. Items without a user are left out and counted.
    """

    parses = True

    def __init__(self, users: Source, items: Source) -> None:
        self.name, self.columns = items.name, PROCESSED_COLUMNS
        self._users, self._items = users, items
        self.unmatched = 0  # items without a user in the last complete reading
        self._bad_ids: dict[int, BadValueError] = {}  # the first items skipped for their search id

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, the rest as integers or text; as bytes if that fails."""
        skip = malformed is not None
        users = UserTable(self._users, [c for c in columns if c in USER_COLUMNS[1:]], numbers, skip)
        wanted = [c for c in columns if c in ITEM_COLUMNS[1:]]
        wanted += [RAW_LABEL] if CLICK in columns or CONVERSION in columns else []
        rows = skipped = unmatched = 0
        self._bad_ids = {}
        for batch in _read_batches(self._items, [SEARCH_ID, *wanted], numbers | {RAW_LABEL}, malformed):
            positions, bad = users.find(batch.column(SEARCH_ID))
            self._skip_invalid(bad, rows, malformed)
            found = np.flatnonzero(positions >= 0)
            rows, skipped = rows + len(positions), skipped + len(bad)
            unmatched += len(positions) - len(found) - len(bad)
            if len(found):
                joined = users.take(positions[found]) | _take(batch, found)
                joined |= _split_label(joined[RAW_LABEL]) if RAW_LABEL in joined else {}
                yield pa.RecordBatch.from_arrays([joined[c] for c in columns], names=list(columns))
        if unmatched and unmatched == rows - skipped:
            raise DataError(
                f"no search id of {self.name} is in {self._users.name}: expected user and item files of the same split"
            )
        self.unmatched = unmatched
        left_out = f"{unmatched:,} of {rows:,} rows of {self.name} are left out: {self._users.name} has no such search"
        self.notes = (*users.notes(), *([left_out] if unmatched else []))

    def _skip_invalid(
        self, bad: Mapping[int, BadValueError], before: int, malformed: Callable[[], None] | None
    ) -> None:
        """Count items with an invalid search id, or raise the error of the first."""
        for row, fault in bad.items():
            if malformed is None:
                fault.row += before
                raise self._items.fault(fault)
            malformed()
            if len(self._bad_ids) < MAX_EXAMPLES:
                self._bad_ids[before + row] = fault

    def fault(self, bad: BadValueError) -> DataError:
        """Return the error for a bad value, with its line in the user or the item file."""
        of_user, bad = bad.column in USER_COLUMNS[1:], _as_raw_label(bad)
        item, user = self._origin(bad.row)
        bad.row = user if of_user else item
        return (self._users if of_user else self._items).fault(bad)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Return why rows were skipped, by line of the item file."""
        items = dict(self._bad_ids)
        for row, fault in bad.items():
            item, user = self._origin(row, skip=True)
            of_user = fault.column in USER_COLUMNS[1:]
            items[item] = BadUserError(fault, self._users.place(user)) if of_user else _as_raw_label(fault)
        return self._items.reasons(items)

    def place(self, row: int) -> str:
        """Return the line of the item file where a row begins."""
        return self._items.place(self._origin(row)[0])

    def _origin(self, row: int, skip: bool = False) -> tuple[int, int]:
        """Return the rows of the item file and the user file that a row is joined from."""
        users, items = UserTable(self._users, [], frozenset(), skip), 0
        for batch in _read_batches(self._items, [SEARCH_ID], frozenset(), (lambda: None) if skip else None):
            positions, _ = users.find(batch.column(SEARCH_ID))
            found = np.flatnonzero(positions >= 0)
            if row < len(found):
                return items + int(found[row]), int(positions[found[row]])
            row, items = row - len(found), items + batch.num_rows
        raise IndexError(f"{self.name} has no such row")


class BadUserError(BadValueError):
    """A bad value of an item, found in the row of its user."""

    def __init__(self, bad: BadValueError, place: str) -> None:
        self._place = place
        super().__init__(bad.row, bad.column, bad.value, bad.expected)

    @property
    def reason(self) -> str:
        """The error without the row of the item."""
        return f"its user in {self._place}, {super().reason}"


def _as_raw_label(bad: BadValueError) -> BadValueError:
    """Return the error of a bad click or conversion as one of the item file's label."""
    if bad.column not in (CLICK, CONVERSION):
        return bad
    return BadValueError(bad.row, RAW_LABEL, bad.value, "0 (shown), 1 (clicked) or 2 (bought)")


def _split_label(array: pa.Array) -> dict[str, pa.Array]:
    """Return click and conversion; an invalid label is passed on, to be reported like any bad label."""
    shown, clicked, bought = (b"0", b"1", b"2") if pa.types.is_binary(array.type) else (0.0, 1.0, 2.0)
    valid = pc.is_in(array, pa.array([shown, clicked, bought]))
    positive = {CLICK: pc.not_equal(array, shown), CONVERSION: pc.equal(array, bought)}
    return {name: pc.if_else(valid, pc.if_else(rows, clicked, shown), array) for name, rows in positive.items()}


class UserTable:
    """The user file in memory, indexed by search id: equal ids with different values are an error.

    `skip` leaves out rows with a wrong number of columns or an invalid search id.
    """

    def __init__(self, source: Source, columns: Sequence[str], numbers: frozenset[str], skip: bool = False) -> None:
        self._source, self._malformed = source, 0
        self._bad_ids: dict[int, BadValueError] = {}
        batches = list(_read_batches(source, [SEARCH_ID, *columns], numbers, self._count if skip else None))
        if not batches:
            raise DataError("; ".join([f"there are no rows in {source.name}", *self.notes()]))
        (self._rows,) = pa.Table.from_batches(_unify_types(batches)).combine_chunks().to_batches()
        ids = self._rows.column(SEARCH_ID)
        self._by_number = pa.types.is_int64(ids.type)
        if self._by_number:
            present = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
            keys = ids.drop_null().to_numpy()
        else:
            values, codes, self._bad_ids = _search_ids(ids)
            if self._bad_ids and not skip:
                raise source.fault(next(iter(self._bad_ids.values())))
            present = np.flatnonzero(codes >= 0)
            keys = values.to_numpy(zero_copy_only=False)[codes[present]]
        repeated = pd.Index(keys).duplicated()
        self._rows_of, self._index = np.append(present[~repeated], -1), pd.Index(keys[~repeated])  # [searches] each
        self._check_repeated(source, present[pd.Index(keys).isin(keys[repeated])])

    def _count(self) -> None:
        self._malformed += 1

    def notes(self) -> list[str]:
        """Return the number of skipped rows and examples; empty if none was skipped."""
        count = self._malformed + len(self._bad_ids)
        if not count:
            return []
        examples = islice(self._source.reasons(self._bad_ids), MAX_EXAMPLES)
        return [f"bad rows of {self._source.name} left out: {count:,}", *(f"left out: {e}" for e in examples)]

    def _check_repeated(self, source: Source, repeated: Positions) -> None:
        frame = self._rows.take(pa.array(repeated)).to_pandas().set_index(repeated).drop_duplicates()
        other = frame.index[frame.duplicated(SEARCH_ID)]
        if len(other):
            value = str(frame.loc[other[0], SEARCH_ID])
            place = source.place(int(other[0]))
            raise DataError(
                f"{place}: search id {value!r} has other values in an earlier line, expected one user per search"
            )

    def find(self, ids: pa.Array) -> tuple[Positions, dict[int, BadValueError]]:
        """Return the row of each search id (-1: not found) ``[rows]``, and the invalid ids by row."""
        if self._by_number and pa.types.is_int64(ids.type):
            found = self._find(ids.fill_null(0).to_numpy())
            found[ids.is_null().to_numpy(zero_copy_only=False)] = -1
            return found, {}
        values, codes, bad = _search_ids(ids)
        places, keys = np.arange(len(values)), values.to_numpy(zero_copy_only=False)
        if self._by_number:
            places, keys = find_integers(values)
        found = np.full(len(values) + 1, -1)
        found[places] = self._find(keys)
        return found[codes], bad

    def _find(self, keys: npt.NDArray[Any]) -> Positions:
        rows: Positions = self._rows_of[self._index.get_indexer(pd.Index(keys))]
        return rows

    def take(self, positions: Positions) -> dict[str, pa.Array]:
        """Return the columns of rows."""
        return _take(self._rows, positions)


def _search_ids(column: pa.Array) -> tuple[pa.StringArray, Codes, dict[int, BadValueError]]:
    """Return the distinct search ids, the code of each row (-1: missing or invalid), and the invalid ids by row."""
    try:
        return *as_text(column, SEARCH_ID), {}
    except BadValueError as bad:
        mask = np.asarray(bad.mask)
        rows = np.flatnonzero(mask).tolist()
        invalid = {row: BadValueError(row, SEARCH_ID, column[row].as_py(), bad.expected) for row in rows}
        return *as_text(pc.if_else(pa.array(mask), None, column), SEARCH_ID), invalid


def _unify_types(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Cast each column to one type: text if some batches are integers, bytes if a value did not parse."""
    kinds = [{batch.column(i).type for batch in batches} for i in range(batches[0].num_columns)]
    if all(len(kind) == 1 for kind in kinds):
        return batches
    types = [kind.pop() if len(kind) == 1 else pa.binary() if pa.binary() in kind else pa.string() for kind in kinds]
    columns = [
        [c if c.type == kind else c.cast(pa.string()).cast(kind) for c, kind in zip(batch, types, strict=True)]
        for batch in batches
    ]
    return [pa.RecordBatch.from_arrays(c, names=batches[0].schema.names) for c in columns]


def _take(batch: pa.RecordBatch, positions: Positions) -> dict[str, pa.Array]:
    rows = batch.take(pa.array(positions))
    return dict(zip(rows.schema.names, rows.columns, strict=True))


def _read_batches(
    source: Source, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
) -> Iterator[pa.RecordBatch]:
    try:
        yield from source.batches(columns, numbers, malformed)
    except (OSError, pa.ArrowException, *ZIP_ERRORS) as error:
        raise unreadable(source.name, error) from error
