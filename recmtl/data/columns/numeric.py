"""Numeric and binned features: fit moments and quantiles, encode numbers and bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.interpolation import interpolation
from recmtl.data.columns.once import OncePerSchema
from recmtl.data.columns.row_sample import RowSample, SampledFrom
from recmtl.data.columns.values import Codes, Floats, RowNumbers, as_numbers
from recmtl.data.columns.variation import CONSTANT, EncodingFindings, Limits, limits_of
from recmtl.errors import DataError
from recmtl.schema import Binned, FittedSchema, Moments, Numeric
from recmtl.schema.fitted import FIRST, MISSING

INTERPOLATED = {"knots": (-1.0, 1.0), "quantile": (0.0, 1.0)}  # what transforms map the first and last quantile to
LARGEST = float(np.finfo(np.float32).max)
PLACES = ("knots", "quantile", "min_max")  # transforms that tell apart what rounding hides from moments


class NumericFitter:
    """Moments, quantiles and bins of numeric columns, fitted batch by batch; `sample` numbers and samples the rows."""

    def __init__(
        self, features: Sequence[Numeric | Binned], decimal: str = ".", sample: SampledFrom | None = None
    ) -> None:
        self._features, self._decimal = features, decimal
        self._moments, self._sample = MomentSums(len(features)), RowSample(len(features), sample)
        self._rows = 0

    def add(self, batch: pa.RecordBatch, kept: RowNumbers | None = None) -> None:
        """Add a batch of training rows, or those rows of it that are kept."""
        if not self._features:
            return
        rows = batch.num_rows if kept is None else len(kept)
        self._rows += rows
        hashes, places = self._sample.choose(rows)
        sampled, found = np.empty((len(self._features), len(places))), np.empty((len(self._features), 5))
        for column, feature in enumerate(self._features):  # all of one while a cache holds it
            values = clipped(batch.column(feature.name), feature, self._decimal)
            values = values if kept is None else values.take(kept)
            values.take(places, out=sampled[column], mode="clip")
            found[column, :2] = np.fmin.reduce(values, initial=np.inf), np.fmax.reduce(values, initial=-np.inf)
            logarithmic = isinstance(feature, Numeric) and feature.transform == "log1p"
            found[column, 2:] = moments_of(signed_log(values) if logarithmic else values)
        self._sample.add(hashes, sampled, *found[:, :2].T)
        self._moments.add(*found[:, 2:].T)

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


def moments_of(values: Floats) -> tuple[float, float, float]:
    """Return how many of some numbers ``[rows]`` are present, their mean, and their squared deviations from it."""
    with np.errstate(over="ignore", invalid="ignore"):  # `NumericFitter.moments` reports overflow
        mean = float(values.sum()) / max(len(values), 1)
        if math.isnan(mean):
            values = values[~np.isnan(values)]
            mean = float(values.sum()) / max(len(values), 1)
        deviations = values - mean
        return len(values), mean, float(np.einsum("r,r->", deviations, deviations))


class MomentSums:
    """Streaming mean and deviation of numeric columns in float64 (Chan's pairwise update)."""

    def __init__(self, columns: int) -> None:
        self.rows, self._mean, self._squares = np.zeros(columns), np.zeros(columns), np.zeros(columns)

    def add(self, rows: Floats, mean: Floats, squares: Floats) -> None:
        """Add rows: what `moments_of` returns of each column, all ``[columns]``."""
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.maximum(self.rows + rows, 1)
            delta = mean - self._mean
            self._squares += squares + delta**2 * self.rows * rows / total
            self._mean += delta * rows / total
        self.rows += rows

    def merge(self, later: MomentSums) -> None:
        """Add the rows of other sums."""
        self.add(later.rows, later._mean, later._squares)

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
    encoders, indicators = number_encoders(fitted), count(len(fitted.numeric))
    width = len(encoders) + sum(bool(feature.missing_indicator) for feature in fitted.numeric)
    matrix = np.empty((batch.num_rows, width), np.float32, order="F")
    for column, feature in enumerate(fitted.numeric):  # all of one while a cache holds it
        values, encoder = clipped(batch.column(feature.name), feature, fitted.schema.decimal), encoders[feature.name]
        limits = limits_of(values)
        if findings:
            findings.add_numbers(values, limits, feature, encoder.constant)
        matrix[:, column] = encoder(values, limits)
        if feature.missing_indicator:
            matrix[:, next(indicators)] = encoder.indicator(values)
    return matrix


class NumberEncoder:
    """Transforms the numbers of a feature to model inputs.

    Args:
        fitted: The fitted schema.
        feature: The feature.

    Attributes:
        constant: The number that it is in every training row, up to rounding; ``None`` if it varies.
    """

    def __init__(self, fitted: FittedSchema, feature: Numeric) -> None:
        quantiles, self._transform = fitted.quantiles[feature.name], feature.transform
        self._moments, self._missing = fitted.moments[feature.name], fitted.missing[feature.name]
        self.constant = constant(feature, fitted)
        self._low, self._high = quantiles[0], quantiles[-1]
        self._center = fitted.medians.get(feature.name, self._moments.mean)  # of the transform `knots`
        if self._transform == "quantile":
            self._center = float(np.median(quantiles))
        if self._transform in INTERPOLATED:
            self._interpolation = interpolation(quantiles, *INTERPOLATED[self._transform])

    def __call__(self, values: Floats, limits: Limits | None = None) -> Floats:
        """Transform clipped values ``[rows]``; missing ones are filled in, and a constant stands in every row."""
        limits = limits or limits_of(values)
        if self.constant is not None:
            values, limits = np.full(len(values), self.constant), Limits(self.constant, self.constant)
        if self._transform == "log1p":
            values = signed_log(values)
        if np.isnan(limits.low):
            values = np.where(np.isnan(values), self._center, values)
        if self._transform in INTERPOLATED:  # of equal quantiles the last counts: the share ≤ x
            return self._interpolation(values, limits.within(self._low, self._high))
        with np.errstate(over="ignore"):
            return np.clip(self._scaled(values), -LARGEST, LARGEST)

    def _scaled(self, values: Floats) -> Floats:
        if self._transform == "none":
            return values
        if self._transform == "min_max":
            return (values - self._low) / (self._high - self._low or 1.0)
        mean, deviation = self._moments
        return (values - mean) / deviation if deviation else np.zeros(len(values))

    def indicator(self, values: Floats) -> npt.NDArray[np.bool_] | float:
        """Return whether values are missing ``[rows]``, or a number for all rows if training rows do not vary."""
        return self._missing if self._missing in (0, 1) else np.isnan(values)


number_encoders = OncePerSchema(lambda fitted: {f.name: NumberEncoder(fitted, f) for f in fitted.numeric})


def constant(feature: Numeric, fitted: FittedSchema) -> float | None:
    """Return the number that a feature is in every training row, up to rounding; ``None`` if it varies."""
    low, high = fitted.quantiles[feature.name][0], fitted.quantiles[feature.name][-1]
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
        findings.add_range(feature.name, values, limits_of(values))
    elif findings and feature.name in fitted.ranges:  # the only bin holds other values, too
        findings.add(feature.name, CONSTANT, ~np.isnan(values) & (values != fitted.ranges[feature.name][0]))
    return np.where(np.isnan(values), MISSING, FIRST + np.searchsorted(fitted.quantiles[feature.name], values))


def clipped(column: pa.Array, feature: Numeric | Binned, decimal: str) -> Floats:
    """Return the column of a feature ``[rows]``, clipped to its limits; NaN is missing."""
    values = as_numbers(column, feature.name, decimal)
    return np.clip(values, *feature.clip) if feature.clip else values


def signed_log(values: Floats) -> Floats:
    """Return sign(x)·log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))
