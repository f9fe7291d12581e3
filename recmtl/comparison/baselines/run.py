"""Fit a baseline on every task of prepared rows, and write its metrics and predictions as a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from recmtl.comparison.baselines import BASELINES
from recmtl.comparison.baselines.base import FittedBaseline, Floats, Inputs, TaskRows
from recmtl.comparison.baselines.inputs import input_matrix, task_rows
from recmtl.data import DataError, PreparedData
from recmtl.evaluate import Predictions, metrics_of, own_metrics
from recmtl.evaluate.own_metrics import described
from recmtl.io.machine import explain_oom, peak_memory
from recmtl.recipe.data import open_data
from recmtl.recipe.environment import environment
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import data_options
from recmtl.runs.folder import REPORTED, RunFolder
from recmtl.schema import Schema
from recmtl.train.monitor import MetricMonitor
from recmtl.train.options import EarlyStopping
from recmtl.train.setup import monitor_of


def fit_baseline(
    data: PreparedData, name: str, options: Mapping[str, Any], seed: int, threads: int, group: str | None = None
) -> tuple[dict[str, Predictions], dict[str, FittedBaseline]]:
    """Fit a model per task on the training rows, and predict the test and validation rows.

    Args:
        data: The rows.
        name: A name in `BASELINES`.
        options: Options of its library, over the baseline's defaults.
        seed: The seed.
        threads: Threads of a fit.
        group: The key column that groups rows in metrics; ``None`` takes the schema's group.

    Returns:
        The predictions by split, and the models by task.

    Raises:
        DataError: A task has no training rows.
    """
    baseline, models, empty = BASELINES[name], dict[str, FittedBaseline](), dict[str, Floats]()
    with explain_oom("the inputs of the baseline"):
        inputs = {split: input_matrix(rows) for split, rows in data.splits.items()}
        for task in data.schema.schema.tasks:
            fitted_on = task_rows(task, data, inputs)
            constant = constant_model(fitted_on)
            empty[task.name] = np.empty((0, fitted_on.classes) if fitted_on.classes else 0)
            models[task.name] = constant or baseline.fit(fitted_on, {**baseline.defaults, **options}, seed, threads)
        predictions = {}
        for split in (split for split in REPORTED if split in data.splits):
            rows, x = data.splits[split], inputs[split]
            values = {task: model.predict(x) if len(x) else empty[task] for task, model in models.items()}
            said = (rows.labels, rows.weight, rows.keys, group, rows.sampling_weight, rows.task_weights)
            predictions[split] = Predictions(data.schema.schema, values, *said)
    return predictions, models


def constant_model(rows: TaskRows) -> FittedBaseline | None:
    """Return a model that predicts the label of all training rows if it is the same in all; ``None`` if it is not.

    Raises:
        DataError: There are none.
    """
    labels = rows.train.labels
    if not len(labels):
        raise DataError(f"task {rows.task.name!r} has no training rows that count, from which a baseline could learn")
    if (labels != labels[0]).any():
        return None

    own = np.eye(rows.classes)[int(labels[0])] if rows.classes else labels[0]

    def predict(x: Inputs) -> Floats:
        return np.full((len(x), *np.shape(own)), own)

    return FittedBaseline(predict, 1)


def run_baseline(recipe: Mapping[str, Any], path: Path) -> None:
    """Fit the baseline of a recipe, and write a finished run folder.

    Args:
        recipe: The `data` of a recipe, the `baseline` (`class_path` and `init_args`), and `seed`, `monitor`,
            `group` and `metrics`.
        path: The folder.

    Raises:
        DataError: The data cannot be read, or a task has no training rows.
        ValueError: The library refuses an option.
    """
    parser = recipe_parser("recmtl compare")
    data = open_data(data_options(parse_recipe(parser, [f"--config={json.dumps({'data': recipe['data']})}"])))
    baseline, folder, threads = recipe["baseline"], RunFolder(path), torch.get_num_threads()
    head = "".join(f"# {line}\n" for line in environment(threads))
    started = time.monotonic()
    with folder.held():
        folder.begin(head + yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
        name, options = baseline["class_path"], baseline.get("init_args") or {}
        predictions, models = fit_baseline(data, name, options, recipe["seed"], threads, recipe["group"])
        folder.create(data.schema)
        own = own_metrics(recipe["metrics"])
        result: dict[str, Any] = {"own_metrics": described(own)} if own else {}
        predictions = {split: replace(predicted, own=own) for split, predicted in predictions.items()}
        for split, predicted in predictions.items():
            folder.predictions(split).parent.mkdir(exist_ok=True)
            predicted.write(folder.predictions(split))
            result[split] = {task: metrics_of(scores).to_dict() for task, scores in predicted.scores().items()}
        sizes = {task: {"parameters": model.parameters, "trees": model.trees} for task, model in models.items()}
        monitor = monitor_of_baseline(recipe, data.schema.schema)
        best = {"monitor": monitor.monitor, "value": monitored(monitor, predictions.get("valid"))}
        costs = {"seconds": time.monotonic() - started, "peak_memory_bytes": peak_memory(), "device": "cpu"}
        folder.finish(result | {"best": best, "models": sizes} | costs)


def monitor_of_baseline(recipe: Mapping[str, Any], schema: Schema) -> MetricMonitor:
    """Return the monitor of the validation metric that the nets beside a baseline have."""
    stopping = EarlyStopping(recipe["monitor"], group=recipe["group"], metrics=recipe["metrics"])
    return monitor_of(stopping, schema, schema.tasks)


def monitored(monitor: MetricMonitor, predicted: Predictions | None) -> float | None:
    """Return the value of the monitored metric of predictions; ``None`` if it is undefined, or there are no rows."""
    scores = predicted.scores() if predicted is not None else {}
    if not all(task in scores for task in monitor.tasks):
        return None
    return monitor.value({task: metrics_of(scores[task], names=monitor.names) for task in monitor.tasks})
