"""The raw layout of AliExpress: items joined with the users of their searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.integers import integers_among
from recmtl.data.columns.values import Codes, as_text, stable_hash
from recmtl.data.sources.aliexpress_layout import (
    CLICK,
    CONVERSION,
    HEADER,
    ITEM_COLUMNS,
    LABEL,
    SEARCH_ID,
    USER_COLUMNS,
)
from recmtl.data.sources.bad_rows import EXAMPLES
from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError, unreadable
from recmtl.io.archives import FAULTS

Positions = npt.NDArray[np.int64]


class Users:
    """The user file in memory, each row found by its search id.

    Args:
        source: The file.
        columns: The columns to keep, beside the search id.
        numbers: Those of them that are numbers.
        skip: Whether rows with a wrong number of columns or a search id that is no text are left out.

    Raises:
        DataError: The file is empty, has a search id twice with different values, or a row that is not to be left out.
    """

    def __init__(self, source: Source, columns: Sequence[str], numbers: frozenset[str], skip: bool = False) -> None:
        self._source, self._malformed = source, 0
        self._bad_ids: dict[int, BadValueError] = {}
        batches = list(_read(source, [SEARCH_ID, *columns], numbers, self._count if skip else None))
        if not batches:
            raise DataError("; ".join([f"there are no rows in {source.name}", *self.notes()]))
        (self._rows,) = pa.Table.from_batches(_of_one_type(batches)).combine_chunks().to_batches()
        ids = self._rows.column(SEARCH_ID)
        self._by_number = pa.types.is_int64(ids.type)
        if self._by_number:
            present = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
            names = ids.drop_null().to_numpy()
        else:
            values, codes, self._bad_ids = _search_ids(ids)
            if self._bad_ids and not skip:
                raise source.fault(next(iter(self._bad_ids.values())), 0)
            self._ids = values.take(pa.array(codes, mask=codes < 0))  # [rows]
            present = np.flatnonzero(codes >= 0)
            names = stable_hash(values)[codes[present]]
        again = pd.Index(names).duplicated()
        self._positions, self._index = np.append(present[~again], -1), pd.Index(names[~again])  # [searches] each
        self._refuse_contradictions(source, present[np.isin(names, names[again])])

    def _count(self) -> None:
        self._malformed += 1

    def notes(self) -> list[str]:
        """Say how many rows were left out and where the first of them stand; nothing where none was."""
        count = self._malformed + len(self._bad_ids)
        if not count:
            return []
        examples = islice(self._source.reasons(self._bad_ids), EXAMPLES)
        return [f"bad rows of {self._source.name} left out: {count:,}", *(f"left out: {e}" for e in examples)]

    def _refuse_contradictions(self, source: Source, repeated: Positions) -> None:
        frame = self._rows.take(pa.array(repeated)).to_pandas().set_index(repeated).drop_duplicates()
        other = frame.index[frame.duplicated(SEARCH_ID)]
        if len(other):
            value = str(frame.loc[other[0], SEARCH_ID])
            place = source.place(int(other[0]))
            raise DataError(
                f"{place}: search id {value!r} has other values in an earlier line, expected one user a search"
            )

    def find(self, ids: pa.Array) -> tuple[Positions, dict[int, BadValueError]]:
        """Give the row of each search id, -1 where there is none ``[rows]``, and by row the ids that are no text."""
        if self._by_number and pa.types.is_int64(ids.type):
            found: Positions = self._positions[self._index.get_indexer(pd.Index(ids.fill_null(0).to_numpy()))]
            found[ids.is_null().to_numpy(zero_copy_only=False)] = -1
            return found, {}
        values, codes, bad = _search_ids(ids)
        if self._by_number:
            places, numbers = integers_among(values)
            found = np.full(len(values) + 1, -1)
            found[places] = self._positions[self._index.get_indexer(pd.Index(numbers))]
            return found[codes], bad
        found = self._positions[self._index.get_indexer(pd.Index(stable_hash(values)))]
        same = pc.equal(values, self._ids.take(pa.array(found, mask=found < 0)))  # equal hashes do not prove it
        found[~same.fill_null(False).to_numpy(zero_copy_only=False)] = -1
        return np.append(found, -1)[codes], bad

    def take(self, positions: Positions) -> dict[str, pa.Array]:
        """Give the columns of rows."""
        return _take(self._rows, positions)


def _search_ids(column: pa.Array) -> tuple[pa.StringArray, Codes, dict[int, BadValueError]]:
    """Give the distinct search ids, the code of each row's (-1: missing or no text), and by row those that are none."""
    try:
        return *as_text(column, SEARCH_ID), {}
    except BadValueError as bad:
        mask = np.asarray(bad.mask)
        faults = {
            row: BadValueError(row, SEARCH_ID, column[row].as_py(), bad.expected)
            for row in np.flatnonzero(mask).tolist()
        }
        return *as_text(pc.if_else(pa.array(mask), None, column), SEARCH_ID), faults


def _of_one_type(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Give each column one type: text where it was integers first, bytes where a value that does not parse made it."""
    kinds = [{batch.column(i).type for batch in batches} for i in range(batches[0].num_columns)]
    if all(len(kind) == 1 for kind in kinds):
        return batches
    types = [kind.pop() if len(kind) == 1 else pa.binary() if pa.binary() in kind else pa.string() for kind in kinds]
    columns = [[_cast(column, kind) for column, kind in zip(batch, types, strict=True)] for batch in batches]
    return [pa.RecordBatch.from_arrays(c, names=batches[0].schema.names) for c in columns]


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(pa.string()).cast(kind)


def _take(batch: pa.RecordBatch, positions: Positions) -> dict[str, pa.Array]:
    rows = batch.take(pa.array(positions))
    return dict(zip(rows.schema.names, rows.columns, strict=True))


class RawSource(Source):
    """Items with the columns of their search's user and the labels click and conversion: the processed layout.

    Memory holds the user file, items are streamed. Items without a user are left out and counted.

    Args:
        users: The user file.
        items: The item file.
    """

    parses = True

    def __init__(self, users: Source, items: Source) -> None:
        self.name, self.columns = items.name, HEADER
        self._users, self._items = users, items
        self.unmatched = 0  # items left out when last read to the end
        self._bad_ids: dict[int, BadValueError] = {}  # the first of the items left out for their search id

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, all else as integers or text; all as bytes where one fails."""
        skip = malformed is not None
        users = Users(self._users, [c for c in columns if c in USER_COLUMNS[1:]], numbers, skip)
        wanted = [c for c in columns if c in ITEM_COLUMNS[1:]] + [LABEL] * (CLICK in columns or CONVERSION in columns)
        rows = refused = unmatched = 0
        self._bad_ids = {}
        for batch in _read(self._items, [SEARCH_ID, *wanted], numbers | {LABEL}, malformed):
            positions, bad = users.find(batch.column(SEARCH_ID))
            self._refuse(bad, rows, malformed)
            found = np.flatnonzero(positions >= 0)
            rows, refused = rows + len(positions), refused + len(bad)
            unmatched += len(positions) - len(found) - len(bad)
            if len(found):
                given = users.take(positions[found]) | _take(batch, found)
                given |= _labels(given[LABEL]) if LABEL in given else {}
                yield pa.RecordBatch.from_arrays([given[c] for c in columns], names=list(columns))
        if unmatched and unmatched == rows - refused:
            raise DataError(f"no search id of {self.name} is in {self._users.name}: expected files of the same split")
        self.unmatched = unmatched
        left_out = f"{unmatched:,} of {rows:,} rows of {self.name} are left out: {self._users.name} has no such search"
        self.notes = (*users.notes(), *([left_out] if unmatched else []))

    def _refuse(self, bad: Mapping[int, BadValueError], before: int, malformed: Callable[[], None] | None) -> None:
        """Leave out items whose search id is no text, or say where the first of them stands."""
        for row, fault in bad.items():
            if malformed is None:
                raise self._items.fault(fault, before)
            malformed()
            if len(self._bad_ids) < EXAMPLES:
                self._bad_ids[before + row] = fault

    def fault(self, bad: BadValueError, offset: int) -> DataError:
        """Say where a bad value stands: in the user file or in the item file."""
        item, user = self._origin(offset + bad.row)
        if bad.column in USER_COLUMNS[1:]:
            return self._users.fault(BadValueError(user, bad.column, bad.value, bad.expected), 0)
        bad = _of_the_item(bad)
        return self._items.fault(BadValueError(item, bad.column, bad.value, bad.expected), 0)

    def reasons(self, bad: Mapping[int, BadValueError]) -> Iterator[str]:
        """Say why rows were left out, by the lines of the item file."""
        items = dict(self._bad_ids)
        for row, fault in bad.items():
            item, user = self._origin(row, skip=True)
            of_user = fault.column in USER_COLUMNS[1:]
            items[item] = BadUserError(fault, self._users.place(user)) if of_user else _of_the_item(fault)
        return self._items.reasons(items)

    def place(self, row: int) -> str:
        """Name a row by the line in the item file where it begins."""
        return self._items.place(self._origin(row)[0])

    def _origin(self, row: int, skip: bool = False) -> tuple[int, int]:
        """Give the row of the item file and the row of the user file that a row is made of."""
        users, items = Users(self._users, [], frozenset(), skip), 0
        for batch in _read(self._items, [SEARCH_ID], frozenset(), (lambda: None) if skip else None):
            positions, _ = users.find(batch.column(SEARCH_ID))
            found = np.flatnonzero(positions >= 0)
            if row < len(found):
                return items + int(found[row]), int(positions[found[row]])
            row, items = row - len(found), items + batch.num_rows
        raise IndexError(f"{self.name} has no such row")


class BadUserError(BadValueError):
    """A bad value of an item that stands in the row of its user.

    Args:
        bad: The value.
        place: That row.
    """

    def __init__(self, bad: BadValueError, place: str) -> None:
        self._place = place
        super().__init__(bad.row, bad.column, bad.value, bad.expected)

    @property
    def reason(self) -> str:
        """The error without the row of the item."""
        return f"its user in {self._place}, {super().reason}"


def _of_the_item(bad: BadValueError) -> BadValueError:
    """Say of a bad click or conversion what it is in the item file."""
    if bad.column not in (CLICK, CONVERSION):
        return bad
    return BadValueError(bad.row, LABEL, bad.value, "0 (shown), 1 (clicked) or 2 (bought)")


def _read(
    source: Source, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
) -> Iterator[pa.RecordBatch]:
    try:
        yield from source.batches(columns, numbers, malformed)
    except (OSError, pa.ArrowException, *FAULTS) as error:
        raise unreadable(source.name, error) from error


def _labels(array: pa.Array) -> dict[str, pa.Array]:
    """Give click and conversion; a label that is none of the three stays, to be refused as any bad label is."""
    if pa.types.is_binary(array.type):
        known = pc.is_in(array, pa.array([b"0", b"1", b"2"]))
        click, bought = pc.not_equal(array, b"0"), pc.equal(array, b"2")
        return {
            name: pc.if_else(known, pc.if_else(positive, b"1", b"0"), array)
            for name, positive in ((CLICK, click), (CONVERSION, bought))
        }
    label = array.to_numpy(zero_copy_only=False)
    known = np.isin(label, (0, 1, 2))
    return {
        CLICK: pa.array(np.where(known, label >= 1, label)),
        CONVERSION: pa.array(np.where(known, label == 2, label)),
    }
