"""The trainer and what it leaves behind."""

from recmtl.train.folder import RunError, RunFolder
from recmtl.train.losses import Losses
from recmtl.train.options import Optimization, Run, Stopping
from recmtl.train.step import Step
from recmtl.train.trainer import Trainer

__all__ = ["Losses", "Optimization", "Run", "RunError", "RunFolder", "Step", "Stopping", "Trainer"]
