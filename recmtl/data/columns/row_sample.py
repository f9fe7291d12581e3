"""A uniform sample of the rows of numeric columns, with their quantiles, knots and ranges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recmtl.data.columns.values import Codes, Floats, RowNumbers, stable_hash
from recmtl.schema.statistics import MAX_KNOTS

SAMPLE, SPARE = 100_000, 50_000  # rows sampled for quantiles, and rows held beside them before the sample is cut again
MOST_BLOCKS = 256  # of rows held; more are joined
MAX_QUANTILES = 256  # of each numeric feature


class SampledFrom(NamedTuple):
    """The number of the first row of a part of the rows, and the highest hash that the sample of those before takes."""

    first: int = 0
    limit: int = 2**64 - 1


class Block(NamedTuple):
    """Some rows: their hashes ``[rows]`` and values ``[columns, rows]``."""

    hashes: npt.NDArray[np.uint64]
    values: Floats

    def up_to(self, limit: np.uint64) -> Block:
        """Return the rows whose hash is at most a limit."""
        (low,) = np.nonzero(self.hashes <= limit)
        return self if len(low) == len(self.hashes) else Block(self.hashes[low], self.values.take(low, axis=1))


class RowSample:
    """Exact ranges of numeric columns, and a uniform sample of rows: those with the lowest hash of the row number.

    Up to `SAMPLE` rows the sample is complete. Beyond that the share of rows below a sample quantile has a standard
    error of at most 0.5 / √n for n non-missing sampled values: 0.0016 if none is missing.
    """

    def __init__(self, columns: int, sample: SampledFrom | None = None) -> None:
        self._next, limit = sample or SampledFrom()
        self._blocks: list[Block] = []
        self._sorted: dict[int, Floats] = {}  # columns, until rows are added
        self._limit = np.uint64(limit)  # the highest hash in the sample
        self._low, self._high = np.full(columns, np.inf), np.full(columns, -np.inf)

    def choose(self, rows: int) -> tuple[npt.NDArray[np.uint64], RowNumbers]:
        """Return the hashes and the places of those among the next rows that the sample may take."""
        hashes = stable_hash(np.arange(self._next, self._next + rows))
        self._next += rows
        (places,) = np.nonzero(hashes <= self._limit)
        return hashes[places], places

    def add(self, hashes: npt.NDArray[np.uint64], values: Floats, low: Floats, high: Floats) -> None:
        """Add the chosen rows.

        Args:
            hashes: Their hashes ``[chosen]``.
            values: Their values ``[columns, chosen]``; NaN is missing.
            low: The lowest value of each column in all rows ``[columns]``.
            high: The highest one.
        """
        self._keep([Block(hashes, values)])
        self._low, self._high = np.fmin(self._low, low), np.fmax(self._high, high)

    def merge(self, later: RowSample) -> None:
        """Add the rows of another sample, which must not be used further."""
        self._keep(block.up_to(self._limit) for block in later._blocks)
        self._low, self._high = np.fmin(self._low, later._low), np.fmax(self._high, later._high)

    @property
    def limit(self) -> int:
        """The highest hash of a row that the sample may still take."""
        self._cut()
        return int(self._limit)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: the rows of the sample."""
        self._cut()
        return self.__dict__ | {"_sorted": {}}

    @property
    def _held(self) -> int:
        """How many rows are held."""
        return sum(len(block.hashes) for block in self._blocks)

    def _keep(self, blocks: Iterable[Block]) -> None:
        """Hold rows; too many of them are reduced to the sample, and too many blocks are joined."""
        self._sorted.clear()
        self._blocks += [block for block in blocks if len(block.hashes)]
        if self._held > SAMPLE + SPARE:
            self._cut()
        if len(self._blocks) > MOST_BLOCKS:
            hashes, values = zip(*self._blocks, strict=True)
            self._blocks = [Block(np.concatenate(hashes), np.concatenate(values, axis=1))]

    def _cut(self) -> None:
        """Reduce the rows held to the sample."""
        if self._held > SAMPLE:
            hashes = np.concatenate([block.hashes for block in self._blocks])
            self._limit = np.partition(hashes, SAMPLE - 1)[SAMPLE - 1]
            self._blocks = [block.up_to(self._limit) for block in self._blocks]

    @property
    def ranges(self) -> tuple[Floats, Floats]:
        """The lowest and the highest value of each column ``[columns]``; infinite without values."""
        return self._low, self._high

    def quantiles(self, column: int) -> Floats:
        """Return evenly spaced quantiles, from the minimum to the maximum of all rows."""
        values, low, high = self._column(column)
        shares = np.linspace(0, 1, max(2, min(MAX_QUANTILES, len(values))))
        quantiles = np.quantile(values, shares, method="inverted_cdf")  # observed values
        quantiles[0], quantiles[-1] = low, high
        return quantiles

    def knots(self, column: int) -> Floats:
        """Return at most `MAX_KNOTS` rising values, from the minimum to the maximum of all rows.

        The sampled values themselves if there are no more. Else quantiles in which a value counts for at most one step:
        a value that many rows have is a knot, and the others share the remaining knots evenly.
        """
        values, low, high = self._column(column)
        rising = np.concatenate([[low], values, [high]])
        first = np.flatnonzero(np.append(True, rising[1:] != rising[:-1]))  # of each distinct value
        distinct: Floats = rising[first]
        counts = np.diff(first, append=len(rising))
        if len(distinct) <= MAX_KNOTS:
            return distinct
        steps = MAX_KNOTS - 1
        shares = np.cumsum(capped_counts(counts, steps))
        places = np.searchsorted(shares, np.arange(1, steps) / steps * shares[-1])
        chosen: Floats = distinct[np.unique([0, *places, len(distinct) - 1])]
        return chosen

    def varies(self) -> npt.NDArray[np.bool_]:
        """Return which columns have two values, however close."""
        return self._low < self._high

    def median(self, column: int) -> float:
        """Return the median, a value of the sample."""
        return float(np.quantile(self._column(column)[0], 0.5, method="inverted_cdf"))

    def edges(self, column: int, bins: int) -> Floats:
        """Return the edges between bins of equal shares: the maximum of each bin but the last."""
        values, _, high = self._column(column)
        edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
        return edges[edges < high]

    def _column(self, column: int) -> tuple[Floats, float, float]:
        """Return the sampled values of a column, sorted, its minimum and its maximum; 0 if it has no value."""
        self._cut()
        if column not in self._sorted:
            values = np.concatenate([np.empty(0), *(block.values[column] for block in self._blocks)])
            self._sorted[column] = np.sort(values[~np.isnan(values)])
        values = self._sorted[column]
        low, high = float(self._low[column]), float(self._high[column])
        low, high = (0.0, 0.0) if low > high else (low, high)
        return values if len(values) else np.array([low, high]), low, high


def capped_counts(counts: Codes, steps: int) -> Floats:
    """Cap counts ``[values]`` so that no value has more than its share of the sum, one of so many steps."""
    ordered, heavy = np.sort(counts)[::-1], 0
    while True:
        cap = ordered[heavy:].sum() / (steps - heavy)  # of the values that are not heavy
        found = min(int((counts > cap).sum()), steps - 1)
        if found <= heavy:
            capped: Floats = np.minimum(counts, cap)
            return capped
        heavy = found
