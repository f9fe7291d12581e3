"""Metrics of predictions. Knows numpy, scikit-learn and pandas; knows no model."""

from recmtl.evaluate.funnel import complete, measure, task_labels
from recmtl.evaluate.metrics import LOWER_IS_BETTER, METRICS, Metrics, binary_metrics, regression_metrics, table

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "Metrics",
    "binary_metrics",
    "complete",
    "measure",
    "regression_metrics",
    "table",
    "task_labels",
]
