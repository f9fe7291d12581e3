"""The search for the options of a recipe that do best on the validation rows."""

from recmtl.tuning.results import Tuning
from recmtl.tuning.tune import tune

__all__ = ["Tuning", "tune"]
