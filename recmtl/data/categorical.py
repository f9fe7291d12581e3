"""Categories: counted in the first pass, looked up in the second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import attrgetter
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.errors import DataError
from recmtl.data.memory import available_memory
from recmtl.data.numeric import bins
from recmtl.data.timestamps import calendar_ids
from recmtl.data.values import Codes, as_lists, as_text, stable_hash
from recmtl.schema import Binned, Categorical, FittedSchema, IdBlock, MultiCategorical, Schema, Timestamp
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

COMPACT_AFTER = 1 << 20  # distinct values counted before their counts are merged
COPIES = 3  # of its counts that a merge holds beside them
MAX_CATEGORIES = 50_000_000  # of one vocabulary
HASHED_TOGETHER = 1 << 20  # categories, as Python text
PADDING = -1  # in the columns of a list that is shorter than the longest

Ids = npt.NDArray[np.int32]


class CategoryCounts:
    """Counts the categories of one vocabulary as batches come.

    Args:
        feature: The feature whose vocabulary it is.
    """

    def __init__(self, feature: Categorical) -> None:
        self._feature = feature
        self._tables: list[pa.Table] = []
        self._pending, self._merged_rows = 0, 0

    def add(self, values: pa.StringArray, codes: Codes) -> None:
        """Count a batch: distinct values and the code of each element (-1: missing).

        Raises:
            DataError: There are more categories than memory holds.
        """
        counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
        seen = counts > 0
        category = values.filter(pa.array(seen)).cast(pa.large_string())
        self._tables.append(pa.table({"category": category, "count": counts[seen]}))
        self._pending += len(category)
        if self._pending > max(COMPACT_AFTER, self._merged_rows):  # so that each category is merged a few times only
            self._compact()

    def _compact(self) -> None:
        merged = pa.concat_tables(self._tables).group_by("category").aggregate([("count", "sum")])
        merged = merged.rename_columns({"count_sum": "count"})
        self._tables, self._pending, self._merged_rows = [merged], 0, merged.num_rows
        if merged.nbytes * COPIES > available_memory():
            raise DataError(
                f"column {self._feature.name!r} has more categories than memory holds, {merged.num_rows:,} until now: "
                "give the feature `hash_buckets`"
            )

    def vocabulary(self) -> pa.Array:
        """Give the categories kept: the most frequent first, equal counts in the order of their text.

        Raises:
            DataError: There are more than a vocabulary may have.
        """
        if not self._tables:
            return pa.array([], pa.large_string())
        self._compact()
        merged = self._tables[0].filter(pc.field("count") >= self._feature.min_count)
        if min(merged.num_rows, self._feature.max_vocabulary or merged.num_rows) > MAX_CATEGORIES:
            raise DataError(
                f"column {self._feature.name!r} has {merged.num_rows:,} categories, more than {MAX_CATEGORIES:,}: give "
                "the feature `hash_buckets`, a larger `min_count` or a `max_vocabulary`"
            )
        kept = merged.sort_by([("count", "descending"), ("category", "ascending")])["category"]
        return kept.slice(0, self._feature.max_vocabulary).combine_chunks()


class CategoryFitter:
    """Learns the vocabularies and the lengths of lists from batches of training rows.

    Args:
        schema: The schema, its patterns resolved.
    """

    def __init__(self, schema: Schema) -> None:
        self._owners = {f: schema.owner(f) for f in schema.features if isinstance(f, Categorical)}
        owners = [f for f in self._owners if f.share_with is None and not f.hash_buckets]
        self._counts = {f.name: CategoryCounts(f) for f in owners}
        self._longest = {f.name: 1 for f in self._owners if isinstance(f, MultiCategorical)}

    def add(self, batch: pa.RecordBatch) -> None:
        """Learn from a batch of training rows.

        Raises:
            BadValueError: A column holds no categories.
            DataError: There are more categories than memory holds.
        """
        for feature, owner in self._owners.items():
            column, name = batch.column(feature.name), feature.name
            if isinstance(feature, MultiCategorical):
                values, codes, lengths = as_lists(column, feature.separator, name)
                self._longest[name] = max(self._longest[name], int(lengths.max(initial=0)))
            else:
                values, codes = as_text(column, name)
            if owner.name in self._counts:
                self._counts[owner.name].add(values, codes)

    def vocabularies(self) -> dict[str, pa.Array]:
        """Give the categories of each feature that has its own.

        Raises:
            DataError: There are more than a vocabulary may have.
        """
        return {name: counts.vocabulary() for name, counts in self._counts.items()}

    def lengths(self) -> dict[str, int]:
        """Give the longest list kept of each multi-valued feature."""
        multi = [f for f in self._owners if isinstance(f, MultiCategorical)]
        return {f.name: min(f.max_length, self._longest[f.name]) for f in multi}


def notes(fitted: FittedSchema) -> list[str]:
    """Name the columns without information."""
    found = []
    for name, vocabulary in fitted.vocabularies.items():
        if len(vocabulary) < 2:
            what = "is constant" if len(vocabulary) else "has no category frequent enough"
            found.append(f"categorical column {name!r} {what} in the training rows")
    return found


class Lookup:
    """Finds text in a vocabulary, in a time that hardly depends on the vocabulary's size.

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


_lookups: WeakKeyDictionary[FittedSchema, dict[str, Lookup]] = WeakKeyDictionary()  # made once, used by every encoder


def lookup(fitted: FittedSchema, feature: Categorical, values: pa.StringArray) -> Codes:
    """Give the index of each value among those of a feature, `UNKNOWN` where it is no category of it ``[values]``."""
    owner = fitted.schema.owner(feature)
    if owner.hash_buckets:
        return (stable_hash(values) % np.uint64(owner.hash_buckets)).astype(np.int64) + FIRST
    made = _lookups.setdefault(fitted, {})
    if owner.name not in made:
        made[owner.name] = Lookup(fitted.vocabularies[owner.name])
    found = made[owner.name](values)
    return np.where(found < 0, UNKNOWN, found + FIRST)


def encode_ids(fitted: FittedSchema, batch: pa.RecordBatch) -> Ids:
    """Encode the categorical and binned features and the parts of dates of a batch ``[rows, id columns]``.

    Raises:
        BadValueError: A value does not parse.
    """
    ids = np.empty((batch.num_rows, fitted.id_columns), np.int32)
    for feature, parts in groupby(fitted.id_blocks, attrgetter("feature")):
        first, *others = parts
        columns = slice(first.start, first.start + first.length + len(others))  # others are further parts of a date
        ids[:, columns] = _encoded(fitted, batch.column(feature.name), feature, first)
    return ids


def _encoded(fitted: FittedSchema, column: pa.Array, feature: Categorical | Binned | Timestamp, block: IdBlock) -> Ids:
    """The columns of one feature."""
    if isinstance(feature, Timestamp):
        return calendar_ids(column, feature)
    if isinstance(feature, Binned):
        return bins(column, feature, fitted)[:, None].astype(np.int32)
    find = partial(lookup, fitted, feature)
    if isinstance(feature, MultiCategorical):
        return _bag(column, feature, block.length, find)
    values, codes = as_text(column, feature.name)
    return np.append(find(values), MISSING)[codes, None].astype(np.int32)


def _bag(column: pa.Array, feature: MultiCategorical, length: int, find: Callable[[pa.StringArray], Codes]) -> Ids:
    values, codes, lengths = as_lists(column, feature.separator, feature.name)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = position < length
    bag = np.full((len(lengths), length), PADDING, np.int32)
    bag[lengths == 0, 0] = MISSING
    bag[rows[kept], position[kept]] = find(values)[codes[kept]]
    return bag
