"""Callbacks: called while a model trains, to log, to watch, and to stop."""

from recmtl.callbacks.base import Callback, TrainingContext
from recmtl.callbacks.fit_result import FitResult
from recmtl.callbacks.metrics_file import MetricsFile
from recmtl.callbacks.mlflow import MLflow
from recmtl.callbacks.optuna_pruning import OptunaPruning
from recmtl.callbacks.print_metrics import PrintMetrics
from recmtl.callbacks.tensorboard import TensorBoard
from recmtl.callbacks.wandb import WandB

__all__ = [
    "Callback",
    "FitResult",
    "MLflow",
    "MetricsFile",
    "OptunaPruning",
    "PrintMetrics",
    "TensorBoard",
    "TrainingContext",
    "WandB",
]
