"""Feature encoders: from a batch to one dense vector per row."""

from recmtl.features.embedding_table import EmbeddingTable, Field
from recmtl.features.encoder import FeatureEncoder
from recmtl.features.numeric_embeddings import (
    LinearEmbeddings,
    LinearReLUEmbeddings,
    NumericEmbedding,
    PeriodicEmbeddings,
    PiecewiseLinearEmbeddings,
    PlainNumbers,
)
from recmtl.features.sharding import sharded_tables
from recmtl.features.spline_embeddings import SplineEmbeddings
from recmtl.features.torchrec_rows import TorchRecRows

__all__ = [
    "EmbeddingTable",
    "FeatureEncoder",
    "Field",
    "LinearEmbeddings",
    "LinearReLUEmbeddings",
    "NumericEmbedding",
    "PeriodicEmbeddings",
    "PiecewiseLinearEmbeddings",
    "PlainNumbers",
    "SplineEmbeddings",
    "TorchRecRows",
    "sharded_tables",
]
