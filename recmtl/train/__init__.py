"""Training: the trainer, its options, and the step."""

from recmtl.errors import DivergenceError, Interrupted, RunError
from recmtl.runs.folder import RunFolder
from recmtl.train.optimizers import RowWiseAdagrad
from recmtl.train.options import EarlyStopping, Optimization, RunConfig
from recmtl.train.step import Step
from recmtl.train.trainer import Trainer

__all__ = [
    "DivergenceError",
    "EarlyStopping",
    "Interrupted",
    "Optimization",
    "RowWiseAdagrad",
    "RunConfig",
    "RunError",
    "RunFolder",
    "Step",
    "Trainer",
]
