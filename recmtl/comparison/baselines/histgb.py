"""Histogram-based gradient boosting of scikit-learn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recmtl.comparison.baselines.base import (
    PATIENCE,
    TREES,
    UNSTOPPED_TREES,
    Baseline,
    FittedBaseline,
    Floats,
    Inputs,
    Options,
    TaskRows,
    of_all_classes,
    quality,
)
from recmtl.tuning.space import Range

CATEGORIES = 254  # and one for all that are rarer: scikit-learn takes 255
DEFAULTS = {"learning_rate": 0.05, "max_features": 0.8}  # columns are drawn, so that seeds differ
SEARCH_SPACE = {
    "learning_rate": Range(0.01, 0.2, log=True),
    "max_leaf_nodes": Range(7, 127, log=True, integer=True),
    "min_samples_leaf": Range(5, 100, log=True, integer=True),
    "l2_regularization": Range(0.001, 10, log=True),
    "max_features": Range(0.4, 1.0),
}
LOSSES = {"regression": "squared_error", "amount": "poisson", "mae": "absolute_error"}  # by kind, or by loss


class CommonCategories:
    """Numbers the most frequent categories of each column by frequency; all others become one.

    Args:
        x: The training rows ``[rows, columns]``.
        columns: The places of the columns of categories.
    """

    def __init__(self, x: Inputs, columns: Sequence[int]) -> None:
        self._known = {column: _most_frequent(x[:, column]) for column in columns}

    def encode(self, x: Inputs) -> Inputs:
        """Return the rows with numbers from 0 to 254 in place of the categories."""
        encoded = x.copy()
        for column, values in self._known.items():
            places = {value: place for place, value in enumerate(values.tolist())}
            found, codes = np.unique(x[:, column], return_inverse=True)
            numbers = np.array([places.get(value, len(values)) for value in found.tolist()])
            encoded[:, column] = numbers[codes]
        return encoded


def _most_frequent(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found, counts = np.unique(values, return_counts=True)
    return np.asarray(found[np.argsort(-counts, kind="stable")][:CATEGORIES])


def fit_histgb(rows: TaskRows, options: Options, seed: int, threads: int) -> FittedBaseline:
    """Fit scikit-learn's trees, stopped where the metric that stops nets is best on the validation rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    train, valid, kind = rows.train, rows.valid, rows.task.kind
    common = CommonCategories(train.x, rows.categories)
    fixed: dict[str, Any] = {
        "max_iter": UNSTOPPED_TREES if valid is None else TREES,
        "early_stopping": valid is not None,
        "n_iter_no_change": PATIENCE,
        "tol": 0,
        "categorical_features": list(rows.categories),
        "random_state": seed,
    }
    classifies = kind not in LOSSES
    if classifies:
        model = HistGradientBoostingClassifier(**fixed | dict(options))
    else:
        loss = LOSSES.get(rows.task.loss_name, LOSSES[kind])
        model = HistGradientBoostingRegressor(**fixed | {"loss": loss} | dict(options))

    def staged(x: Inputs) -> Iterator[Floats]:
        if not classifies:
            yield from model.staged_predict(x)
            return
        for values in model.staged_predict_proba(x):
            yield of_all_classes(values, model.classes_, rows.classes) if rows.classes else values[:, 1]

    best = fixed["max_iter"] - 1
    with threadpool_limits(threads, "openmp"):
        if valid is None:
            model.fit(common.encode(train.x), train.labels, train.weight)
        else:
            x, known = common.encode(valid.x), np.isin(valid.labels, train.labels) | (not rows.classes)
            weight = None if valid.weight is None else valid.weight[known]
            held_out = {"X_val": x[known], "y_val": valid.labels[known], "sample_weight_val": weight}
            model.fit(common.encode(train.x), train.labels, train.weight, **held_out)
            best = int(np.argmax([quality(rows.task, valid, values) for values in staged(x)]))
    nodes = sum(len(predictor.nodes) for tree in model._predictors[: best + 1] for predictor in tree)

    def predict(x: Inputs) -> Floats:
        with threadpool_limits(threads, "openmp"):
            (values,) = itertools.islice(staged(common.encode(x)), best, best + 1)
        return np.asarray(values, np.float64)

    return FittedBaseline(predict, nodes, best + 1)


HISTGB = Baseline("histgb", fit_histgb, "sklearn", SEARCH_SPACE, DEFAULTS)
