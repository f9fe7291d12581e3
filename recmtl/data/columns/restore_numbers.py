"""From encoded numbers back to those of the column."""

from __future__ import annotations

import numpy as np

from recmtl.data.columns.values import Floats
from recmtl.schema import FittedSchema, Numeric

SNAP = 1e-4  # of the way between two knots, within which a place in float32 is that of the knot


def restored(values: Floats, feature: Numeric, fitted: FittedSchema) -> Floats:
    """Invert `transformed`: clipped values of a feature; filled-in values stay."""
    (mean, deviation), quantiles = fitted.moments[feature.name], fitted.quantiles[feature.name]
    if feature.transform == "none":
        return values
    if feature.transform == "knots":
        index = (values + 1) / 2 * (len(quantiles) - 1)
        nearest = np.round(index)
        index = np.where(np.abs(index - nearest) < SNAP, nearest, index)
        return np.interp(index, np.arange(len(quantiles)), quantiles)
    if feature.transform == "quantile":
        return np.interp(values, np.linspace(0, 1, len(quantiles)), quantiles)
    if feature.transform == "min_max":
        low, high = quantiles[0], quantiles[-1]
        return values * (high - low or 1.0) + low
    standard = values * deviation + mean
    return np.sign(standard) * np.expm1(np.abs(standard)) if feature.transform == "log1p" else standard
