"""LightGBM: boosted trees that split categories natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recmtl.comparison.baselines.base import (
    PATIENCE,
    TREES,
    UNSTOPPED_TREES,
    Baseline,
    Examples,
    FittedBaseline,
    Floats,
    Inputs,
    Options,
    TaskRows,
)
from recmtl.tuning.space import Range

DEFAULTS = {
    "learning_rate": 0.05,
    "feature_fraction": 0.8,  # rows and columns are drawn, so that seeds differ
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
}
SEARCH_SPACE = {
    "learning_rate": Range(0.01, 0.2, log=True),
    "num_leaves": Range(7, 127, log=True, integer=True),
    "min_data_in_leaf": Range(5, 100, log=True, integer=True),
    "lambda_l2": Range(0.001, 10, log=True),
    "feature_fraction": Range(0.4, 1.0),
}
OBJECTIVES = {"binary": "binary", "regression": "regression", "multiclass": "multiclass", "amount": "poisson"}
LOSSES = {"mae": "regression_l1", "huber": "huber", "tweedie": "tweedie"}  # where the task names another loss
METRICS = {"binary": "auc", "regression": "l2", "multiclass": "multi_logloss", "amount": "poisson"}


def fit_lightgbm(rows: TaskRows, options: Options, seed: int, threads: int) -> FittedBaseline:
    """Fit LightGBM, up to the tree with the best AUC (other kinds: loss) on the validation rows."""
    import lightgbm  # of the extra `baselines`

    def dataset(part: Examples, reference: Any = None) -> Any:
        categories = list(rows.categories)
        return lightgbm.Dataset(
            part.x, part.labels, weight=part.weight, reference=reference, categorical_feature=categories
        )

    train = dataset(rows.train)
    valid = rows.valid
    callbacks: list[Callable[..., Any]] = []
    given: dict[str, Any] = {"valid_sets": []}
    if valid is not None:
        given["valid_sets"] = [dataset(valid, train)]
        callbacks = [lightgbm.early_stopping(PATIENCE, verbose=False)]
    fixed = {
        "objective": LOSSES.get(rows.task.loss_name, OBJECTIVES[rows.task.kind]),
        "metric": _metric(rows),
        "verbosity": -1,
        "seed": seed,
        "num_threads": threads,
        **({"num_class": rows.classes} if rows.classes else {}),
    }
    trees = UNSTOPPED_TREES if valid is None else TREES
    model = lightgbm.train(fixed | dict(options), train, trees, callbacks=callbacks, **given)
    leaves = [tree["num_leaves"] for tree in model.dump_model(num_iteration=model.best_iteration)["tree_info"]]

    def predict(x: Inputs) -> Floats:
        return np.asarray(model.predict(x, num_threads=threads), np.float64)

    return FittedBaseline(predict, sum(2 * count - 1 for count in leaves), len(leaves))


def _metric(rows: TaskRows) -> str:
    """Return what decides when to stop; of labels of one class it is the loss, as they have no AUC."""
    metric = METRICS[rows.task.kind]
    one_class = rows.valid is not None and len(np.unique(rows.valid.labels)) < 2
    return "binary_logloss" if metric == "auc" and one_class else metric


LIGHTGBM = Baseline("lightgbm", fit_lightgbm, "lightgbm", SEARCH_SPACE, DEFAULTS)
