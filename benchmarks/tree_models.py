"""Boosted trees of three libraries: their search spaces, and how one model is fitted and stopped early."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from benchmarks.tree_columns import TaskRows, rate_names

# The libraries of the extra `bench` are imported where they are used, so that scikit-learn's trees run without it.

TREES = 1000  # at most
PATIENCE = 50  # stopped after this many trees without a better AUC (scikit-learn: a lower loss) on the stop rows
HIST_CATEGORIES = 254  # and one for all that are rarer: scikit-learn takes 255

Floats = npt.NDArray[np.float64]
Options = Mapping[str, Any]
Predict = Callable[[pd.DataFrame], Floats]


@dataclass(frozen=True)
class TreeModel:
    """A fitted model.

    Args:
        predict: Returns scores ``[rows]`` of the columns that it was fitted on.
        parameters: The number of leaves and splits.
        trees: The number of trees.
    """

    predict: Predict
    parameters: int
    trees: int


def lightgbm_options(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "learning_rate": log_uniform(rng, 0.02, 0.2),
        "num_leaves": int(rng.choice([7, 15, 31, 63])),
        "min_data_in_leaf": int(rng.choice([5, 20, 50, 100])),
        "feature_fraction": float(rng.uniform(0.4, 1.0)),
        "bagging_fraction": float(rng.uniform(0.6, 1.0)),
        "bagging_freq": 1,
        "lambda_l2": log_uniform(rng, 0.01, 20.0),
        "cat_smooth": float(rng.choice([1, 10, 50])),
        "ids_as_categories": bool(rng.integers(2)),
    }


def catboost_options(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "learning_rate": log_uniform(rng, 0.03, 0.2),
        "depth": int(rng.integers(4, 9)),
        "l2_leaf_reg": log_uniform(rng, 1.0, 20.0),
        "random_strength": log_uniform(rng, 0.3, 3.0),
        "one_hot_max_size": int(rng.choice([2, 10, 25])),
        "max_ctr_complexity": int(rng.choice([1, 2])),
    }


def hist_options(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "learning_rate": log_uniform(rng, 0.02, 0.2),
        "max_leaf_nodes": int(rng.choice([7, 15, 31, 63])),
        "min_samples_leaf": int(rng.choice([5, 20, 50, 100])),
        "max_features": float(rng.uniform(0.4, 1.0)),
        "l2_regularization": log_uniform(rng, 0.01, 20.0),
    }


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def fit_lightgbm(rows: TaskRows, options: Options, seed: int, threads: int) -> TreeModel:
    """Fit LightGBM, which splits categories natively; unseen ones are missing."""
    import lightgbm

    given = dict(options)
    native = given.pop("ids_as_categories", True)
    dropped = [] if native else list(rows.ids)
    known = {name: pd.Index(rows.x["train"][name].unique()) for name in rows.categories if name not in dropped}

    def encode(frame: pd.DataFrame) -> pd.DataFrame:
        codes = {name: values.get_indexer(pd.Index(frame[name])) for name, values in known.items()}
        categories = {name: pd.Categorical.from_codes(codes[name], values) for name, values in known.items()}
        named = frame.drop(columns=dropped).assign(**categories)
        return named.set_axis([f"column_{i}" for i in range(named.shape[1])], axis=1)  # it refuses some characters

    train = lightgbm.Dataset(encode(rows.x["train"]), rows.train)
    stop = lightgbm.Dataset(encode(rows.x["stop"]), rows.stop, reference=train)
    fixed = {"objective": "binary", "metric": "auc", "verbosity": -1, "seed": seed, "num_threads": threads}
    callbacks: list[Callable[..., Any]] = [lightgbm.early_stopping(PATIENCE, verbose=False)]
    model = lightgbm.train(fixed | given, train, TREES, valid_sets=[stop], callbacks=callbacks)
    leaves = [tree["num_leaves"] for tree in model.dump_model(num_iteration=model.best_iteration)["tree_info"]]

    def predict(frame: pd.DataFrame) -> Floats:
        return np.asarray(model.predict(encode(frame), num_threads=threads), np.float64)

    return TreeModel(predict, sum(2 * count - 1 for count in leaves), len(leaves))


def fit_catboost(rows: TaskRows, options: Options, seed: int, threads: int) -> TreeModel:
    """Fit CatBoost, which reads categories by target statistics of the rows before (ordered boosting)."""
    import catboost

    rates = [name for column in rows.ids for name in rate_names(column)]
    own = [name for name in rows.x["train"] if name not in rates]

    def pool(frame: pd.DataFrame, labels: npt.NDArray[np.int64] | None = None) -> Any:
        return catboost.Pool(frame[own], labels, cat_features=list(rows.categories), thread_count=threads)

    model = catboost.CatBoostClassifier(
        iterations=TREES,
        early_stopping_rounds=PATIENCE,
        eval_metric="AUC",
        random_seed=seed,
        thread_count=threads,
        verbose=False,
        allow_writing_files=False,
        **options,
    )
    model.fit(pool(rows.x["train"], rows.train), eval_set=pool(rows.x["stop"], rows.stop))
    leaves = [int(count) for count in model.get_tree_leaf_counts()]

    def predict(frame: pd.DataFrame) -> Floats:
        return np.asarray(model.predict(pool(frame), prediction_type="RawFormulaVal", thread_count=threads), np.float64)

    return TreeModel(predict, sum(count + count.bit_length() - 1 for count in leaves), len(leaves))


def fit_hist(rows: TaskRows, options: Options, seed: int, threads: int) -> TreeModel:
    """Fit scikit-learn's trees, up to the one with the best AUC on the stop rows; rare categories are one."""
    names = [name for name in rows.categories if name not in rows.ids]
    known = {name: rows.x["train"][name].value_counts().index[:HIST_CATEGORIES] for name in names}

    def encode(frame: pd.DataFrame) -> pd.DataFrame:
        codes = {name: values.get_indexer(pd.Index(frame[name])) % (len(values) + 1) for name, values in known.items()}
        return frame.drop(columns=list(rows.ids)).assign(**codes)

    model = HistGradientBoostingClassifier(
        max_iter=TREES,
        early_stopping=True,
        n_iter_no_change=PATIENCE,
        tol=0,
        categorical_features=names,
        random_state=seed,
        **options,
    )
    stop = encode(rows.x["stop"])
    with threadpool_limits(threads, "openmp"):
        model.fit(encode(rows.x["train"]), rows.train, X_val=stop, y_val=rows.stop)
        staged = [roc_auc_score(rows.stop, scores) for scores in model.staged_decision_function(stop)]
    best = int(np.argmax(staged))
    nodes = sum(len(predictor.nodes) for tree in model._predictors[: best + 1] for predictor in tree)

    def predict(frame: pd.DataFrame) -> Floats:
        with threadpool_limits(threads, "openmp"):
            (scores,) = itertools.islice(model.staged_decision_function(encode(frame)), best, best + 1)
        return np.asarray(scores, np.float64).ravel()

    return TreeModel(predict, nodes, best + 1)


@dataclass(frozen=True)
class TreeMethod:
    """A library of boosted trees.

    Args:
        package: The name of its distribution.
        options: Draws options.
        fit: Fits one model.
    """

    package: str
    options: Callable[[np.random.Generator], dict[str, Any]]
    fit: Callable[[TaskRows, Options, int, int], TreeModel]


METHODS: Mapping[str, TreeMethod] = {
    "LightGBM": TreeMethod("lightgbm", lightgbm_options, fit_lightgbm),
    "CatBoost": TreeMethod("catboost", catboost_options, fit_catboost),
    "HistGradientBoosting": TreeMethod("scikit-learn", hist_options, fit_hist),
}
