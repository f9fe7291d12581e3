"""Counts of columns, labels and splits, taken batch by batch in bounded memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.classes import ClassReader
from recmtl.data.columns.values import Codes, Floats
from recmtl.data.columns.vocabularies import count_table, merge_counts
from recmtl.schema import Schema, Task

DISTINCT_CATEGORIES = 1_000_000  # counted of a categorical column
DISTINCT_NUMBERS = 100_000  # counted of a numeric column
SAMPLE_ROWS = 200_000
STREAM = 6151  # of random numbers, other than those that synthetic rows are made of


class LabelRow(NamedTuple):
    """The labels of a task in a split, or of one class of it.

    Attributes:
        split: The split.
        task: The task.
        of_class: The class; ``None`` if the task has none.
        rows: The rows that count.
        positives: Those of them that are positive, or of the class; NaN of a task of numbers.
        mean: The mean label, or the share of the class.
    """

    split: str
    task: str
    of_class: str | None
    rows: int
    positives: float
    mean: float


class CategoryTally:
    """Counts the categories of a column; beyond a bound only the most frequent ones are counted further."""

    def __init__(self, bound: int = DISTINCT_CATEGORIES) -> None:
        self._bound = bound
        self._tables = [count_table(pa.array([], pa.string()), np.empty(0, np.int64))]
        self._pending = 0
        self.rows = self.missing = self.elements = 0
        self.more = False

    def add(self, values: pa.StringArray, codes: Codes, rows: int, missing: int) -> None:
        """Count a batch, given its distinct values, the code of each element (-1: missing), and the rows."""
        counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
        seen = (counts > 0) & values.is_valid().to_numpy(zero_copy_only=False)
        self.rows, self.missing, self.elements = self.rows + rows, self.missing + missing, self.elements + counts.sum()
        self._tables.append(count_table(values.filter(pa.array(seen)), counts[seen]))
        self._pending += int(seen.sum())
        if self._pending > self._bound:
            self.counts()

    @property
    def distinct(self) -> int:
        """The number of distinct categories, or the bound if there are more."""
        return self._bound if self.more else self.counts().num_rows

    def counts(self) -> pa.Table:
        """Return the columns ``category`` and ``count``: all categories, or beyond the bound the frequent ones."""
        merged = merge_counts(self._tables).combine_chunks()
        self.more = self.more or merged.num_rows > self._bound
        if merged.num_rows > self._bound:
            merged = merged.sort_by([("count", "descending"), ("category", "ascending")]).slice(0, self._bound // 2)
        self._tables, self._pending = [merged], 0
        return merged

    def unseen(self, trained: CategoryTally) -> float:
        """Return the share of elements that the training rows lack; NaN if either has more than the bound."""
        if self.more or trained.more or self.elements == 0:
            return float("nan")
        counts = self.counts()
        new = counts.filter(pc.invert(pc.is_in(counts["category"], trained.counts()["category"])))
        return float((pc.sum(new["count"]).as_py() or 0) / self.elements)


class NumberTally:
    """Range, mean, deviation and number of distinct values, up to a bound, of a numeric column."""

    def __init__(self, bound: int = DISTINCT_NUMBERS) -> None:
        self._bound = bound
        self._values: list[pa.Array] = []
        self.rows = self.missing = 0
        self._mean, self._squares = 0.0, 0.0
        self.low, self.high = float("inf"), float("-inf")
        self.more = False

    def add(self, values: Floats) -> None:
        """Add a batch ``[rows]``; NaN is missing (Chan's pairwise update)."""
        present = values[~np.isnan(values)] + 0.0  # minus zero is zero
        before, rows = self.rows - self.missing, len(present)
        self.rows, self.missing = self.rows + len(values), self.missing + len(values) - rows
        if rows == 0:
            return
        self.low, self.high = min(self.low, float(present.min())), max(self.high, float(present.max()))
        with np.errstate(over="ignore", invalid="ignore"):
            mean = present.mean()
            delta = mean - self._mean
            self._squares += float(((present - mean) ** 2).sum() + delta**2 * before * rows / (before + rows))
            self._mean += float(delta * rows / (before + rows))
        if not self.more:
            self._values.append(pa.array(present).unique())
            if sum(map(len, self._values)) > self._bound:
                self._compact()

    @property
    def mean(self) -> float:
        """The mean; NaN without values."""
        return self._mean if self.rows > self.missing else float("nan")

    @property
    def deviation(self) -> float:
        """The standard deviation; NaN without values."""
        present = self.rows - self.missing
        return float(np.sqrt(self._squares / present)) if present else float("nan")

    @property
    def distinct(self) -> int:
        """The number of distinct values, or the bound if there are more."""
        self._compact()
        return self._bound if self.more else sum(map(len, self._values))

    def beyond(self, values: Floats) -> float:
        """Return the share of other values ``[rows]`` that are below or above all of these; NaN without values."""
        present = values[~np.isnan(values)]
        if not len(present) or self.rows == self.missing:
            return float("nan")
        return float(((present < self.low) | (present > self.high)).mean())

    def shift(self, trained: NumberTally) -> float:
        """Return the difference of means in deviations of the training rows; NaN without values or variation."""
        if not trained.deviation > 0:
            return float("nan")
        return (self.mean - trained.mean) / trained.deviation

    def _compact(self) -> None:
        if self._values:
            self._values = [pa.concat_arrays(self._values).unique()]
            if len(self._values[0]) > self._bound:
                self.more, self._values = True, []


class Sample:
    """Keeps a uniform sample of rows: those with the smallest random numbers."""

    def __init__(self, size: int = SAMPLE_ROWS) -> None:
        self._size, self._limit = size, 1.0
        self._rng = np.random.default_rng([STREAM, 0])
        self._tables: list[pa.Table] = []
        self._drawn = np.empty(0)

    def draw(self, rows: int) -> npt.NDArray[np.int64]:
        """Return the rows of a batch that the sample takes; `keep` then adds them."""
        self._drawn = self._rng.random(rows)
        return np.flatnonzero(self._drawn < self._limit)

    def keep(self, columns: Mapping[str, pa.Array]) -> None:
        """Add the rows that were drawn, given by column."""
        drawn = pa.array(self._drawn[self._drawn < self._limit])
        self._tables.append(pa.Table.from_arrays([drawn, *columns.values()], names=["", *columns]))
        if sum(t.num_rows for t in self._tables) > 2 * self._size:
            self._cut()

    def table(self) -> pa.Table:
        """Return the sample."""
        return self._cut().drop_columns([""])

    def _cut(self) -> pa.Table:
        table = pa.concat_tables(self._tables)
        drawn = table.column(0).to_numpy()
        if len(drawn) > self._size:
            self._limit = float(np.partition(drawn, self._size)[self._size])
            table = table.filter(pa.array(drawn < self._limit))
        self._tables = [table.combine_chunks()]
        return self._tables[0]


class LabelTally:
    """Counts the labels of each task; of classes, those of each class.

    Args:
        tasks: The tasks.
        classes: Returns the classes of a label that have come so far, and their numbers.
    """

    def __init__(self, tasks: Sequence[Task], classes: Callable[[str], Mapping[str, int]] = lambda label: {}) -> None:
        self._classes = classes
        self._sums = {task: np.zeros(2) for task in tasks if not task.has_classes}  # rows, Σ label
        self._counts = {task: np.zeros(0, np.int64) for task in tasks if task.has_classes}
        self._tasks = tasks

    def add(self, labels: Mapping[str, Floats]) -> None:
        """Add a batch, given by label ``[rows]``; NaN is missing."""
        for task in self._tasks:
            label = labels[task.label]
            valid = ~np.isnan(label) & (labels[task.given] == 1 if task.given else True)
            if task in self._sums:
                self._sums[task] += [valid.sum(), label[valid].sum()]
            else:
                before, size = self._counts[task], int(label[valid].max(initial=-1)) + 1
                self._counts[task] = np.pad(before, (0, max(0, size - len(before))))
                self._counts[task] += np.bincount(label[valid].astype(np.int64), minlength=len(self._counts[task]))

    def table(self, split: str) -> list[LabelRow]:
        """Return the labels of each task that has rows; a multi-class task has a line for each class."""
        return [row for task in self._tasks for row in self._rows(split, task)]

    def _rows(self, split: str, task: Task) -> Iterator[LabelRow]:
        if task in self._sums:
            rows, total = self._sums[task]
            positives = float(total) if task.kind == "binary" else float("nan")
            yield from [LabelRow(split, task.name, None, int(rows), positives, float(total / rows))] if rows else []
            return
        counts = self._counts[task]
        for name, number in self._classes(task.label).items() if counts.sum() else ():
            count = int(counts[number]) if number < len(counts) else 0
            yield LabelRow(split, task.name, name, int(counts.sum()), float(count), count / int(counts.sum()))


class SplitTally(ABC):
    """Counts of the rows of one split, as they come in batches: numeric columns, labels, and a sample of the rows."""

    def __init__(self, numbers: Iterable[str], schema: Schema) -> None:
        self.numbers = {name: NumberTally() for name in numbers}
        self.classes = ClassReader(schema)
        self.labels = LabelTally(schema.reported_tasks, self.classes.numbered)
        self.sample = Sample()
        self.rows = 0

    @abstractmethod
    def drift(self, train: Self) -> Iterator[tuple[str, float, float, float, float]]:
        """Yield each column and how it differs: see `Description.drift`."""
