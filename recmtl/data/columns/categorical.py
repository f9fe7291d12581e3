"""Categorical features: fit vocabularies on the training rows, encode categories as ids."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.id_lists import EncodedLists, Ids, cut_lists
from recmtl.data.columns.lookups import integer_lookup, text_lookup
from recmtl.data.columns.numeric import encode_bins
from recmtl.data.columns.timestamps import calendar_ids
from recmtl.data.columns.values import as_lists, as_text, stable_hash
from recmtl.data.columns.variation import CUT, CalendarVariation, EncodingFindings, as_trained, category_variations
from recmtl.data.columns.vocabularies import VocabularyBuilder
from recmtl.schema import Binned, Categorical, FittedSchema, MultiCategorical, Schema, Timestamp
from recmtl.schema.features import KIND_NAMES
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

MOST = 0.5  # of the values of a column


class CategoryFitter:
    """Vocabularies, each by its builder, and list lengths of the training rows, fitted batch by batch."""

    def __init__(self, schema: Schema) -> None:
        self._owners = {f: schema.owner(f) for f in schema.features if isinstance(f, Categorical)}
        self._nulls = schema.text_format.null_words
        owners = [f for f in self._owners if f.share_with is None and not f.hash_buckets]
        self.builders = {f.name: VocabularyBuilder(f) for f in owners}
        self._longest = {f: 1 for f in self._owners if isinstance(f, MultiCategorical)}
        self._variations = category_variations(self._owners)
        self._calendars = {f.name: CalendarVariation(f) for f in schema.features if isinstance(f, Timestamp)}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the categories of a batch of training rows."""
        for feature, owner in self._owners.items():
            column, name = batch.column(feature.name), feature.name
            builder, variation = self.builders.get(owner.name), self._variations[feature.name]
            if isinstance(feature, MultiCategorical):
                values, codes, lengths = as_lists(column, feature.separator, name, self._nulls)
                self._longest[feature] = max(self._longest[feature], int(lengths.max(initial=0)))
                variation.add(column, values, codes, lengths)
            elif builder and pa.types.is_int64(column.type):
                variation.add_integers(column)
                builder.add_integers(column)
                continue
            else:
                values, codes = as_text(column, name)
                variation.add(column, values, codes)
            if builder:
                builder.add(values, codes)
        for name, calendar in self._calendars.items():
            calendar.add(batch.column(name))

    def merge(self, later: CategoryFitter) -> None:
        """Add what was counted in later rows."""
        for name, builder in self.builders.items():
            builder.merge(later.builders[name])
        self._longest = {feature: max(longest, later._longest[feature]) for feature, longest in self._longest.items()}
        for name, variation in self._variations.items():
            variation.merge(later._variations[name])
        for name, calendar in self._calendars.items():
            calendar.merge(later._calendars[name])

    def vocabularies(self) -> dict[str, pa.Array]:
        """Return the vocabulary of each feature that has its own."""
        return {name: builder.vocabulary() for name, builder in self.builders.items()}

    def missing(self) -> dict[str, float]:
        """Return the share of rows that lack each feature."""
        times = {name: calendar.missing_share for name, calendar in self._calendars.items()}
        return {name: variation.missing_share for name, variation in self._variations.items()} | times

    def constants(self, fitted: FittedSchema) -> dict[str, tuple[int, ...]]:
        """Return the ids of each feature and calendar part that are the same in every training row, by block."""
        found = {name: ids for calendar in self._calendars.values() for name, ids in calendar.constants().items()}
        blocks = {block.name: block for block in fitted.id_blocks}
        for feature in self._owners:
            variation, block = self._variations[feature.name], blocks[feature.name]
            if variation.constant and variation.example is not None:
                if isinstance(feature, MultiCategorical):
                    ids = encode_list(fitted, variation.example, feature).values
                else:
                    ids = encode_feature(fitted, variation.example, feature)[0]
                found[feature.name] = tuple(ids.tolist())
            elif block.size == FIRST and block.length == 1 and not variation.missing:  # no category is frequent enough
                found[feature.name] = (UNKNOWN,)
        return found

    def notes(self, fitted: FittedSchema) -> Iterator[str]:
        """Yield a note on each column without information or with most of its categories unknown."""
        for feature, owner in self._owners.items():
            variation, builder = self._variations[feature.name], self.builders.get(owner.name)
            categories = fitted.vocabularies.get(owner.name, ())
            what = f"{KIND_NAMES[type(feature)].replace('_', '-')} column {feature.name!r}"
            if variation.constant:
                yield f"{what} is {variation.constant}"
            elif builder and not len(categories):
                yield f"{what} has no category frequent enough in the training rows"
            elif builder and MOST < builder.left_out < 1 and feature is owner:
                share = f"{builder.left_out:.0%} of the training rows"
                yield f"{what} has categories too rare for its vocabulary in {share}, which are read as unknown"
            elif len(categories) == 1:
                other = "or none" if variation.missing else "or is unknown"
                yield f"{what} has one category, {str(categories[0])!r}, {other} in the training rows"
            if isinstance(feature, MultiCategorical) and self._longest[feature] == 1 and variation.varies:
                yield f"{what} has at most one category in every training row: is {feature.separator!r} its separator?"

    def lengths(self) -> dict[str, int]:
        """Return the longest list kept of each multi-valued feature."""
        return {feature.name: min(feature.max_length, longest) for feature, longest in self._longest.items()}


def encode_ids(
    fitted: FittedSchema, batch: pa.RecordBatch, findings: EncodingFindings | None = None
) -> tuple[Ids, list[EncodedLists]]:
    """Encode the categorical, binned and timestamp features of a batch ``[rows, id columns]``, and the lists.

    Ids that no training row has are replaced as in `as_trained`; `findings` counts such rows, and lists that are cut.
    """
    ids, lists = np.empty((batch.num_rows, fitted.id_columns), np.int32, order="F"), []
    for feature, (first, *others) in groupby(fitted.id_blocks, attrgetter("feature")):
        column = batch.column(feature.name)
        if isinstance(feature, MultiCategorical):
            lists.append(encode_list(fitted, column, feature, findings))
        else:
            columns = slice(first.start, first.start + 1 + len(others))  # others: further calendar parts
            ids[:, columns] = encode_feature(fitted, column, feature, findings)
    as_trained(ids, lists, fitted, findings)
    return ids, lists


def encode_feature(
    fitted: FittedSchema,
    column: pa.Array,
    feature: Categorical | Binned | Timestamp,
    findings: EncodingFindings | None = None,
) -> npt.NDArray[np.integer]:
    """Return the id columns of one feature, which has no lists ``[rows, columns]``."""
    if isinstance(feature, Timestamp):
        return calendar_ids(column, feature)
    if isinstance(feature, Binned):
        return encode_bins(column, feature, fitted, findings)[:, None]
    if pa.types.is_int64(column.type) and not fitted.schema.owner(feature).hash_buckets:
        return lookup_integers(fitted, feature, column)[:, None]
    values, codes = as_text(column, feature.name)
    return np.append(lookup(fitted, feature, values), np.int32(MISSING))[codes, None]


def encode_list(
    fitted: FittedSchema, column: pa.Array, feature: MultiCategorical, findings: EncodingFindings | None = None
) -> EncodedLists:
    """Return the lists of a multi-valued feature, cut to the longest one of the training rows."""
    nulls, longest = fitted.schema.text_format.null_words, fitted.lengths[feature.name]
    values, codes, lengths = as_lists(column, feature.separator, feature.name, nulls)
    if findings:
        findings.add(feature.name, CUT, lengths > longest)
    return cut_lists(lookup(fitted, feature, values)[codes], lengths, longest, feature.keep)


def lookup(fitted: FittedSchema, feature: Categorical, values: pa.StringArray) -> Ids:
    """Return the id of each value of a feature, `UNKNOWN` if it is not in the vocabulary ``[values]``."""
    owner = fitted.schema.owner(feature)
    if owner.hash_buckets:
        return (stable_hash(values) % np.uint64(owner.hash_buckets)).astype(np.int32) + np.int32(FIRST)
    return text_lookup(fitted, owner.name)(values)


def lookup_integers(fitted: FittedSchema, feature: Categorical, column: pa.Int64Array) -> Ids:
    """Return the id of each integer of a feature that is not hashed ``[rows]``."""
    nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    integers = column.to_numpy() if nulls is None else column.fill_null(0).to_numpy()
    ids = integer_lookup(fitted, fitted.schema.owner(feature).name)(integers)
    if nulls is not None:
        ids[nulls] = MISSING
    return ids
