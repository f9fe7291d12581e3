"""How rows differ: which features training rows never vary, and later rows that are not read as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.history_leaks import HistoryLeaks
from recmtl.data.columns.id_lists import EncodedLists, Ids, repeat_list
from recmtl.data.columns.timestamps import calendar_ids, missing_times
from recmtl.data.columns.values import Codes, Floats, stable_hash
from recmtl.schema import Categorical, FittedSchema, MultiCategorical, Numeric, Timestamp
from recmtl.schema.fitted import MISSING, UNKNOWN

CUT, CONSTANT, LACKING = "cut", "constant", "lacking"  # what encoding does to rows: see `EncodingFindings`
OTHER_CLASS = "other class"  # a label that is no class of its task
PRESENT, BEYOND = "present", "beyond"  # rows with a number, and those where training had none so low or high
MANY_BEYOND = 0.05  # the share of numbers outside of that range from which on it is noted
CHANCE_BEYOND = 10  # of n rows as the n training rows are, hardly ever so many are outside of their range
FEW_BEYOND = 3  # rows say nothing; nor do so few distinct values, as rows of one user share them,
MOST_BEYOND = 0.5  # unless more rows than this share have them


class MissingRows:
    """The rows of a feature, and those that lack it."""

    def __init__(self) -> None:
        self.rows = self.missing = 0

    def _merge_rows(self, later: MissingRows) -> None:
        self.rows += later.rows
        self.missing += later.missing

    @property
    def missing_share(self) -> float:
        """The share of the rows that lack the feature."""
        return self.missing / max(self.rows, 1)


class CategoryVariation(MissingRows):
    """Whether the categories of one feature differ between training rows, batch by batch.

    Attributes:
        varies: Whether two rows differ. With `hash_buckets` categories of one bucket are the same.
        example: The first row ``[1]``; ``None`` before it.
    """

    def __init__(self, buckets: int | None) -> None:
        super().__init__()
        self._buckets = buckets
        self._first: tuple[object, ...] = ()
        self.varies = False
        self.example: pa.Array | None = None

    @property
    def constant(self) -> str | None:
        """In which way all rows are the same; ``None`` if they are not, or there are none."""
        if self.varies or self.example is None:
            return None
        return "missing in every training row" if self.missing else "constant in the training rows"

    def add(self, column: pa.Array, values: pa.StringArray, codes: Codes, lengths: Codes | None = None) -> None:
        """Add a batch: its column, distinct values, and the code of each element; for lists the lengths of the rows."""
        self.rows += len(column)
        self.missing += int((codes < 0).sum() if lengths is None else (lengths == 0).sum())
        if self.varies or not len(column):
            return
        width = 1 if lengths is None else int(lengths[0])
        if lengths is not None and (lengths != width).any():
            self.varies = True
            return
        rows = np.append(self._states(values), -1)[codes].reshape(len(column), width)
        first = self._texts(values, codes[:width])
        if self.example is None:
            self._first, self.example = first, column.take(pa.array([0]))
        self.varies = first != self._first or bool((rows != rows[0]).any())

    def merge(self, later: CategoryVariation) -> None:
        """Add later rows."""
        self._merge_rows(later)
        self.varies = self.varies or later.varies
        if self.example is None:
            self._first, self.example = later._first, later.example
        elif later.example is not None:
            self.varies = self.varies or self._first != later._first

    def add_integers(self, column: pa.Int64Array) -> None:
        """Add a batch of integers."""
        self.rows += len(column)
        self.missing += column.null_count
        if self.varies or not len(column):
            return
        first = (None if column[0].as_py() is None else str(column[0]),)
        if self.example is None:
            self._first, self.example = first, column.take(pa.array([0]))
        alike = pc.all(pc.equal(column, column[0]), min_count=0).as_py() if column[0].is_valid else True
        mixed = column.null_count not in (0, len(column))
        self.varies = first != self._first or mixed or not alike

    def _states(self, values: pa.StringArray) -> Codes:
        """Number distinct values ``[values]``: equal ones alike, as a value may appear twice; missing ones are -1."""
        if self._buckets:
            buckets = (stable_hash(values) % np.uint64(self._buckets)).astype(np.int64)
            return np.where(values.is_null().to_numpy(zero_copy_only=False), -1, buckets)
        states = values.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.asarray(states, np.int64)

    def _texts(self, values: pa.StringArray, codes: Codes) -> tuple[object, ...]:
        """Return the values of a row, or their buckets."""
        found = [None if code < 0 else values[code].as_py() for code in codes.tolist()]
        if self._buckets:
            states = self._states(values)
            found = [None if code < 0 else int(states[code]) for code in codes.tolist()]
        return tuple(found)


class CalendarVariation(MissingRows):
    """The calendar parts of one timestamp that are the same in every training row, batch by batch."""

    def __init__(self, feature: Timestamp) -> None:
        super().__init__()
        self._feature = feature
        self._first: Codes | None = None
        self._same = np.ones(len(feature.parts), np.bool_)

    def add(self, column: pa.Array) -> None:
        """Add a batch; its parts are only compared until all of them vary."""
        self.rows += len(column)
        self.missing += missing_times(column, self._feature)
        if not len(column) or not self._same.any():
            return
        ids = calendar_ids(column, self._feature)  # [rows, parts]
        self._first = ids[0].astype(np.int64) if self._first is None else self._first
        self._same &= (ids == self._first).all(axis=0)

    def merge(self, later: CalendarVariation) -> None:
        """Add later rows."""
        self._merge_rows(later)
        self._same &= later._same
        if self._first is None:
            self._first = later._first
        elif later._first is not None:
            self._same &= self._first == later._first

    def constants(self) -> dict[str, tuple[int, ...]]:
        """Return the id of each part that does not vary, by the name of its block."""
        if self._first is None:
            return {}
        parts = zip(self._feature.parts, self._first.tolist(), self._same, strict=True)
        return {f"{self._feature.name}.{part}": (first,) for part, first, same in parts if same}


def category_variations(owners: Mapping[Categorical, Categorical]) -> dict[str, CategoryVariation]:
    """Return the variation of each categorical feature, given the feature whose vocabulary each one uses."""
    return {feature.name: CategoryVariation(owner.hash_buckets) for feature, owner in owners.items()}


def as_trained(ids: Ids, lists: list[EncodedLists], fitted: FittedSchema, findings: EncodingFindings | None) -> None:
    """Replace ids ``[rows, id columns]`` and ids in lists of which a model learns nothing, as no training row has them.

    A block that is the same in every training row is so in all. "Missing" becomes "unknown" in a feature that no
    training row lacks, as its embedding would stay what it is drawn as. `findings` counts the rows.
    """
    missing = bool((ids == MISSING).any())
    for feature, blocks in groupby(fitted.id_blocks, attrgetter("feature")):
        varying = []
        for block in blocks:
            found = lists[block.start].values if block.listed else ids[:, block.start]
            constant = fitted.constants.get(block.name)
            if constant is None:
                if block.listed or missing:
                    varying.append(found)
                continue
            if findings:
                differ = lists[block.start].differ(constant) if block.listed else found != constant
                findings.add(block.name, CONSTANT, differ)
            if block.listed:
                lists[block.start] = repeat_list(constant, len(ids))
            else:
                found[:] = constant
        if varying and fitted.missing[feature.name] == 0:
            if findings:
                findings.add(feature.name, LACKING, varying[0] == MISSING)  # of a list the only id
            for found in varying:
                found[found == MISSING] = UNKNOWN


class Limits(NamedTuple):
    """The lowest and the highest of some numbers: both NaN if one is missing, infinite if there are none."""

    low: float
    high: float

    def within(self, low: float, high: float) -> bool:
        """Return whether none is missing, lower or higher."""
        return low <= self.low and self.high <= high


def limits_of(values: Floats) -> Limits:
    """Return the limits of numbers ``[rows]``."""
    return Limits(float(values.min(initial=np.inf)), float(values.max(initial=-np.inf)))


class FoundCounts(NamedTuple):
    """What `EncodingFindings` has counted: by feature and what encoding did, values beyond a range, and histories."""

    rows: int
    counts: Counter[tuple[str, str]]
    beyond: dict[str, list[float]]
    histories: npt.NDArray[np.int64] | None


class EncodingFindings:
    """Counts of rows by block or feature, and by what encoding did to them; several threads may add to it.

    Args:
        fitted: The fitted schema.
        split: The name of the rows.
    """

    def __init__(self, fitted: FittedSchema, split: str) -> None:
        self._fitted, self._split = fitted, split
        self._counts: Counter[tuple[str, str]] = Counter()
        self._beyond: dict[str, list[float]] = {}  # some distinct values outside of the range
        self._rows, self._lock = 0, Lock()
        listed = split == "train" and fitted.list_blocks
        self._histories = HistoryLeaks(fitted.schema, "train") if listed else None

    @property
    def found(self) -> FoundCounts:
        """All counts."""
        return FoundCounts(self._rows, self._counts, self._beyond, self._histories.counts if self._histories else None)

    def merge(self, found: FoundCounts) -> None:
        """Add the counts of other rows."""
        self._rows += found.rows
        self._counts.update(found.counts)
        for name, values in found.beyond.items():
            self._beyond[name] = np.union1d(self._beyond.get(name, []), values)[: FEW_BEYOND + 1].tolist()
        if self._histories and found.histories is not None:
            self._histories.counts += found.histories

    def add_rows(self, ids: Ids, lists: Sequence[EncodedLists], labels: Sequence[Floats]) -> None:
        """Count rows that are encoded: their ids ``[rows, id columns]``, lists and labels ``[rows]``."""
        with self._lock:
            self._rows += len(ids)
        if self._histories:
            self._histories.add_encoded(self._fitted, ids, lists, labels)

    def add(self, name: str, what: str, rows: npt.NDArray[np.bool_]) -> None:
        """Count those rows of a feature, or of a part of a timestamp, that are true ``[rows]``."""
        self._count(name, what, int(np.count_nonzero(rows)))

    def _count(self, name: str, what: str, rows: int) -> None:
        if rows:
            with self._lock:
                self._counts[name, what] += rows

    def add_numbers(self, values: Floats, limits: Limits, feature: Numeric, constant: float | None) -> None:
        """Count the rows in which a number is missing as it never was, or is not the constant that it was."""
        share = self._fitted.missing[feature.name]
        if constant is not None:
            missing = np.isnan(values)
            other = ~missing if share == 1 else ~missing & ~np.isclose(values, constant, rtol=1e-9, atol=0)
            self.add(feature.name, CONSTANT, other)
        else:
            self.add_range(feature.name, values, limits)
        if share == 0 and np.isnan(limits.low):
            self.add(feature.name, LACKING, np.isnan(values))

    def add_range(self, name: str, values: Floats, limits: Limits) -> None:
        """Count the rows in which a number is outside of the range of the training rows."""
        if name not in self._fitted.ranges:
            return
        low, high = self._fitted.ranges[name]
        if limits.within(low, high):
            self._count(name, PRESENT, len(values))
            return
        beyond = (values < low) | (values > high)
        self.add(name, PRESENT, ~np.isnan(values))
        self.add(name, BEYOND, beyond)
        if beyond.any():
            with self._lock:
                seen = self._beyond.get(name, [])
                if len(seen) <= FEW_BEYOND:  # then no more are looked for
                    self._beyond[name] = np.union1d(seen, values[beyond])[: FEW_BEYOND + 1].tolist()

    def _beyond_note(self, name: str) -> Iterator[str]:
        """Yield a sentence if more numbers are outside of the range of the training rows than chance explains."""
        count, present = self._counts[name, BEYOND], self._counts[name, PRESENT]
        trained = max((rate.rows for rate in self._fitted.rates.values()), default=0) * (1 - self._fitted.missing[name])
        least = MANY_BEYOND if len(self._beyond.get(name, ())) > FEW_BEYOND else MOST_BEYOND
        if count > max(least * present, CHANCE_BEYOND * present / (trained + 1) + FEW_BEYOND):
            low, high = self._fitted.ranges[name]
            yield (
                f"column {name!r} is outside of the range of the training rows, {low:g} to {high:g}, in "
                f"{count / present:.1%} of the {self._split} rows that have it: is it in the same unit?"
            )

    def notes(self) -> Iterator[str]:
        """Yield a sentence on each feature of which rows are not read as they are."""
        features = {f.name: f for f in self._fitted.schema.features}
        parts = {f"{f.name}.{part}" for f in features.values() if isinstance(f, Timestamp) for part in f.parts}
        for (name, what), count in sorted(self._counts.items()):
            rows, feature = f"{count:,} of {self._rows:,} {self._split} rows", features.get(name)
            column = f"part {name!r} of a timestamp" if name in parts and feature is None else f"column {name!r}"
            if what == CUT and isinstance(feature, MultiCategorical):
                most = self._fitted.lengths[name]
                yield f"{column} has more than {most:,} categories in {rows}: the {feature.keep} {most:,} are kept"
            elif what == CONSTANT:
                yield f"{column} is the same in every training row, and is read as that: in {rows} it differs"
            elif what == LACKING:
                read = "its median" if isinstance(feature, Numeric) and feature.transform == "knots" else "its mean"
                read = read if isinstance(feature, Numeric) else "an unknown category"
                yield f"{column} has a value in every training row, but none in {rows}: it is read as {read} there"
            elif what == OTHER_CLASS:
                yield f"label {name!r} is none of the known classes in {rows}: they do not count for its task"
            elif what == BEYOND:
                yield from self._beyond_note(name)
        if self._histories:
            yield from self._histories.notes()
