"""The `demo` command: train on generated rows, and compare with the best possible AUC and a logistic regression's."""

from __future__ import annotations

import warnings
from json import loads
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from recmtl.cli.console import print_line, print_metrics
from recmtl.cli.prepare import prepare_command
from recmtl.cli.synth import synth_command
from recmtl.cli.train import train
from recmtl.data import DataError, PreparedData, Rows
from recmtl.evaluate import Metrics, binary_metrics, task_labels
from recmtl.recipe.options import parse_recipe, recipe_parser

MAX_ITERATIONS = 100


def demo_command(out: Path = Path("demo"), rows: int = 200_000, seed: int = 0) -> None:
    """Generate rows, prepare them, train MMOE with MetaBalance, and print a table of AUCs.

    Args:
        out: The folder to write; it must not exist yet.
        rows: The number of rows.
        seed: The seed of the rows and of training.
    """
    if out.exists():
        raise DataError(f"{str(out)!r} exists already: give `--out` another folder or remove it")
    csv, prepared = out / "csv", out / "prepared"
    synth_command(csv, rows, seed, click_rate=0.10, conversion_rate=0.25)  # enough positives for a test
    prepare_command(prepared, "aliexpress", str(csv / "train.csv"), str(csv / "valid.csv"), str(csv / "test.csv"))
    parser, run = recipe_parser("recmtl demo"), str(out / "run")
    arguments = ["--config", "demo", "--data.train", str(prepared), "--trainer.run.seed", str(seed)]
    trainer, measured = train(parser, parse_recipe(parser, [*arguments, "--trainer.run.folder", run]))
    metrics = measured["test"]
    truth = loads((csv / "truth.json").read_text(encoding="utf-8"))["test"]
    linear = logistic_regression(PreparedData.open(prepared))
    extra = {
        "Bayes": {name: truth[name]["auc"] for name in metrics},
        "logistic": {name: linear[name].values["auc"] for name in metrics},
    }
    title = "MMOE with MetaBalance, test AUC beside the best possible (Bayes) and a logistic regression's"
    print_metrics(metrics, title, extra)
    print_line(f"{trainer.result.rows_per_second:,.0f} training rows/s · run in {run}")


def logistic_regression(data: PreparedData) -> dict[str, Metrics]:
    """Measure a logistic regression per task on the test rows.

    It is fitted on the same training rows and inputs as a model: categories one-hot, numbers by their place among the
    knots.
    """
    train, test = _one_matrix(data.train), _one_matrix(data.test)
    metrics = {}
    for task in data.schema.schema.reported_tasks:
        labels = task_labels(task, data.train.labels)
        known = ~np.isnan(labels)
        one_hot = OneHotEncoder(handle_unknown="ignore")
        encoder = ColumnTransformer(
            [("categories", one_hot, slice(0, data.schema.id_columns))], remainder="passthrough", sparse_threshold=1.0
        )
        model = make_pipeline(encoder, LogisticRegression(max_iter=MAX_ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the AUC then moves in the fourth digit alone
            model.fit(train[known], labels[known])
        metrics[task.name] = binary_metrics(task_labels(task, data.test.labels), model.predict_proba(test)[:, 1])
    return metrics


def _one_matrix(rows: Rows) -> npt.NDArray[np.float64]:
    """Return ids and encoded numbers side by side ``[rows, id columns + numeric columns]``."""
    ids, numeric = rows.schema.id_columns, rows.schema.numeric_columns
    packed = rows.packed().numpy()
    return np.hstack([packed[:, :ids], packed[:, ids : ids + numeric].view(np.float32)]).astype(np.float64)
