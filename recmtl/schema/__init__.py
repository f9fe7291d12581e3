"""Schemas: features, tasks, and what fitting adds. Independent of torch."""

from recmtl.errors import SchemaError
from recmtl.schema.features import Binned, Categorical, Feature, MultiCategorical, Numeric, Timestamp
from recmtl.schema.fitted import DomainColumn, FittedSchema, IdBlock, LabelCounts, LabelRate, Moments
from recmtl.schema.funnel import Funnel, StepRates
from recmtl.schema.funnel_rates import conditional_rates, consistent_rates, funnel_basis, replaced_rates
from recmtl.schema.schema import Schema
from recmtl.schema.serialization import load_fitted, save_fitted
from recmtl.schema.tasks import Task
from recmtl.schema.thinning import SAMPLING_WEIGHT, SplitName, Thinning

__all__ = [
    "SAMPLING_WEIGHT",
    "Binned",
    "Categorical",
    "DomainColumn",
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
    "SplitName",
    "StepRates",
    "Task",
    "Thinning",
    "Timestamp",
    "conditional_rates",
    "consistent_rates",
    "funnel_basis",
    "load_fitted",
    "replaced_rates",
    "save_fitted",
]
