"""Comparisons: a grid of runs, and tables that say which of their differences are real."""

from recmtl.comparison.comparison import Comparison
from recmtl.comparison.runner import compare
from recmtl.comparison.tuned import Budget

__all__ = ["Budget", "Comparison", "compare"]
