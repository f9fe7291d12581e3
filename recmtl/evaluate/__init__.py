"""Metrics of predictions, their confidence intervals and significance tests, independent of any model."""

from recmtl.evaluate.breakdown import class_table, confusion_table, decile_table
from recmtl.evaluate.calibration_error import CalibrationError, calibration_error
from recmtl.evaluate.calibration_tables import calibration_by_slice, calibration_over_time, calibration_table
from recmtl.evaluate.curves import reliability_bins
from recmtl.evaluate.intervals import Interval, auc_interval, bootstrap_intervals, intervals_of
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import (
    LOWER_IS_BETTER,
    Metrics,
    binary_metrics,
    check_own,
    metric_names,
    metrics_of,
    monitors,
    table,
)
from recmtl.evaluate.own_metrics import OwnMetric, metrics_of_task, own_metrics
from recmtl.evaluate.predictions import Predictions, complete, measure
from recmtl.evaluate.ranking import by_group
from recmtl.evaluate.scores import Scores, scores_of, task_labels
from recmtl.evaluate.significance import Difference, auc_difference, holm
from recmtl.evaluate.slices import domain_metrics, domain_scores

__all__ = [
    "LOWER_IS_BETTER",
    "MEASURES",
    "CalibrationError",
    "Difference",
    "Interval",
    "Metrics",
    "OwnMetric",
    "Predictions",
    "Scores",
    "auc_difference",
    "auc_interval",
    "binary_metrics",
    "bootstrap_intervals",
    "by_group",
    "calibration_by_slice",
    "calibration_error",
    "calibration_over_time",
    "calibration_table",
    "check_own",
    "class_table",
    "complete",
    "confusion_table",
    "decile_table",
    "domain_metrics",
    "domain_scores",
    "holm",
    "intervals_of",
    "measure",
    "metric_names",
    "metrics_of",
    "metrics_of_task",
    "monitors",
    "own_metrics",
    "reliability_bins",
    "scores_of",
    "table",
    "task_labels",
]
