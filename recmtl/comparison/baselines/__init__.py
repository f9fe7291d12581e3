"""Models of other libraries, one per task, that are compared with nets on the same rows. One file each."""

from recmtl.comparison.baselines.histgb import HISTGB
from recmtl.comparison.baselines.lightgbm import LIGHTGBM
from recmtl.comparison.baselines.logistic import LOGISTIC

BASELINES = {baseline.name: baseline for baseline in (LIGHTGBM, HISTGB, LOGISTIC)}

__all__ = ["BASELINES"]
