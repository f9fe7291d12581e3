"""Encoders: from a batch to one dense vector per row."""

from recmtl.features.encoder import FeatureEncoder
from recmtl.features.numeric import (
    LinearEmbeddings,
    LinearReLUEmbeddings,
    NumericEmbedding,
    PeriodicEmbeddings,
    PiecewiseLinearEmbeddings,
    PlainNumbers,
)
from recmtl.features.table import EmbeddingTable

__all__ = [
    "EmbeddingTable",
    "FeatureEncoder",
    "LinearEmbeddings",
    "LinearReLUEmbeddings",
    "NumericEmbedding",
    "PeriodicEmbeddings",
    "PiecewiseLinearEmbeddings",
    "PlainNumbers",
]
