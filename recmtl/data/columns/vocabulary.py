"""How often each category occurs, counted in memory that rows do not grow."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.integers import SMALL, integers_among
from recmtl.data.columns.values import Codes, stable_hash
from recmtl.errors import DataError
from recmtl.io.memory import available_memory
from recmtl.schema import Categorical, FittedSchema
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

COMPACT_AFTER = 1 << 20  # distinct values counted before their counts are merged
COPIES = 3  # of its counts that a merge holds beside them
MAX_CATEGORIES = 50_000_000  # of one vocabulary


class VocabularyBuilder:
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


HASHED_TOGETHER = 1 << 20  # categories, as Python text

Ids = npt.NDArray[np.int32]


class Lookup:
    """Finds text in a vocabulary.

    The vocabulary is sorted by its hashes once. Text is compared with every category of its hash, so that equal hashes
    of different text do no harm.

    Args:
        vocabulary: The categories, each of them once.
        hashed: Gives the 64-bit hash of text.
    """

    def __init__(
        self, vocabulary: pa.Array, hashed: Callable[[pa.Array], npt.NDArray[np.uint64]] = stable_hash
    ) -> None:
        self._vocabulary, self._hashed = vocabulary, hashed
        starts = range(0, len(vocabulary), HASHED_TOGETHER)
        parts = [hashed(vocabulary.slice(start, HASHED_TOGETHER)) for start in starts]
        hashes = np.concatenate([np.empty(0, np.uint64), *parts])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __call__(self, values: pa.StringArray) -> Codes:
        """Give the position of each value in the vocabulary, -1 where it is not in it ``[values]``."""
        hashes = self._hashed(values)
        order = np.argsort(hashes)  # neighbours are found side by side
        first, last = (np.searchsorted(self._hashes, hashes[order], side) for side in ("left", "right"))
        found = np.full(len(values), -1, np.int64)
        while len(order := order[first < last]):
            first, last = first[first < last], last[first < last]
            candidates = self._order[first]
            same = pc.equal(self._vocabulary.take(pa.array(candidates)), values.take(pa.array(order)))
            equal = same.fill_null(False).to_numpy(zero_copy_only=False)
            found[order[equal]] = candidates[equal]
            first = first + 1
        return found


class IntegerLookup:
    """Finds integers among the categories of a vocabulary that are written as integers are.

    Args:
        vocabulary: The categories, as text, each of them once.
    """

    def __init__(self, vocabulary: pa.Array) -> None:
        positions, integers = integers_among(vocabulary)
        small = (integers >= 0) & (integers < SMALL)
        self._table = np.full(int(integers[small].max(initial=-1)) + 2, -1, np.int64)  # the last is for all others
        self._table[integers[small]] = positions[small]
        self._large, self._positions = pd.Index(integers[~small]), np.append(positions[~small], -1)

    def __call__(self, integers: Codes) -> Codes:
        """Give the position of each integer in the vocabulary, -1 where it is not in it ``[integers]``."""
        others = len(self._table) - 1
        found = self._table[np.where(integers.view(np.uint64) < others, integers, others)]
        if len(self._large) == 0:
            return found
        return np.where(found < 0, self._positions[self._large.get_indexer(pd.Index(integers))], found)


_making = Lock()
_made: WeakKeyDictionary[FittedSchema, dict[tuple[str, type], Lookup | IntegerLookup]] = WeakKeyDictionary()


def lookup(fitted: FittedSchema, feature: Categorical, values: pa.StringArray) -> Codes:
    """Give the index of each value among those of a feature, `UNKNOWN` where it is no category of it ``[values]``."""
    owner = fitted.schema.owner(feature)
    if owner.hash_buckets:
        return (stable_hash(values) % np.uint64(owner.hash_buckets)).astype(np.int64) + FIRST
    return _indices(_of(fitted, owner, Lookup)(values))


def lookup_integers(fitted: FittedSchema, feature: Categorical, column: pa.Int64Array) -> Codes:
    """Give the index of each integer among the values of a feature that is not hashed ``[rows]``."""
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
    indices = _indices(_of(fitted, fitted.schema.owner(feature), IntegerLookup)(numbers))
    if column.null_count:
        indices[column.is_null().to_numpy(zero_copy_only=False)] = MISSING
    return indices


def _indices(positions: Codes) -> Codes:
    return np.where(positions < 0, UNKNOWN, positions + FIRST)


def _of(fitted: FittedSchema, owner: Categorical, kind: type[Lookup] | type[IntegerLookup]) -> Callable[..., Codes]:
    """The lookup of a vocabulary, made once and used by every encoder."""
    with _making:
        made = _made.setdefault(fitted, {})
        if (owner.name, kind) not in made:
            made[owner.name, kind] = kind(fitted.vocabularies[owner.name])
        return made[owner.name, kind]
