"""Metrics by the values of a feature: AUC by those of any, more by those of the domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from recmtl.data.columns.values import as_text
from recmtl.evaluate.intervals import auc_interval
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import Metrics, metrics_of
from recmtl.evaluate.predictions import Predictions
from recmtl.evaluate.scores import Floats, Integers, Scores
from recmtl.schema.fitted import MOST_DOMAINS

MOST_SLICES = 20
MOST_DIGITS = 17  # tell any two floats apart
FEW_POSITIVES = 10  # or negatives: the AUC of a slice with fewer says little
NUMBER_BINS = 5  # of a feature with many distinct numbers
MISSING_VALUE = "(missing)"
SLICE_COLUMNS = ("task", "value", "rows", "positives", "auc", "low", "high", "few")


@dataclass(frozen=True)
class FeatureValues:
    """The values of a feature in rows; a row may have several."""

    names: Sequence[str]
    codes: Integers  # [values in all rows], indices of `names`
    rows: Integers  # [values in all rows], the row of each value
    length: int  # the number of rows
    counts: Integers | None = None  # [names], of all rows if these are a share of them

    @classmethod
    def of(cls, names: Sequence[str], codes: Integers) -> FeatureValues:
        """Build from one code per row ``[rows]``; -1 is missing."""
        return cls([*names, MISSING_VALUE], np.where(codes < 0, len(names), codes), np.arange(len(codes)), len(codes))

    @classmethod
    def of_text(cls, column: pa.ChunkedArray, name: str) -> FeatureValues:
        """Build from a column of one value per row, each as text, in the order in which they occur."""
        values, codes = as_text(column.combine_chunks(), name)
        encoded = values.take(pa.array(np.maximum(codes, 0), mask=codes < 0)).dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls.of(encoded.dictionary.to_pylist(), codes)

    @classmethod
    def of_numbers(cls, numbers: Floats) -> FeatureValues:
        """Build from one number per row ``[rows]``, NaN if missing; many distinct numbers are put in quantile bins."""
        present = numbers[~np.isnan(numbers)]
        known = np.unique(present)
        if len(known) <= MOST_SLICES:
            codes = np.where(np.isnan(numbers), -1, np.searchsorted(known, numbers))
            return cls.of(distinct_texts(known, 6), codes)
        edges = np.unique(np.quantile(present, np.arange(1, NUMBER_BINS) / NUMBER_BINS, method="inverted_cdf"))
        codes = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers))
        return cls.of(range_names(edges), codes)

    def counted(self) -> tuple[Sequence[str], Integers]:
        """Return the names, that of missing values last, and how often each occurs in these rows."""
        return self.names, np.bincount(self.codes, minlength=len(self.names))

    def spread(self, shares: Sequence[tuple[Sequence[str], Integers]]) -> FeatureValues:
        """Return the values of a share of rows as those of all rows, from what is `counted` in each share.

        All have the values of all shares, in the order in which they occur, with how often they occur in all rows.
        """
        distinct = list(dict.fromkeys(name for names, _ in shares for name in names[:-1]))
        place, counts = {name: i for i, name in enumerate(distinct)}, np.zeros(len(distinct) + 1, np.int64)
        for names, found in shares:
            counts[[*(place[name] for name in names[:-1]), -1]] += found
        codes = np.array([*(place[name] for name in self.names[:-1]), len(distinct)])[self.codes]
        return FeatureValues([*distinct, self.names[-1]], codes, self.rows, self.length, counts)

    def parts(self, most: int = MOST_SLICES) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Yield each value with the mask ``[rows]`` of its rows; of many values the most frequent, then all others.

        Names are unique: if a value is named like the placeholder of missing values, the rarer one gets a number.
        """
        counts = self.counted()[1] if self.counts is None else self.counts
        order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        shown, others = (order, order[:0]) if len(order) <= most else np.split(order, [most - 1])
        seen = Counter[str]()
        for code in shown.tolist():
            name = self.names[code]
            seen[name] += 1
            yield name if seen[name] == 1 else f"{name} ({seen[name]})", self._mask(self.codes == code)
        if len(others):
            yield f"({len(others):,} others)", self._mask(np.isin(self.codes, others))

    def _mask(self, values: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(self.length, np.bool_)
        mask[self.rows[values]] = True
        return mask


def distinct_texts(numbers: Floats, digits: int) -> list[str]:
    """Format distinct numbers with a minimum of digits, or more if they would look the same."""
    texts = [f"{number:.{digits}g}" for number in numbers]
    return texts if len(set(texts)) == len(texts) or digits >= MOST_DIGITS else distinct_texts(numbers, digits + 1)


def range_names(edges: Floats) -> list[str]:
    """Return the names of the ranges between edges; a value equal to an edge lies below it."""
    texts = distinct_texts(edges, 4)
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]}", *between, f"above {texts[-1]}"] if texts else ["all"]


def slice_table(predictions: Predictions, values: FeatureValues, most: int = MOST_SLICES) -> pd.DataFrame:
    """Measure the AUC of each binary task, with its interval, on the rows of each value of a feature.

    The lowest AUC of a task comes first, slices with fewer than 10 positives or negatives (`few`) last. It is NaN if a
    slice has one class alone; its interval is NaN, too, if a slice is too small. The least frequent of more than `most`
    values share a slice.
    """
    rows = []
    for value, mask in values.parts(most):
        for scores in predictions.select(mask).scores().values():
            if scores.task.kind == "binary":
                rows.append(_slice_row(value, scores))
    frame = pd.DataFrame(rows, columns=list(SLICE_COLUMNS))
    by_task = [of_task.sort_values(["few", "auc"], kind="stable") for _, of_task in frame.groupby("task", sort=False)]
    return pd.concat(by_task, ignore_index=True) if by_task else frame


def _slice_row(value: str, scores: Scores) -> tuple[str, str, int, int, float, float, float, bool]:
    auc, interval = metrics_of(scores, names=["auc"]).values["auc"], auc_interval(scores)
    low, high = (np.nan, np.nan) if interval is None else (interval.low, interval.high)
    auc = np.nan if auc is None else auc
    few = min(scores.positives, len(scores) - scores.positives) < FEW_POSITIVES
    return scores.task.name, value, len(scores), scores.positives, auc, low, high, few


def domain_values(predictions: Predictions) -> FeatureValues | None:
    """Return the domain of each row; ``None`` if the rows have none."""
    name = predictions.schema.domain
    if name is None or name not in predictions.keys.column_names:
        return None
    return FeatureValues.of_text(predictions.keys[name], name)


def domain_scores(predictions: Predictions) -> dict[str, dict[str, Scores]]:
    """Return the scores of each task by domain, the most frequent first; empty if the rows have no domain.

    Returns:
        ``{task: {domain: scores}}``. The least frequent of many domains are taken together.
    """
    values, found = domain_values(predictions), dict[str, dict[str, Scores]]()
    for domain, mask in values.parts(MOST_DOMAINS) if values else ():
        for task, scores in predictions.select(mask).scores().items():
            found.setdefault(task, {})[domain] = scores
    return found


def domain_metrics(scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, dict[str, Metrics]]:
    """Return the main metrics of each task and domain, from their scores."""
    return {
        task: {domain: metrics_of(s, names=MEASURES[s.task.kind].by_domain) for domain, s in by_domain.items()}
        for task, by_domain in scores.items()
    }
