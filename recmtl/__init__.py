"""Multitask ranking for CTR and CVR data: encoders, models and exact gradient balancing, from files to an AUC table."""

from recmtl.balance import (
    Balancer,
    GradNorm,
    MetaBalance,
    NormalizedSplitter,
    PCGrad,
    PPCGrad,
    RotateOnly,
    RotoGrad,
    RotoGradNorm,
    Sum,
)
from recmtl.comparison import Comparison, compare
from recmtl.data import Batch, DataError, Description, Loader, PreparedData, Rows, describe, prepare
from recmtl.evaluate import Predictions
from recmtl.features import FeatureEncoder
from recmtl.layers import LayerStyle
from recmtl.models import ESMM, MMOE, RankingModel, SharedBottom, SingleTask
from recmtl.recipe import load_run
from recmtl.report import write_report
from recmtl.schema import (
    Binned,
    Categorical,
    FittedSchema,
    Funnel,
    MultiCategorical,
    Numeric,
    Schema,
    SchemaError,
    Task,
    Timestamp,
)
from recmtl.shipped import card
from recmtl.train import Optimization, Run, RunError, Stopping, Trainer

__all__ = [
    "ESMM",
    "MMOE",
    "Balancer",
    "Batch",
    "Binned",
    "Categorical",
    "Comparison",
    "DataError",
    "Description",
    "FeatureEncoder",
    "FittedSchema",
    "Funnel",
    "GradNorm",
    "LayerStyle",
    "Loader",
    "MetaBalance",
    "MultiCategorical",
    "NormalizedSplitter",
    "Numeric",
    "Optimization",
    "PCGrad",
    "PPCGrad",
    "Predictions",
    "PreparedData",
    "RankingModel",
    "RotateOnly",
    "RotoGrad",
    "RotoGradNorm",
    "Rows",
    "Run",
    "RunError",
    "Schema",
    "SchemaError",
    "SharedBottom",
    "SingleTask",
    "Stopping",
    "Sum",
    "Task",
    "Timestamp",
    "Trainer",
    "card",
    "compare",
    "describe",
    "load_run",
    "prepare",
    "write_report",
]
