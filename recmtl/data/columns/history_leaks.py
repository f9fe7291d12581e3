"""Find histories that hold their row's own item because its action is already in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.id_lists import EncodedLists, Ids
from recmtl.data.columns.values import Codes, Floats, as_lists, as_text
from recmtl.schema import Categorical, FittedSchema, MultiCategorical, Schema
from recmtl.schema.fitted import FIRST

ENOUGH = 10  # rows with a label, and without
OFTEN = 0.5  # of the rows with the action end with their own item; people who repeat themselves do so less often,
TIMES = 5  # and as often in rows without the action

Flags = npt.NDArray[np.bool_]


class HistoryLeaks:
    """Counts of the rows whose history ends with the row's own item, by label; several threads may add to it.

    Such a history was written after the row: its last item is the one that is to be predicted. Every feature with one
    category per row may be the item, whether the history shares its vocabulary or not, and so may the `target` of a
    history, of whose categories one is enough. With ``keep: first`` the first item of a history is the newest. Rows
    without a history or an item, and those with an unknown category, do not count.

    Args:
        schema: The schema.
        split: The name of the rows.

    Attributes:
        counts: ``[pairs of history and item, labels, value of the label, (rows, rows that end with their own item)]``.
    """

    def __init__(self, schema: Schema, split: str) -> None:
        self._schema, self._split, self._lock = schema, split, Lock()
        histories = [f for f in schema.features if isinstance(f, MultiCategorical)]
        items = [f for f in schema.features if isinstance(f, Categorical)]
        self._pairs = [(h, i) for h in histories for i in items if may_be_item(h, i)]
        self._labels = [name for name in schema.labels if name in schema.binary_labels]
        self.counts = np.zeros((len(self._pairs), len(self._labels), 2, 2), np.int64)

    def add_raw(self, batch: pa.RecordBatch, labels: Mapping[str, Floats]) -> None:
        """Count raw rows, given their labels ``[rows]``; a missing column has no category in any row."""
        texts: dict[str, tuple[pa.Array, Codes]] = {}  # of all elements, and the length of each row
        for feature in {f.name: f for pair in self._pairs for f in pair}.values():
            if feature.name not in batch.schema.names:
                texts[feature.name] = pa.array([], pa.string()), np.zeros(batch.num_rows, np.int64)
                continue
            column = batch.column(feature.name)
            if isinstance(feature, MultiCategorical):
                nulls = self._schema.text_format.null_words
                values, codes, lengths = as_lists(column, feature.separator, feature.name, nulls)
            else:
                values, codes = as_text(column, feature.name)
                lengths, codes = (codes >= 0).astype(np.int64), codes[codes >= 0]
            texts[feature.name] = values.take(pa.array(codes)), lengths
        for place, (history, item) in enumerate(self._pairs):
            (found, lengths), (items, numbers) = texts[history.name], texts[item.name]
            newest = found.take(pa.array(newest_places(lengths, history), mask=lengths == 0))  # [rows]
            row = np.repeat(np.arange(len(numbers)), numbers)  # of each item
            alike = pc.equal(items, newest.take(pa.array(row))).fill_null(False).to_numpy(zero_copy_only=False)
            self._add(place, (lengths > 0) & (numbers > 0), any_of(alike, row, len(numbers)), labels)

    def add_encoded(
        self, fitted: FittedSchema, ids: Ids, lists: Sequence[EncodedLists], labels: Sequence[Floats]
    ) -> None:
        """Count encoded rows: ids ``[rows, id columns]``, lists, and the labels ``[rows]`` of the schema in order."""
        blocks = {block.name: block for block in fitted.id_blocks}
        named = dict(zip(fitted.schema.labels, labels, strict=True))
        for place, (history, item) in enumerate(self._pairs):
            into = _cached_translation(fitted, history, item)
            if into is None:
                continue
            values, lengths = lists[blocks[history.name].start]
            newest = into[values[newest_places(lengths, history)]]  # [rows]
            start = blocks[item.name].start
            listed = isinstance(item, MultiCategorical)
            own, numbers = lists[start] if listed else EncodedLists(ids[:, start], np.ones(len(ids), np.int64))
            row = np.repeat(np.arange(len(ids)), numbers)  # of each item
            counted = (newest != 0) & any_of(own >= FIRST, row, len(ids))
            self._add(place, counted, any_of(own == newest[row], row, len(ids)), named)

    def _add(self, place: int, counted: Flags, own: Flags, labels: Mapping[str, Floats]) -> None:
        for number, label in enumerate(self._labels):
            for value in (0, 1):
                rows = counted & (labels[label] == value)
                with self._lock:
                    self.counts[place, number, value] += int(rows.sum()), int((rows & own).sum())

    def notes(self) -> Iterator[str]:
        """Yield a note on each history that ends with the row's own item far more often where a label is 1."""
        for (history, item), by_label in zip(self._pairs, self.counts, strict=True):
            for label, ((others, other_own), (rows, own)) in zip(self._labels, by_label.tolist(), strict=True):
                if min(rows, others) >= ENOUGH and own >= max(OFTEN * rows, TIMES * rows * other_own / others):
                    ends = "starts" if history.keep == "first" else "ends"
                    yield (
                        f"history {history.name!r} {ends} with the row's own {item.name!r} in {own:,} "
                        f"({own / rows:.1%}) of the {rows:,} {self._split} rows with {label!r} and in "
                        f"{other_own / others:.1%} of the others: is it written before the {label}?"
                    )


def may_be_item(history: MultiCategorical, feature: Categorical) -> bool:
    """Return whether a feature may hold the items of the rows that have a history."""
    return not isinstance(feature, MultiCategorical) or feature.name == history.target


def newest_places(lengths: Codes, history: MultiCategorical) -> Codes:
    """Return the place of the newest element of each list ``[rows]`` among all elements; of an empty one any."""
    ends = np.cumsum(lengths)
    return np.maximum(ends - lengths if history.keep == "first" else ends - 1, 0)


def any_of(flags: Flags, row: Codes, rows: int) -> Flags:
    """Return which rows ``[rows]`` have a flag that is true, given the row of each flag."""
    found = np.zeros(rows, np.bool_)
    found[row[flags]] = True
    return found


_translations: WeakKeyDictionary[FittedSchema, dict[tuple[str, str], Ids | None]] = WeakKeyDictionary()


def _cached_translation(fitted: FittedSchema, history: MultiCategorical, item: Categorical) -> Ids | None:
    """Return the translation of a pair of encoded columns, made once per fitted schema."""
    made, pair = _translations.setdefault(fitted, {}), (history.name, item.name)
    if pair not in made:
        made[pair] = translation(fitted, history, item)
    return made[pair]


def translation(fitted: FittedSchema, history: MultiCategorical, item: Categorical) -> Ids | None:
    """Return for each id of a history that of the item's vocabulary, 0 for none; ``None`` if one of them is hashed."""
    of_history, of_item = fitted.schema.owner(history), fitted.schema.owner(item)
    size = of_history.hash_buckets or len(fitted.vocabularies[of_history.name])
    into = np.arange(FIRST + size, dtype=np.int32)
    if of_history != of_item:
        if of_history.hash_buckets or of_item.hash_buckets:
            return None
        found = pc.index_in(fitted.vocabularies[of_history.name], fitted.vocabularies[of_item.name])
        into[FIRST:] = pc.add(found, FIRST).fill_null(0).to_numpy(zero_copy_only=False)
    into[:FIRST] = 0
    return into
