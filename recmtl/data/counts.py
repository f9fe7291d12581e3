"""How often each category occurs, counted in memory that rows do not grow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.errors import DataError
from recmtl.data.integers import SMALL
from recmtl.data.memory import available_memory
from recmtl.data.values import Codes
from recmtl.schema import Categorical

COMPACT_AFTER = 1 << 20  # distinct values counted before their counts are merged
COPIES = 3  # of its counts that a merge holds beside them
MAX_CATEGORIES = 50_000_000  # of one vocabulary


class CategoryCounts:
    """Counts the categories of one vocabulary as batches come.

    Args:
        feature: The feature whose vocabulary it is.
    """

    def __init__(self, feature: Categorical) -> None:
        self._feature = feature
        self._small = np.zeros(1, np.int64)  # of the integers from 0
        self._integers, self._texts = _Merged(feature.name), _Merged(feature.name)

    def add(self, values: pa.StringArray, codes: Codes) -> None:
        """Count a batch: distinct values and the code of each element (-1: missing).

        Raises:
            DataError: There are more categories than memory holds.
        """
        counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
        seen = counts > 0
        self._texts.add(values.filter(pa.array(seen)).cast(pa.large_string()), counts[seen])

    def add_integers(self, column: pa.Int64Array) -> None:
        """Count a batch of integers.

        Raises:
            DataError: There are more categories than memory holds.
        """
        numbers = column.drop_null().to_numpy()
        high = int(numbers.max(initial=0))
        if high < SMALL and numbers.min(initial=0) >= 0:
            if high >= len(self._small):
                self._small = np.append(self._small, np.zeros(max(high, len(self._small)) + 1, np.int64))
            np.add.at(self._small, numbers, 1)
        else:
            values, counts = np.unique(numbers, return_counts=True)
            self._integers.add(pa.array(values), counts)

    def vocabulary(self) -> pa.Array:
        """Give the categories kept: the most frequent first, equal counts in the order of their text.

        Raises:
            DataError: There are more than a vocabulary may have.
        """
        (small,) = np.nonzero(self._small)
        counted = [self._texts.table(), self._integers.table(), _table(pa.array(small), self._small[small])]
        counted = [_as_text(table) for table in counted if table.num_rows]
        merged = pa.concat_tables(counted) if counted else _as_text(self._texts.table())
        if len(counted) > 1:  # a category may be counted as text, too
            merged = _merged(merged)
        merged = merged.filter(pc.field("count") >= self._feature.min_count)
        if min(merged.num_rows, self._feature.max_vocabulary or merged.num_rows) > MAX_CATEGORIES:
            raise DataError(
                f"column {self._feature.name!r} has {merged.num_rows:,} categories, more than {MAX_CATEGORIES:,}: give "
                "the feature `hash_buckets`, a larger `min_count` or a `max_vocabulary`"
            )
        kept = merged.sort_by([("count", "descending"), ("category", "ascending")])["category"]
        return kept.slice(0, self._feature.max_vocabulary).combine_chunks()


def _table(values: pa.Array, counts: Codes) -> pa.Table:
    return pa.table({"category": values, "count": counts})


def _as_text(table: pa.Table) -> pa.Table:
    return table.set_column(0, "category", table["category"].cast(pa.large_string()))


def _merged(table: pa.Table) -> pa.Table:
    """Each category once, its counts added up."""
    return table.group_by("category").aggregate([("count", "sum")]).rename_columns({"count_sum": "count"})


class _Merged:
    """Counts of distinct values of one type, merged now and then.

    Args:
        name: The feature's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tables: list[pa.Table] = []
        self._pending, self._merged_rows = 0, 0

    def add(self, values: pa.Array, counts: Codes) -> None:
        """Add the counts of values."""
        if len(values) == 0:
            return
        self._tables.append(_table(values, counts))
        self._pending += len(values)
        if self._pending > max(COMPACT_AFTER, self._merged_rows):  # so that each category is merged a few times only
            self._compact()

    def table(self) -> pa.Table:
        """Give the columns ``category`` and ``count``, each category once."""
        if not self._tables:
            return _table(pa.array([], pa.large_string()), np.empty(0, np.int64))
        self._compact()
        return self._tables[0]

    def _compact(self) -> None:
        merged = _merged(pa.concat_tables(self._tables))
        self._tables, self._pending, self._merged_rows = [merged], 0, merged.num_rows
        if merged.nbytes * COPIES > available_memory():
            raise DataError(
                f"column {self._name!r} has more categories than memory holds, {merged.num_rows:,} until now: "
                "give the feature `hash_buckets`"
            )
