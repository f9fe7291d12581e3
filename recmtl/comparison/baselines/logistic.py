"""Linear models of scikit-learn: logistic regression, and of numbers ridge and Poisson regression."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from recmtl.comparison.baselines.base import (
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

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # of the L2 penalty: the validation rows choose
DEFAULTS = {"max_iter": 100}
SEARCH_SPACE = {"penalty": Range(0.001, 1000, log=True)}
CLASSIFIED = ("binary", "multiclass")  # kinds of tasks


def fit_logistic(rows: TaskRows, options: Options, seed: int, threads: int) -> FittedBaseline:
    """Fit a linear model on ids one-hot and standardized numbers, with the penalty that the validation rows choose.

    Without validation rows the penalty is 1, as in scikit-learn. An option ``penalty`` fixes it.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from threadpoolctl import threadpool_limits

    ids = [*rows.categories, *rows.bins]
    numbers = [column for column in range(rows.train.x.shape[1]) if column not in ids]
    encoders = [("ids", OneHotEncoder(handle_unknown="ignore"), ids), ("numbers", StandardScaler(), numbers)]
    encoder = ColumnTransformer(encoders, sparse_threshold=1.0)
    x, given = encoder.fit_transform(rows.train.x), dict(options)
    strengths = [given.pop("penalty")] if "penalty" in given else STRENGTHS if rows.valid else [1.0]
    held_out = encoder.transform(rows.valid.x) if rows.valid else None
    best: tuple[float, Any] | None = None
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the metrics then move in the fourth digit alone
        for strength in strengths:
            model = _model(rows, strength, given, seed).fit(x, rows.train.labels, rows.train.weight)
            found = quality(rows.task, rows.valid, _predict(model, held_out, rows)) if rows.valid else 0.0
            if best is None or found > best[0]:
                best = found, model
    assert best is not None
    chosen = best[1]

    def predict(x: Inputs) -> Floats:
        return _predict(chosen, encoder.transform(x), rows)

    return FittedBaseline(predict, int(np.size(chosen.coef_) + np.size(chosen.intercept_)))


def _model(rows: TaskRows, strength: float, options: dict[str, Any], seed: int) -> Any:
    """Return a model that is not yet fitted, of the kind of the task."""
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

    if rows.task.kind in CLASSIFIED:
        return LogisticRegression(C=1 / strength, random_state=seed, **options)
    if rows.task.kind == "amount":
        return PoissonRegressor(alpha=strength / len(rows.train.labels), **options)
    return Ridge(alpha=strength, random_state=seed, **options)


def _predict(model: Any, x: Any, rows: TaskRows) -> Floats:
    if rows.classes:
        return of_all_classes(model.predict_proba(x), model.classes_, rows.classes)
    values = model.predict_proba(x)[:, 1] if rows.task.kind in CLASSIFIED else model.predict(x)
    return np.asarray(values, np.float64)


LOGISTIC = Baseline("logistic", fit_logistic, "sklearn", SEARCH_SPACE, DEFAULTS)
