"""What is counted of a column as batches come, in memory that rows do not grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import Codes, Floats
from recmtl.schema import Task

DISTINCT_CATEGORIES = 1_000_000  # counted of a categorical column
DISTINCT_NUMBERS = 100_000  # counted of a numeric column
SAMPLE_ROWS = 200_000
STREAM = 6151  # of random numbers, so that they are not those that generated rows were made of


class CategoryTally:
    """Counts the categories of a column; beyond a bound only the most frequent ones go on being counted.

    Args:
        bound: The number of distinct categories that are counted exactly.
    """

    def __init__(self, bound: int = DISTINCT_CATEGORIES) -> None:
        self._bound = bound
        self._tables: list[pa.Table] = []
        self._pending = 0
        self.rows = self.missing = self.elements = 0
        self.more = False

    def add(self, values: pa.StringArray, codes: Codes, rows: int, missing: int) -> None:
        """Count a batch: distinct values, the code of each element (-1: missing), rows and those without a value."""
        counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
        seen = (counts > 0) & values.is_valid().to_numpy(zero_copy_only=False)
        self.rows, self.missing, self.elements = self.rows + rows, self.missing + missing, self.elements + counts.sum()
        self._tables.append(pa.table({"category": values.filter(pa.array(seen)), "count": counts[seen]}))
        self._pending += int(seen.sum())
        if self._pending > self._bound:
            self._tables, self._pending = [self._pruned()], 0

    @property
    def distinct(self) -> int:
        """The number of distinct categories, or the bound where there are more."""
        return self._bound if self.more else self.counts().num_rows

    def counts(self) -> pa.Table:
        """Give the columns ``category`` and ``count``: all of them, or where there are more the frequent ones."""
        self._tables, self._pending = [self._pruned()], 0
        return self._tables[0]

    def unseen(self, trained: CategoryTally) -> float:
        """Give the share of elements here that the training rows have not; NaN where either has too many to tell."""
        if self.more or trained.more or self.elements == 0:
            return float("nan")
        counts = self.counts()
        new = counts.filter(pc.invert(pc.is_in(counts["category"], trained.counts()["category"])))
        return float((pc.sum(new["count"]).as_py() or 0) / self.elements)

    def _pruned(self) -> pa.Table:
        if not self._tables:
            return pa.table({"category": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
        merged = pa.concat_tables(self._tables).group_by("category").aggregate([("count", "sum")])
        merged = merged.rename_columns({"count_sum": "count"}).combine_chunks()
        self.more = self.more or merged.num_rows > self._bound
        if merged.num_rows > self._bound:
            merged = merged.sort_by([("count", "descending"), ("category", "ascending")]).slice(0, self._bound // 2)
        return merged


class NumberTally:
    """Range, mean, deviation and number of distinct values of a numeric column.

    Args:
        bound: The number of distinct values that are counted.
    """

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
        """The number of distinct values, or the bound where there are more."""
        self._compact()
        return self._bound if self.more else sum(map(len, self._values))

    def shift(self, trained: NumberTally) -> float:
        """Give by how many deviations of the training rows the mean here differs; NaN without values or variation."""
        if not trained.deviation > 0:
            return float("nan")
        return (self.mean - trained.mean) / trained.deviation

    def _compact(self) -> None:
        if self._values:
            self._values = [pa.concat_arrays(self._values).unique()]
            if len(self._values[0]) > self._bound:
                self.more, self._values = True, []


class Sample:
    """Keeps rows drawn evenly from all that come: those with the smallest of random numbers.

    Args:
        size: The most rows that are kept.
        seed: Decides which.
    """

    def __init__(self, size: int = SAMPLE_ROWS, seed: int = 0) -> None:
        self._size, self._limit = size, 1.0
        self._rng = np.random.default_rng([STREAM, seed])
        self._tables: list[pa.Table] = []
        self._drawn = np.empty(0)

    def draw(self, rows: int) -> npt.NDArray[np.int64]:
        """Choose among the rows of a batch; what is chosen is then given to `keep`."""
        self._drawn = self._rng.random(rows)
        return np.flatnonzero(self._drawn < self._limit)

    def keep(self, columns: Mapping[str, pa.Array]) -> None:
        """Keep the rows that were drawn, given by column."""
        drawn = pa.array(self._drawn[self._drawn < self._limit])
        self._tables.append(pa.Table.from_arrays([drawn, *columns.values()], names=["", *columns]))
        if sum(t.num_rows for t in self._tables) > 2 * self._size:
            self._tables = [self._cut()]

    def table(self) -> pa.Table:
        """Give the rows that were kept."""
        return self._cut().drop_columns([""])

    def _cut(self) -> pa.Table:
        table = pa.concat_tables(self._tables)
        drawn = table.column(0).to_numpy()
        if len(drawn) > self._size:
            self._limit = float(np.partition(drawn, self._size)[self._size])
            table = table.filter(pa.array(drawn < self._limit))
        return table.combine_chunks()


class LabelTally:
    """Counts what the labels of each task are.

    Args:
        tasks: The tasks.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._sums = {task: np.zeros(2) for task in tasks}  # rows, Σ label

    def add(self, labels: Mapping[str, Floats]) -> None:
        """Add a batch, given by label ``[rows]``; NaN is missing."""
        for task, sums in self._sums.items():
            label = labels[task.label]
            valid = ~np.isnan(label) & (labels[task.given] == 1 if task.given else True)
            sums += [valid.sum(), label[valid].sum()]

    def table(self, split: str) -> list[tuple[str, str, int, float, float]]:
        """Give split, task, rows, positive rows (NaN for a regression) and mean of each task that has rows."""
        return [
            (split, task.name, int(rows), float(total) if task.kind == "binary" else float("nan"), float(total / rows))
            for task, (rows, total) in self._sums.items()
            if rows
        ]
