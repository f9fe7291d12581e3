"""What the demo puts beside a trained model: the best possible AUC, and that of a logistic regression."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from recmtl.data import PreparedData, Rows
from recmtl.evaluate import Metrics, binary_metrics, task_labels

ITERATIONS = 100


def logistic_regression(data: PreparedData) -> dict[str, Metrics]:
    """Measure a logistic regression per task on the test rows.

    It is fitted on the same training rows and inputs as a model: categories one-hot, numbers standardised.
    """
    train, test = _inputs(data.train), _inputs(data.test)
    metrics = {}
    for task in data.schema.schema.reported_tasks:
        labels = task_labels(task, data.train.labels)
        known = ~np.isnan(labels)
        one_hot = OneHotEncoder(handle_unknown="ignore")
        encoder = ColumnTransformer(
            [("categories", one_hot, slice(0, data.schema.id_columns))], remainder="passthrough", sparse_threshold=1.0
        )
        model = make_pipeline(encoder, LogisticRegression(max_iter=ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # by then its AUC moves in the fourth digit
            model.fit(train[known], labels[known])
        metrics[task.name] = binary_metrics(task_labels(task, data.test.labels), model.predict_proba(test)[:, 1])
    return metrics


def _inputs(rows: Rows) -> npt.NDArray[np.float64]:
    """Categories and standardised numbers side by side ``[rows, id columns + numeric columns]``."""
    ids, numeric = rows.schema.id_columns, rows.schema.numeric_columns
    packed = rows.packed().numpy()
    return np.hstack([packed[:, :ids], packed[:, ids : ids + numeric].view(np.float32)]).astype(np.float64)
