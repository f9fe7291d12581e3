"""Metrics on parts of the rows: those that have the same value of a feature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from recmtl.evaluate.intervals import auc_interval
from recmtl.evaluate.metrics import metrics_of
from recmtl.evaluate.predictions import Predictions
from recmtl.evaluate.scores import Floats, Scores

MOST_SLICES = 20
MOST_DIGITS = 17  # which tell any two numbers apart
BINS = 5  # of a feature with many different numbers
MISSING_VALUE = "(missing)"
COLUMNS = ("task", "value", "rows", "positives", "auc", "low", "high")

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Values:
    """The values of a feature in rows, of which a row may have several.

    Shape:
        - codes, rows: ``[values in all rows]``

    Args:
        names: What each code means.
        codes: The values.
        rows: The row of each.
        length: How many rows there are.
    """

    names: Sequence[str]
    codes: Indices
    rows: Indices
    length: int

    @classmethod
    def of(cls, names: Sequence[str], codes: Indices) -> Values:
        """Take one value per row ``[rows]``; -1 is missing."""
        return cls([*names, MISSING_VALUE], np.where(codes < 0, len(names), codes), np.arange(len(codes)), len(codes))

    @classmethod
    def of_numbers(cls, numbers: Floats) -> Values:
        """Take a number per row ``[rows]``, NaN where missing; many different ones are put in equal bins."""
        present = numbers[~np.isnan(numbers)]
        distinct = np.unique(present)
        if len(distinct) <= MOST_SLICES:
            codes = np.where(np.isnan(numbers), -1, np.searchsorted(distinct, numbers))
            return cls.of(written(distinct, 6), codes)
        edges = np.unique(np.quantile(present, np.arange(1, BINS) / BINS, method="inverted_cdf"))
        codes = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers))
        return cls.of(ranges(edges), codes)

    def parts(self, most: int = MOST_SLICES) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Give each value and its rows as a mask ``[rows]``: of many values the most frequent, then all others.

        No two have the same name: of a value that is called like what stands for a missing one, the rarer has a number.
        """
        counts = np.bincount(self.codes, minlength=len(self.names))
        order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        shown, others = (order, order[:0]) if len(order) <= most else np.split(order, [most - 1])
        seen = Counter[str]()
        for code in shown.tolist():
            name = self.names[code]
            seen[name] += 1
            yield name if seen[name] == 1 else f"{name} ({seen[name]})", self._mask(self.codes == code)
        if len(others):
            yield f"({len(others):,} others)", self._mask(np.isin(self.codes, others))

    def _mask(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(self.length, np.bool_)
        mask[self.rows[chosen]] = True
        return mask


def written(numbers: Floats, digits: int) -> list[str]:
    """Write distinct numbers with so many digits, or with as many as tell them apart."""
    texts = [f"{number:.{digits}g}" for number in numbers]
    return texts if len(set(texts)) == len(texts) or digits >= MOST_DIGITS else written(numbers, digits + 1)


def ranges(edges: Floats) -> list[str]:
    """Name the ranges between edges; a value that equals an edge lies below it."""
    texts = written(edges, 4)
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]}", *between, f"above {texts[-1]}"] if texts else ["all"]


def slice_table(predictions: Predictions, values: Values, most: int = MOST_SLICES, level: float = 0.95) -> pd.DataFrame:
    """Measure the AUC of each binary task on the rows of each value of a feature, with its interval.

    Args:
        predictions: The predictions.
        values: The feature's values in the same rows.
        most: How many slices at most; the least frequent values are put together.
        level: Of the interval.

    Returns:
        The columns ``task``, ``value``, ``rows``, ``positives``, ``auc``, ``low`` and ``high``, for each task the
        smallest AUC first; NaN where a slice lacks one of the classes, or is too small for an interval.
    """
    found = []
    for value, mask in values.parts(most):
        for scores in chosen(predictions, mask).scores().values():
            if scores.task.kind == "binary":
                found.append(_slice(value, scores, level))
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    order = {name: i for i, name in enumerate(dict.fromkeys(frame["task"]))}
    return frame.sort_values(
        ["task", "auc"], key=lambda column: column.map(order) if column.name == "task" else column, kind="stable"
    ).reset_index(drop=True)


def _slice(value: str, scores: Scores, level: float) -> tuple[str, str, int, int, float, float, float]:
    auc, interval = metrics_of(scores, names=["auc"]).values["auc"], auc_interval(scores, level)
    low, high = (np.nan, np.nan) if interval is None else (interval.low, interval.high)
    found = np.nan if auc is None else auc
    return scores.task.name, value, len(scores), int(scores.labels.sum()), found, low, high


def chosen(predictions: Predictions, mask: npt.NDArray[np.bool_]) -> Predictions:
    """Give the rows of predictions that a mask ``[rows]`` chooses."""
    return replace(
        predictions,
        values={name: values[mask] for name, values in predictions.values.items()},
        labels={name: labels[mask] for name, labels in predictions.labels.items()},
        weight=None if predictions.weight is None else predictions.weight[mask],
        keys=predictions.keys.filter(pa.array(mask)),
    )
