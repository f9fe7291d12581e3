"""Count the categories of a vocabulary, batch by batch and part by part, and choose those that are kept."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import Codes
from recmtl.errors import DataError
from recmtl.io.machine import available_memory
from recmtl.schema import Categorical
from recmtl.schema.history import COUNTS, most_frequent

MAX_CATEGORIES = 50_000_000  # of one vocabulary
MERGE_AFTER = 1 << 20  # distinct values counted before their counts are merged
MERGE_COPIES = 3  # of the counts, held in memory by a merge
SMALL_INTEGERS = 1 << 21  # integers below are counted and looked up in arrays


class VocabularyBuilder:
    """Counts the categories of one vocabulary, batch by batch, in memory independent of the number of rows.

    Attributes:
        left_out: The share of the counted values whose category is not in the vocabulary.
        waiting: Their counts: of the most frequent of them.
    """

    def __init__(self, feature: Categorical) -> None:
        self._feature, self.left_out, self.waiting = feature, 0.0, COUNTS.empty_table()
        self._small = np.zeros(1, np.int64)  # counts of small integers
        self._integers, self._text = MergedCounts(feature.name), MergedCounts(feature.name)

    def add(self, values: pa.StringArray, codes: Codes) -> None:
        """Count a batch: distinct values, and the code of each element (-1: missing)."""
        counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
        present = counts > 0
        self._text.add(values.filter(pa.array(present)).cast(pa.large_string()), counts[present])

    def add_integers(self, column: pa.Int64Array) -> None:
        """Count a batch of integers."""
        integers = column.drop_null().to_numpy()
        largest = int(integers.max(initial=0))
        if largest < SMALL_INTEGERS and integers.min(initial=0) >= 0:
            if largest >= len(self._small):
                self._small = _grown(self._small, max(largest + 1, 2 * len(self._small)))
            np.add.at(self._small, integers, 1)
        else:
            values, counts = np.unique(integers, return_counts=True)
            self._integers.add(pa.array(values), counts)

    def merge(self, later: VocabularyBuilder) -> None:
        """Add the counts of later rows."""
        self._small = _grown(self._small, len(later._small))
        self._small[: len(later._small)] += later._small
        self._integers.merge(later._integers)
        self._text.merge(later._text)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: counts of small integers in as few bytes as hold them."""
        used = np.trim_zeros(self._small, "b")
        return self.__dict__ | {"_small": used.astype(np.min_scalar_type(used.max(initial=0)))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_small": state["_small"].astype(np.int64)})

    @cached_property
    def counts(self) -> pa.Table:
        """The columns ``category``, as text, and ``count``, each category once."""
        (small,) = np.nonzero(self._small)
        tables = [count_table(pa.array(small), self._small[small]), self._integers.table(), self._text.table()]
        tables = [t.set_column(0, "category", t["category"].cast(pa.large_string())) for t in tables]
        filled = [t for t in tables if t.num_rows] or tables[:1]
        return merge_counts(filled) if len(filled) > 1 else filled[0]  # an integer may be counted as text, too

    def vocabulary(self) -> pa.Array:
        """Return the categories kept: the most frequent first, ties in text order; too many raise `DataError`."""
        frequent = pc.field("count") >= self._feature.min_count
        table, rare = self.counts.filter(frequent), self.counts.filter(~frequent)
        name, largest = self._feature.name, self._feature.max_vocabulary
        if min(table.num_rows, largest or table.num_rows) > MAX_CATEGORIES:
            raise DataError(
                f"column {name!r} has {table.num_rows:,} categories, expected at most {MAX_CATEGORIES:,}: set "
                "`hash_buckets`, a larger `min_count` or a `max_vocabulary`"
            )
        table = table.sort_by([("count", "descending"), ("category", "ascending")])
        kept = table.slice(0, largest)
        if kept.num_rows < self.counts.num_rows:
            self.waiting = most_frequent(pa.concat_tables([table.slice(kept.num_rows), rare]))
        counted = pc.sum(self.counts["count"]).as_py() or 1
        self.left_out = 1 - (pc.sum(kept["count"]).as_py() or 0) / counted
        return kept["category"].combine_chunks()


def _grown(counts: Codes, size: int) -> Codes:
    """Return counts of at least so many integers: those behind the known ones are 0."""
    if len(counts) >= size:
        return counts
    grown = np.zeros(size, np.int64)
    grown[: len(counts)] = counts
    return grown


class MergedCounts:
    """Counts of distinct values of one type, merged from time to time."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._tables: list[pa.Table] = []
        self._pending, self._merged_rows = 0, 0

    def add(self, values: pa.Array, counts: Codes) -> None:
        """Add the counts of values; if they do not fit in memory, raise `DataError`."""
        self._append(count_table(values, counts))

    def merge(self, later: MergedCounts) -> None:
        """Add other counts."""
        for table in later._tables:
            self._append(table)

    def _append(self, table: pa.Table) -> None:
        if table.num_rows:
            self._tables.append(table)
            self._pending += table.num_rows
        if self._pending > max(MERGE_AFTER, self._merged_rows):  # each category is merged a few times only
            self._merge()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: each category once."""
        if len(self._tables) > 1:
            self._merge()
        return self.__dict__

    def table(self) -> pa.Table:
        """Return the columns ``category`` and ``count``, each category once."""
        if not self._tables:
            return count_table(pa.array([], pa.large_string()), np.empty(0, np.int64))
        self._merge()
        return self._tables[0]

    def _merge(self) -> None:
        merged = merge_counts(self._tables)
        self._tables, self._pending, self._merged_rows = [merged], 0, merged.num_rows
        if merged.nbytes * MERGE_COPIES > available_memory():
            raise DataError(
                f"column {self._column!r} has too many categories for memory, found {merged.num_rows:,} so far: "
                "set `hash_buckets`"
            )


def count_table(values: pa.Array, counts: Codes) -> pa.Table:
    """Return the columns ``category`` and ``count``."""
    return pa.table({"category": values, "count": counts})


def merge_counts(tables: list[pa.Table]) -> pa.Table:
    """Return each category once, with the sum of its counts."""
    merged = pa.concat_tables(tables).group_by("category").aggregate([("count", "sum")])
    return merged.rename_columns({"count_sum": "count"})
