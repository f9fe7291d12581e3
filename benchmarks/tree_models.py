"""Boosted trees of three libraries: their search spaces, and how one model is fitted and stopped early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.tree_columns import TaskRows, rate_names
from recmtl.comparison.baselines import base
from recmtl.comparison.baselines.base import PATIENCE, TREES, Baseline, Examples
from recmtl.comparison.baselines.histgb import HISTGB
from recmtl.comparison.baselines.lightgbm import LIGHTGBM
from recmtl.schema import Task

# The libraries of the extra `bench` are imported where they are used, so that scikit-learn's trees run without it.

Floats = npt.NDArray[np.float64]
Options = Mapping[str, Any]
Predict = Callable[[pd.DataFrame], Floats]


@dataclass(frozen=True)
class FittedFrame:
    """A fitted model of frames.

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


def fit_lightgbm(rows: TaskRows, options: Options, seed: int, threads: int) -> FittedFrame:
    """Fit LightGBM, which splits categories natively; unseen ones are missing."""
    given = dict(options)
    native = given.pop("ids_as_categories", True)
    return fit_baseline(LIGHTGBM, rows, given, seed, threads, [] if native else list(rows.ids))


def fit_catboost(rows: TaskRows, options: Options, seed: int, threads: int) -> FittedFrame:
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

    return FittedFrame(predict, sum(count + count.bit_length() - 1 for count in leaves), len(leaves))


def fit_hist(rows: TaskRows, options: Options, seed: int, threads: int) -> FittedFrame:
    """Fit scikit-learn's trees, up to the one with the best AUC on the stop rows; rare categories are one."""
    return fit_baseline(HISTGB, rows, options, seed, threads, list(rows.ids))


def fit_baseline(
    baseline: Baseline, rows: TaskRows, options: Options, seed: int, threads: int, dropped: Sequence[str]
) -> FittedFrame:
    """Fit a baseline of recmtl on a frame whose categories are numbered; unseen ones are missing."""
    known = {name: pd.Index(rows.x["train"][name].unique()) for name in rows.categories if name not in dropped}

    def encode(frame: pd.DataFrame) -> Floats:
        codes = {name: values.get_indexer(pd.Index(frame[name])) for name, values in known.items()}
        numbers = {name: np.where(found < 0, np.nan, found) for name, found in codes.items()}
        return frame.drop(columns=list(dropped)).assign(**numbers).to_numpy(np.float64)

    names = [name for name in rows.x["train"] if name not in dropped]
    categories = tuple(place for place, name in enumerate(names) if name in known)
    train = Examples(encode(rows.x["train"]), rows.train.astype(float))
    stop = Examples(encode(rows.x["stop"]), rows.stop.astype(float))
    task = base.TaskRows(Task("task", "label"), train, stop, categories)
    model = baseline.fit(task, options, seed, threads)
    return FittedFrame(lambda frame: model.predict(encode(frame)), model.parameters, model.trees)


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
    fit: Callable[[TaskRows, Options, int, int], FittedFrame]


METHODS: Mapping[str, TreeMethod] = {
    "LightGBM": TreeMethod("lightgbm", lightgbm_options, fit_lightgbm),
    "CatBoost": TreeMethod("catboost", catboost_options, fit_catboost),
    "HistGradientBoosting": TreeMethod("scikit-learn", hist_options, fit_hist),
}
