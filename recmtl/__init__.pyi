"""Multitask ranking for CTR and CVR data: encoders, models and exact gradient balancing, from files to an AUC table."""

from .balance import (
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
from .comparison import Comparison, compare
from .data import Batch, DataError, Description, Loader, PreparedData, Rows, describe, prepare
from .evaluate import Predictions
from .features import FeatureEncoder
from .layers import LayerStyle
from .models import ESMM, MMOE, RankingModel, SharedBottom, SingleTask
from .recipe.presets import card
from .recipe.recipe import load_run
from .report import write_report
from .schema import (
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
from .train import EarlyStopping, Optimization, RunConfig, RunError, Trainer

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
    "EarlyStopping",
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
    "RunConfig",
    "RunError",
    "Schema",
    "SchemaError",
    "SharedBottom",
    "SingleTask",
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
