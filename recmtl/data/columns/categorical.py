"""Categories: counted in the first pass, looked up in the second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import attrgetter

import numpy as np
import pyarrow as pa

from recmtl.data.columns.numeric import bins
from recmtl.data.columns.timestamps import calendar_ids
from recmtl.data.columns.values import Codes, as_lists, as_text
from recmtl.data.columns.vocabulary import Ids, VocabularyBuilder, lookup, lookup_integers
from recmtl.schema import Binned, Categorical, FittedSchema, IdBlock, MultiCategorical, Schema, Timestamp
from recmtl.schema.fitted import MISSING

PADDING = -1  # in the columns of a list that is shorter than the longest


class CategoryFitter:
    """Learns the vocabularies and the lengths of lists from batches of training rows.

    Args:
        schema: The schema, its patterns resolved.
    """

    def __init__(self, schema: Schema) -> None:
        self._owners = {f: schema.owner(f) for f in schema.features if isinstance(f, Categorical)}
        owners = [f for f in self._owners if f.share_with is None and not f.hash_buckets]
        self._counts = {f.name: VocabularyBuilder(f) for f in owners}
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
            elif owner.name in self._counts and pa.types.is_int64(column.type):
                self._counts[owner.name].add_integers(column)
                continue
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
    if pa.types.is_int64(column.type) and not fitted.schema.owner(feature).hash_buckets:
        return lookup_integers(fitted, feature, column)[:, None].astype(np.int32)
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
