"""Multitask ranking for CTR and CVR data: encoders, models and exact gradient balancing, from files to an AUC table."""

from .balance import (
    BalancedModule,
    Balancer,
    GradNorm,
    LossWeightBalancer,
    MetaBalance,
    NormalizedSplitter,
    PCGrad,
    PPCGrad,
    ProjectionBalancer,
    RepresentationBalancer,
    RotateOnly,
    RotoGrad,
    RotoGradNorm,
    SharedTensor,
    Sizes,
    Sum,
    TaskGradientBalancer,
    TaskGradients,
)
from .comparison import Comparison, compare
from .data import Batch, Description, Loader, PreparedData, Rows, describe, prepare
from .data.synthetic.generate import synthesize
from .errors import DataError, DivergenceError, OutOfMemoryError, RunError, SchemaError
from .evaluate import Predictions
from .features import (
    FeatureEncoder,
    LinearEmbeddings,
    LinearReLUEmbeddings,
    NumericEmbedding,
    PeriodicEmbeddings,
    PiecewiseLinearEmbeddings,
    PlainNumbers,
)
from .layers import MLP, Experts, Gates, LayerStyle
from .models import ESMM, MMOE, EncoderFactory, RankingModel, Shared, SharedBottom, SingleTask, Tower
from .recipe.load import load_run
from .recipe.presets import card
from .report import write_report
from .schema import Binned, Categorical, FittedSchema, Funnel, MultiCategorical, Numeric, Schema, Task, Timestamp
from .train import EarlyStopping, Losses, Optimization, RunConfig, Trainer

__version__: str

__all__ = [
    "ESMM",
    "MLP",
    "MMOE",
    "BalancedModule",
    "Balancer",
    "Batch",
    "Binned",
    "Categorical",
    "Comparison",
    "DataError",
    "Description",
    "DivergenceError",
    "EarlyStopping",
    "EncoderFactory",
    "Experts",
    "FeatureEncoder",
    "FittedSchema",
    "Funnel",
    "Gates",
    "GradNorm",
    "LayerStyle",
    "LinearEmbeddings",
    "LinearReLUEmbeddings",
    "Loader",
    "LossWeightBalancer",
    "Losses",
    "MetaBalance",
    "MultiCategorical",
    "NormalizedSplitter",
    "Numeric",
    "NumericEmbedding",
    "Optimization",
    "OutOfMemoryError",
    "PCGrad",
    "PPCGrad",
    "PeriodicEmbeddings",
    "PiecewiseLinearEmbeddings",
    "PlainNumbers",
    "Predictions",
    "PreparedData",
    "ProjectionBalancer",
    "RankingModel",
    "RepresentationBalancer",
    "RotateOnly",
    "RotoGrad",
    "RotoGradNorm",
    "Rows",
    "RunConfig",
    "RunError",
    "Schema",
    "SchemaError",
    "Shared",
    "SharedBottom",
    "SharedTensor",
    "SingleTask",
    "Sizes",
    "Sum",
    "Task",
    "TaskGradientBalancer",
    "TaskGradients",
    "Timestamp",
    "Tower",
    "Trainer",
    "card",
    "compare",
    "describe",
    "load_run",
    "prepare",
    "synthesize",
    "write_report",
]
