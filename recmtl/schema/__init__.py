"""Schemas: features, tasks, and what fitting adds. Independent of torch."""

from recmtl.errors import SchemaError
from recmtl.schema.features import Binned, Categorical, Feature, MultiCategorical, Numeric, Timestamp
from recmtl.schema.fitted import FittedSchema, IdBlock, LabelCounts, LabelRate, Moments
from recmtl.schema.schema import Schema
from recmtl.schema.serialization import load_fitted, save_fitted
from recmtl.schema.tasks import Funnel, Task

__all__ = [
    "Binned",
    "Categorical",
    "Feature",
    "FittedSchema",
    "Funnel",
    "IdBlock",
    "LabelCounts",
    "LabelRate",
    "Moments",
    "MultiCategorical",
    "Numeric",
    "Schema",
    "SchemaError",
    "Task",
    "Timestamp",
    "load_fitted",
    "save_fitted",
]
