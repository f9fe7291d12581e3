"""The metrics of each kind of task: one measure per kind, computed again for every bootstrap draw."""

from collections.abc import Mapping

from recmtl.evaluate.measures.amount import AmountMeasure
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.measures.binary import BinaryMeasure
from recmtl.evaluate.measures.multiclass import MulticlassMeasure
from recmtl.evaluate.measures.regression import RegressionMeasure

MEASURES: Mapping[str, type[Measure]] = {
    "binary": BinaryMeasure,
    "regression": RegressionMeasure,
    "multiclass": MulticlassMeasure,
    "amount": AmountMeasure,
}
"""The measure of each kind of task, the kinds in the order of tables."""

__all__ = ["MEASURES", "AmountMeasure", "BinaryMeasure", "Measure", "MulticlassMeasure", "RegressionMeasure"]
