"""The trainer and what it leaves behind."""

from recmtl.train.checkpoint import RunError
from recmtl.train.folder import RunFolder
from recmtl.train.interruption import Interrupted
from recmtl.train.losses import Losses
from recmtl.train.options import Optimization, Run, Stopping
from recmtl.train.soundness import DivergenceError
from recmtl.train.step import Step
from recmtl.train.trainer import Trainer

__all__ = [
    "DivergenceError",
    "Interrupted",
    "Losses",
    "Optimization",
    "Run",
    "RunError",
    "RunFolder",
    "Step",
    "Stopping",
    "Trainer",
]
