"""Numeric and binned features: fit moments and quantiles, encode numbers and bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.interpolation import interpolation
from recmtl.data.columns.row_sample import RowSample, SampledFrom
from recmtl.data.columns.values import Codes, Floats, as_numbers
from recmtl.data.columns.variation import CONSTANT, EncodingFindings
from recmtl.errors import DataError
from recmtl.schema import Binned, FittedSchema, Moments, Numeric
from recmtl.schema.fitted import FIRST, MISSING

PLACES = ("knots", "quantile", "min_max")  # transforms that tell apart what rounding hides from moments


class NumericFitter:
    """Moments, quantiles and bins of numeric columns, fitted batch by batch; `sample` numbers and samples the rows."""

    def __init__(
        self, features: Sequence[Numeric | Binned], decimal: str = ".", sample: SampledFrom | None = None
    ) -> None:
        self._features, self._decimal = features, decimal
        self._moments, self._sample = MomentSums(len(features)), RowSample(len(features), sample)
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

    def merge(self, later: NumericFitter) -> None:
        """Add what was learned from later rows."""
        self._rows += later._rows
        self._moments.merge(later._moments)
        self._sample.merge(later._sample)

    @property
    def sample_limit(self) -> int:
        """The highest hash of a row that the sample may still take."""
        return self._sample.limit

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
            self._combine(rows, mean, np.einsum("cr,cr->c", deviations, deviations))

    def merge(self, later: MomentSums) -> None:
        """Add the rows of other sums."""
        with np.errstate(over="ignore", invalid="ignore"):
            self._combine(later.rows, later._mean, later._squares)

    def _combine(self, rows: Floats, mean: Floats, squares: Floats) -> None:
        """Add rows, given their number, mean and squared deviations from it, of each column."""
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
    indicated = [feature for feature in raw if feature.missing_indicator]
    largest = np.finfo(np.float32).max
    matrix = np.empty((batch.num_rows, len(raw) + len(indicated)), np.float32)
    with np.errstate(over="ignore"):  # clipped below
        for position, (feature, values) in enumerate(raw.items()):  # each while a cache holds it
            matrix[:, position] = transformed(values, feature, fitted)
        for position, feature in enumerate(indicated, len(raw)):
            matrix[:, position] = indicator(raw[feature], feature, fitted)
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
        places = interpolation(quantiles, -1.0, 1.0)(filled)
        return np.clip(places, -1, 1, out=places)  # knots may be a denormal apart
    if feature.transform == "quantile":  # of equal quantiles the last counts: the share ≤ x
        return interpolation(quantiles, 0.0, 1.0)(filled)
    if feature.transform == "min_max":
        low, high = quantiles[0], quantiles[-1]
        return (filled - low) / (high - low or 1.0)
    return (filled - mean) / deviation if deviation else np.zeros(len(filled))


def signed_log(values: Floats) -> Floats:
    """Return sign(x)·log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))
