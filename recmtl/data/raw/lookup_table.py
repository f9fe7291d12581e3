"""A file of a raw layout that others are joined with: held in memory, indexed by its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import Codes, as_text, find_integers
from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError, unreadable
from recmtl.io.archives import ZIP_ERRORS
from recmtl.io.csv_records import MAX_EXAMPLES

Positions = npt.NDArray[np.int64]


class LookupTable:
    """Columns of a file in memory, indexed by a key: equal keys with different values are an error.

    In memory are the values of `columns`, twice while they are read, and the index: 24 bytes a row for integer keys,
    about 120 for text.

    Args:
        source: The file.
        key: The column that tells its rows apart: integers, exactly, or text.
        columns: The columns to look up.
        numbers: Those of them to parse as numbers.
        skip: Leave out rows with a wrong number of columns or an invalid key.
    """

    def __init__(
        self, source: Source, key: str, columns: Sequence[str], numbers: frozenset[str], skip: bool = False
    ) -> None:
        self._source, self._key, self._malformed = source, key, 0
        self._bad_ids: dict[int, BadValueError] = {}
        batches = list(read_batches(source, [key, *columns], numbers, self._count if skip else None))
        if not batches:
            raise DataError("; ".join([f"there are no rows in {source.name}", *self.notes()]))
        (self._rows,) = pa.Table.from_batches(_unify_types(batches)).combine_chunks().to_batches()
        ids = self._rows.column(key)
        self._by_number = pa.types.is_int64(ids.type)
        if self._by_number:
            present = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
            keys = ids.drop_null().to_numpy()
        else:
            values, codes, self._bad_ids = _key_values(ids, key)
            if self._bad_ids and not skip:
                raise source.fault(next(iter(self._bad_ids.values())))
            present = np.flatnonzero(codes >= 0)
            keys = values.to_numpy(zero_copy_only=False)[codes[present]]
        repeated = pd.Index(keys).duplicated()
        self._rows_of, self._index = np.append(present[~repeated], -1), pd.Index(keys[~repeated])  # [keys] each
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
        other = frame.index[frame.duplicated(self._key)]
        if len(other):
            value = str(frame.loc[other[0], self._key])
            place = source.place(int(other[0]))
            raise DataError(
                f"{place}: {self._key} {value!r} has other values in an earlier line, expected one row for each"
            )

    def find(self, ids: pa.Array) -> tuple[Positions, dict[int, BadValueError]]:
        """Return the row of each key (-1: not found) ``[rows]``, and the invalid keys by row."""
        if self._by_number and pa.types.is_int64(ids.type):
            found = self._find(ids.fill_null(0).to_numpy())
            found[ids.is_null().to_numpy(zero_copy_only=False)] = -1
            return found, {}
        values, codes, bad = _key_values(ids, self._key)
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
        """Return the columns of rows, missing where a position is -1."""
        return take_rows(self._rows, positions)


def _key_values(column: pa.Array, key: str) -> tuple[pa.StringArray, Codes, dict[int, BadValueError]]:
    """Return the distinct keys, the code of each row (-1: missing or invalid), and the invalid keys by row."""
    try:
        return *as_text(column, key), {}
    except BadValueError as bad:
        mask = np.asarray(bad.mask)
        rows = np.flatnonzero(mask).tolist()
        invalid = {row: BadValueError(row, key, column[row].as_py(), bad.expected) for row in rows}
        return *as_text(pc.if_else(pa.array(mask), None, column), key), invalid


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


def take_rows(batch: pa.RecordBatch, positions: Positions) -> dict[str, pa.Array]:
    """Return the columns of rows, missing where a position is -1."""
    rows = batch.take(pa.array(positions, mask=positions < 0))
    return dict(zip(rows.schema.names, rows.columns, strict=True))


def read_batches(
    source: Source, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream a source; what cannot be read is an error with its name."""
    try:
        yield from source.batches(columns, numbers, malformed)
    except (OSError, pa.ArrowException, *ZIP_ERRORS) as error:
        raise unreadable(source.name, error) from error
