"""How well probabilities are calibrated: before and after a calibration, by the values of a feature, and over time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from recmtl.errors import SchemaError
from recmtl.evaluate.calibration_error import calibration_error
from recmtl.evaluate.confidence import t_quantile
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.measures.multiclass import top_class
from recmtl.evaluate.metrics import metrics_of
from recmtl.evaluate.predictions import Predictions
from recmtl.evaluate.scores import Scores
from recmtl.evaluate.slices import FEW_POSITIVES, MOST_SLICES, FeatureValues, distinct_texts, range_names
from recmtl.io.spellings import TICKS
from recmtl.schema.unix_time import unix_unit

STAGES = ("uncalibrated", "calibrated")
MOST_PERIODS = 31
LEVEL = 0.95


def calibration_table(predictions: Predictions) -> pd.DataFrame:
    """Return how well each task with probabilities is calibrated: as the model predicts it and, if it is, calibrated.

    Of a multi-class task it is the highest probability of each row, beside the share of rows that are of that class.

    Rows on which the calibration was fitted flatter it: take test rows.

    Returns:
        A row for each task and stage (`uncalibrated`, `calibrated`) with the columns `task`, `stage`, `rows`,
        `predicted` and `observed` (weighted means), `ece` with the interval `low` to `high` of the true error and
        `noise`, the error that right predictions would show (see `calibration_error`), and `logloss`.
    """
    before, after = predictions.before_calibration(), predictions if predictions.uncalibrated else None
    rows = []
    for stage, found in zip(STAGES, (before, after), strict=True):
        for scores in with_probabilities(found) if found else ():
            error = calibration_error(scores)
            ends = (error.ece, error.low, error.high, error.noise) if error else (np.nan,) * 4
            logloss = metrics_of(scores, names=["logloss"]).values["logloss"]
            shown = top_class(scores) if scores.task.has_classes else scores
            rows.append((scores.task.name, stage, len(scores), *means(shown), *ends, logloss))
    columns = ["task", "stage", "rows", "predicted", "observed", "ece", "low", "high", "noise", "logloss"]
    frame = pd.DataFrame(rows, columns=columns)
    order = list(dict.fromkeys(frame["task"]))
    return frame.sort_values("task", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def calibration_by_slice(predictions: Predictions, values: FeatureValues, most: int = MOST_SLICES) -> pd.DataFrame:
    """Return how well each binary task is calibrated on the rows of each value of a feature.

    Returns:
        A row for each task and value with the columns `task`, `value`, `rows`, `positives`, `predicted` and `observed`
        (weighted means), and `calibration`, the one over the other, with its interval `low` to `high` (see
        `calibration_interval`). The value furthest from 1 comes first, those with fewer than 10 positives or without an
        interval last.
    """
    parts = ((value, predictions.select(mask)) for value, mask in values.parts(most))
    frame = _ratio_table(parts, "value")
    far = np.log(frame["calibration"].where(frame["low"].notna())).abs()
    frame = frame.assign(few=frame["positives"] < FEW_POSITIVES, far=-far)
    frame = frame.sort_values(["few", "far"], kind="stable").drop(columns=["few", "far"])
    order = [task.name for task in predictions.schema.reported_tasks]
    return frame.sort_values("task", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def calibration_over_time(predictions: Predictions, column: str) -> pd.DataFrame:
    """Return how well each binary task is calibrated in one period after the other.

    Args:
        predictions: The predictions.
        column: A key: times or dates, also as ISO 8601 or seconds to nanoseconds since 1970, by day or, of less than
            three days, by hour; or other numbers or text, in their order.

    Returns:
        As `calibration_by_slice`, with the column `period` in the place of `value`, in the order of time; many periods
        are joined to 31 ranges.

    Raises:
        SchemaError: There is no such key.
    """
    if column not in predictions.keys.column_names:
        known = ", ".join(map(repr, predictions.keys.column_names)) or "none"
        raise SchemaError(f"calibration over time needs a key: expected one of {known}, got {column!r}")
    names, codes = periods(predictions.keys[column])
    parts = ((name, predictions.select(codes == code)) for code, name in enumerate(names) if (codes == code).any())
    return _ratio_table(parts, "period")


def time_key(predictions: Predictions) -> str | None:
    """Return the first key, other than the group, that holds times or dates; ``None`` if there is none."""
    keys = predictions.keys
    columns = (name for name in keys.column_names if name != predictions.group_column)
    return next((name for name in columns if _times(keys[name].to_pandas()) is not None), None)


def calibration_interval(scores: Scores, level: float = LEVEL) -> tuple[float, float, float]:
    r"""Return the mean prediction over the mean label, $R = \sum w p / \sum w y$, with its interval.

    By the delta method $\log R$ is normal with the standard deviation $\sqrt{\sum_c (\sum_{i \in c} w_i (p_i - R
    y_i))^2} / \sum w p$ over rows or, with groups, over groups $c$; with Student's t of as many degrees of freedom as
    clusters with positives or with negatives, whichever are fewer, less one. NaN without positives; ends are NaN with
    fewer than two such clusters.
    """
    weight = np.ones(len(scores)) if scores.weight is None else scores.weight
    predicted, observed = float(weight @ scores.predictions), float(weight @ scores.labels)
    if observed <= 0 or predicted <= 0:
        return (float("nan"),) * 3
    ratio = predicted / observed
    codes, count = scores.clusters
    degrees = MEASURES[scores.task.kind].effective_clusters(scores) - 1
    if degrees < 1:
        return ratio, float("nan"), float("nan")
    sums = np.bincount(codes, weight * (scores.predictions - ratio * scores.labels), minlength=count)
    spread = t_quantile(level, degrees) * float(np.sqrt(sums @ sums)) / predicted
    return ratio, ratio * float(np.exp(-spread)), ratio * float(np.exp(spread))


def with_probabilities(predictions: Predictions) -> Iterator[Scores]:
    """Yield the scores of the binary and multi-class tasks whose rows all have probabilities."""
    for scores in predictions.scores().values():
        probable = "ece" in MEASURES[scores.task.kind].metrics
        if probable and len(scores) and MEASURES[scores.task.kind].is_valid(scores.predictions).all():
            yield scores


def means(scores: Scores) -> tuple[float, float]:
    """Return the weighted means of predictions and labels."""
    predicted, observed = (np.average(values, weights=scores.weight) for values in (scores.predictions, scores.labels))
    return float(predicted), float(observed)


def _ratio_table(parts: Iterator[tuple[str, Predictions]], what: str) -> pd.DataFrame:
    rows = [
        (scores.task.name, name, len(scores), scores.positives, *means(scores), *calibration_interval(scores))
        for name, part in parts
        for scores in with_probabilities(part)
        if not scores.task.has_classes
    ]
    columns = ["task", what, "rows", "positives", "predicted", "observed", "calibration", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    order = list(dict.fromkeys(frame["task"]))
    return frame.sort_values("task", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def periods(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the names of the periods of a column in their order, and the period of each row, -1 if it has none."""
    values = column.to_pandas()
    times = _times(values)
    if times is not None:
        known = times.dropna()
        days = known.empty or (known == known.dt.floor("D")).all()
        short = not days and known.max() - known.min() < pd.Timedelta(days=3)
        floored = times.dt.floor("h" if short else "D")
        codes, found = pd.factorize(floored, sort=True)
        names = [value.strftime("%Y-%m-%d %H:00" if short else "%Y-%m-%d") for value in found]
    else:
        codes, found = pd.factorize(values, sort=True)
        numeric = pd.api.types.is_numeric_dtype(values)
        if numeric and len(found) > MOST_PERIODS:
            edges = np.unique(np.quantile(values.dropna(), np.arange(1, MOST_PERIODS) / MOST_PERIODS))
            codes = np.where(values.isna(), -1, np.searchsorted(edges, values))
            return range_names(edges), codes.astype(np.int64)
        names = distinct_texts(np.asarray(found, float), 10) if numeric else [str(value) for value in found]
    if len(names) <= MOST_PERIODS:
        return names, np.asarray(codes, np.int64)
    joined = np.arange(len(names)) * MOST_PERIODS // len(names)  # the range of each period
    firsts = [int(np.argmax(joined == part)) for part in range(MOST_PERIODS)]
    lasts = [*(first - 1 for first in firsts[1:]), len(names) - 1]
    ranges = [names[a] if a == b else f"{names[a]} to {names[b]}" for a, b in zip(firsts, lasts, strict=True)]
    return ranges, np.where(codes < 0, -1, joined[codes]).astype(np.int64)


def _times(values: pd.Series) -> pd.Series | None:
    """Return a column as times in UTC; ``None`` if it holds something else."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return pd.to_datetime(values, utc=True)
    present = values.dropna()
    if not len(present):
        return None
    if pd.api.types.is_numeric_dtype(values):
        unit = unix_unit(present.min(), present.max())
        return None if unit is None else pd.to_datetime(values * (10**9 // TICKS[unit]), unit="ns", utc=True)
    parsed = pd.to_datetime(present.astype(str), format="ISO8601", errors="coerce", utc=True)
    if parsed.isna().any() or not present.astype(str).str.contains("-").all():
        return None
    return parsed.reindex(values.index)
