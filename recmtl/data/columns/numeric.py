"""Numeric and binned features: fit moments and quantiles, encode numbers and bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.values import Codes, Floats, as_numbers, stable_hash
from recmtl.data.columns.variation import CONSTANT, EncodingFindings
from recmtl.errors import DataError
from recmtl.schema import Binned, FittedSchema, Moments, Numeric
from recmtl.schema.fitted import FIRST, MISSING
from recmtl.schema.statistics import MAX_KNOTS

SAMPLE, SPARE = 100_000, 50_000  # rows sampled for quantiles, and rows buffered before the sample is cut again
MAX_QUANTILES = 256  # of each numeric feature
PLACES = ("knots", "quantile", "min_max")  # transforms that tell apart what rounding hides from moments


class NumericFitter:
    """Moments, quantiles and bins of numeric columns, fitted batch by batch."""

    def __init__(self, features: Sequence[Numeric | Binned], decimal: str = ".") -> None:
        self._features, self._decimal = features, decimal
        self._moments, self._sample = MomentSums(len(features)), RowSample(len(features))
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch of training rows."""
        if not self._features:
            return
        self._rows += batch.num_rows
        values = np.stack([clipped(batch.column(f.name), f, self._decimal) for f in self._features])  # [columns, rows]
        self._sample.add(values)
        for column, feature in enumerate(self._features):
            if isinstance(feature, Numeric) and feature.transform == "log1p":
                values[column] = signed_log(values[column])
        self._moments.add(values)

    def moments(self) -> dict[str, Moments]:
        """Return mean and deviation of each numeric feature; numbers too large for its transform raise `DataError`."""
        found = {}
        for feature, moments in zip(self._features, self._moments.moments(), strict=True):
            if isinstance(feature, Numeric):
                needed = {"standardize": moments, "quantile": (), "knots": ()}.get(feature.transform, moments[:1])
                if not np.isfinite(needed).all():
                    raise DataError(
                        f"column {feature.name!r} has numbers too large for a mean and a deviation: set `clip`, or "
                        "use the transform `knots`"
                    )
                mean, deviation = np.where(np.isfinite(moments), moments, (0.0, 1.0)).tolist()
                found[feature.name] = Moments(mean, deviation)
        return found

    def quantiles(self) -> dict[str, tuple[float, ...]]:
        """Return the quantiles or knots of each numeric feature and the bin edges of each binned one."""
        found = {}
        for column, f in enumerate(self._features):
            if isinstance(f, Binned):
                points = self._sample.edges(column, f.bins)
            else:
                points = self._sample.knots(column) if f.transform == "knots" else self._sample.quantiles(column)
            found[f.name] = tuple(points.tolist())
        return found

    def medians(self) -> dict[str, float]:
        """Return the median of each numeric feature with knots."""
        columns = enumerate(self._features)
        return {f.name: self._sample.median(c) for c, f in columns if isinstance(f, Numeric) and f.transform == "knots"}

    def missing(self) -> dict[str, float]:
        """Return the share of rows that lack each feature."""
        rows = zip(self._features, self._moments.rows.tolist(), strict=True)
        return {f.name: 1 - present / max(self._rows, 1) for f, present in rows}

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the lowest and the highest value of each feature that has one."""
        ranges = zip(self._features, *self._sample.ranges, strict=True)
        return {f.name: (float(low), float(high)) for f, low, high in ranges if low <= high}

    def constant_bins(self) -> dict[str, tuple[int, ...]]:
        """Return the id of each binned feature that has the same one in every row."""
        found: dict[str, tuple[int, ...]] = {}
        for column, (f, present) in enumerate(zip(self._features, self._moments.rows.tolist(), strict=True)):
            if isinstance(f, Binned) and present in (0, self._rows) and not len(self._sample.edges(column, f.bins)):
                found[f.name] = (FIRST if present else MISSING,)
        return found

    def incomplete(self) -> frozenset[str]:
        """Return the features with a missing value, but for those without any value."""
        rows = zip(self._features, self._moments.rows, strict=True)
        return frozenset(f.name for f, present in rows if 0 < present < self._rows)

    def notes(self) -> list[str]:
        """Return a note for each constant or missing column."""
        notes, varies = [], zip(self._moments.rows, self._moments.varies(), self._sample.varies(), strict=True)
        for f, (rows, by_moments, by_range) in zip(self._features, varies, strict=True):
            if not (by_range if isinstance(f, Binned) or f.transform in PLACES else by_moments):
                what = "constant in the training rows" if rows else "missing in every training row"
                notes.append(f"numeric column {f.name!r} is {what}")
        return notes


class MomentSums:
    """Streaming mean and deviation of numeric columns in float64 (Chan's pairwise update)."""

    def __init__(self, columns: int) -> None:
        self.rows, self._mean, self._squares = np.zeros(columns), np.zeros(columns), np.zeros(columns)

    def add(self, values: Floats) -> None:
        """Add a batch ``[columns, rows]``; NaN is missing."""
        with np.errstate(over="ignore", invalid="ignore"):  # `NumericFitter.moments` reports overflow
            rows = np.full(len(values), float(values.shape[1]))
            mean = values.sum(axis=1) / max(values.shape[1], 1)
            if np.isnan(mean).any():
                present = ~np.isnan(values)
                rows = present.sum(axis=1).astype(np.float64)
                mean = np.where(present, values, 0).sum(axis=1) / np.maximum(rows, 1)
                values = np.where(present, values, mean[:, None])
            deviations = values - mean[:, None]  # [columns, rows]
            squares = np.einsum("cr,cr->c", deviations, deviations)
            total = np.maximum(self.rows + rows, 1)
            delta = mean - self._mean
            self._squares += squares + delta**2 * self.rows * rows / total
            self._mean += delta * rows / total
        self.rows += rows

    def moments(self) -> list[Moments]:
        """Return mean and deviation of each column: 0 if it is constant, not finite if it overflows."""
        deviation = np.where(self.varies(), np.sqrt(self._squares / np.maximum(self.rows, 1)), 0.0)
        return [Moments(*pair) for pair in zip(self._mean.tolist(), deviation.tolist(), strict=True)]

    def varies(self) -> npt.NDArray[np.bool_]:
        """Return which columns vary by more than rounding errors."""
        with np.errstate(over="ignore"):
            varies: npt.NDArray[np.bool_] = self._squares > 1e-24 * self.rows * self._mean**2
        return varies | ~np.isfinite(self._squares)


class RowSample:
    """Exact ranges of numeric columns, and a uniform sample of rows: those with the lowest hash of the row number.

    Up to `SAMPLE` rows the sample is complete. Beyond that the share of rows below a sample quantile has a standard
    error of at most 0.5 / √n for n non-missing sampled values: 0.0016 if none is missing.
    """

    def __init__(self, columns: int) -> None:
        self._rows = self._held = 0
        self._hashes = np.empty(SAMPLE + SPARE, np.uint64)
        self._values = np.empty((SAMPLE + SPARE, columns))
        self._limit = np.uint64(np.iinfo(np.uint64).max)  # the highest hash in the sample
        self._low, self._high = np.full(columns, np.inf), np.full(columns, -np.inf)

    def add(self, values: Floats) -> None:
        """Add a batch ``[columns, rows]``; NaN is missing."""
        hashes = stable_hash(np.arange(self._rows, self._rows + values.shape[1]))
        self._rows += values.shape[1]
        for start in range(0, values.shape[1], SPARE):
            end = start + SPARE
            self._keep(hashes[start:end], values[:, start:end])
        self._low = np.fmin(self._low, np.fmin.reduce(values, axis=1, initial=np.inf))
        self._high = np.fmax(self._high, np.fmax.reduce(values, axis=1, initial=-np.inf))

    def _keep(self, hashes: npt.NDArray[np.uint64], values: Floats) -> None:
        """Buffer the rows, at most `SPARE`, whose hash is below the limit."""
        (low,) = np.nonzero(hashes <= self._limit)
        if self._held + len(low) > len(self._hashes):
            self._cut()
        places = slice(self._held, self._held + len(low))
        self._hashes[places], self._values[places] = hashes[low], values.T[low]
        self._held += len(low)

    def _cut(self) -> None:
        """Reduce the buffer to the sample."""
        if self._held > SAMPLE:
            kept = np.zeros(self._held, np.bool_)
            kept[np.argpartition(self._hashes[: self._held], SAMPLE - 1)[:SAMPLE]] = True
            free, moved = np.flatnonzero(~kept[:SAMPLE]), SAMPLE + np.flatnonzero(kept[SAMPLE:])
            self._hashes[free], self._values[free] = self._hashes[moved], self._values[moved]
            self._held, self._limit = SAMPLE, self._hashes[:SAMPLE].max()

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
        distinct, counts = np.unique(np.append(values, [low, high]), return_counts=True)
        if len(distinct) <= MAX_KNOTS:
            return distinct
        steps = MAX_KNOTS - 1
        shares = np.cumsum(capped_counts(counts, steps))
        places = np.searchsorted(shares, np.arange(1, steps) / steps * shares[-1])
        rising: Floats = distinct[np.unique([0, *places, len(distinct) - 1])]
        return rising

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
        """Return the sampled values of a column, its minimum and its maximum; 0 if it has no value."""
        self._cut()
        values = self._values[: self._held, column]
        low, high = float(self._low[column]), float(self._high[column])
        low, high = (0.0, 0.0) if low > high else (low, high)
        values = values[~np.isnan(values)]
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


def places_of(knots: int) -> Floats:
    """Return what the transform `knots` maps each of so many knots to ``[knots]``: from -1 to 1, in equal steps."""
    return np.linspace(-1, 1, knots) if knots > 1 else np.zeros(1)


def encode_numbers(
    batch: pa.RecordBatch, fitted: FittedSchema, findings: EncodingFindings | None = None
) -> npt.NDArray[np.float32]:
    """Encode the numeric features of a batch, then their missing indicators, float32 ``[rows, numeric columns]``.

    What is the same in every training row is so in every row; `findings` counts the rows in which it was not.
    """
    raw = {f: clipped(batch.column(f.name), f, fitted.schema.decimal) for f in fitted.numeric}
    if findings:
        for feature, values in raw.items():
            findings.add_numbers(values, feature, constant(feature, fitted))
    columns = [transformed(values, feature, fitted) for feature, values in raw.items()]
    columns += [indicator(values, f, fitted) for f, values in raw.items() if f.missing_indicator]
    largest = np.finfo(np.float32).max
    matrix = np.empty((batch.num_rows, len(columns)), np.float32)
    with np.errstate(over="ignore"):  # clipped below
        for position, values in enumerate(columns):
            matrix[:, position] = values
    return np.clip(matrix, -largest, largest, out=matrix)


def indicator(values: Floats, feature: Numeric, fitted: FittedSchema) -> Floats:
    """Return 1 where a value is missing, 0 elsewhere; the same in all rows if training rows do not vary."""
    share = fitted.missing[feature.name]
    return np.full(len(values), share) if share in (0, 1) else np.isnan(values).astype(np.float64)


def constant(feature: Numeric, fitted: FittedSchema) -> float | None:
    """Return the number that a feature is in every training row, up to rounding; ``None`` if it varies."""
    low, *_, high = (*fitted.quantiles[feature.name], fitted.quantiles[feature.name][-1])
    if low == high:
        return low
    mean, deviation = fitted.moments[feature.name]
    return (
        None if feature.transform in PLACES or deviation else (low + high) / 2 if feature.transform == "log1p" else mean
    )


def encode_bins(
    column: pa.Array, feature: Binned, fitted: FittedSchema, findings: EncodingFindings | None = None
) -> Codes:
    """Return the bin id of each row ``[rows]``; a value equal to an edge belongs to the lower bin."""
    values = clipped(column, feature, fitted.schema.decimal)
    if findings and feature.name not in fitted.constants:
        findings.add_range(feature.name, values)
    elif findings and feature.name in fitted.ranges:  # the only bin holds other values, too
        findings.add(feature.name, CONSTANT, ~np.isnan(values) & (values != fitted.ranges[feature.name][0]))
    return np.where(np.isnan(values), MISSING, FIRST + np.searchsorted(fitted.quantiles[feature.name], values))


def clipped(column: pa.Array, feature: Numeric | Binned, decimal: str) -> Floats:
    """Return the column of a feature ``[rows]``, clipped to its limits; NaN is missing."""
    values = as_numbers(column, feature.name, decimal)
    return np.clip(values, *feature.clip) if feature.clip else values


def transformed(values: Floats, feature: Numeric, fitted: FittedSchema) -> Floats:
    """Transform clipped values of a feature to model inputs; missing values are filled in.

    A feature that is the same in every training row is read as that in every row.
    """
    fixed = constant(feature, fitted)
    if fixed is not None:
        values = np.full(len(values), fixed)
    (mean, deviation), quantiles = fitted.moments[feature.name], fitted.quantiles[feature.name]
    if feature.transform == "log1p":
        values = signed_log(values)
    center = fitted.medians.get(feature.name, mean)  # there is one if the transform is `knots`
    if feature.transform == "quantile":
        center = float(np.median(quantiles))
    missing = np.isnan(values)
    filled = np.where(missing, center, values) if missing.any() else values
    if feature.transform == "none":
        return filled
    if feature.transform == "knots":
        places: Floats = np.clip(np.interp(filled, quantiles, places_of(len(quantiles))), -1, 1)
        return places  # clipped, as knots may be a denormal apart
    if feature.transform == "quantile":  # of equal quantiles np.interp takes the last: the share ≤ x
        return np.interp(filled, quantiles, np.linspace(0, 1, len(quantiles)))
    if feature.transform == "min_max":
        low, high = quantiles[0], quantiles[-1]
        return (filled - low) / (high - low or 1.0)
    return (filled - mean) / deviation if deviation else np.zeros(len(filled))


def signed_log(values: Floats) -> Floats:
    """Return sign(x)·log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))
