"""Batches to one dense vector per row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features.numeric import NumericEmbedding
from recmtl.features.table import EmbeddingTable
from recmtl.layers import SharedTensor
from recmtl.schema import FittedSchema, IdBlock

NumericFactory = Callable[[FittedSchema], NumericEmbedding]


class FeatureEncoder(nn.Module):
    """Embeds categories, takes numbers as they were prepared or embeds them, too, and sets all side by side.

    Shape:
        - output: ``[B, out_features]``: the embeddings, then the numeric features, then their missing indicators

    Args:
        schema: The fitted schema.
        width: The width of the embeddings of features that do not name their own.
        numeric: Builds what embeds the numeric features; ``None`` takes them as they are.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, schema: FittedSchema, width: int = 16, numeric: NumericFactory | None = None) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}")
        by_width: dict[int, list[IdBlock]] = {}
        for block in schema.id_blocks:
            by_width.setdefault(block.feature.width or width, []).append(block)
        self.tables = nn.ModuleList(EmbeddingTable(blocks, w) for w, blocks in sorted(by_width.items()))
        self.numeric = numeric(schema) if numeric and schema.numeric else None
        self._numbers = len(schema.numeric)
        self.out_features = sum(w * len(blocks) for w, blocks in by_width.items()) + schema.numeric_columns
        if self.numeric is not None:
            self.out_features += self.numeric.out_features - self._numbers

    def forward(self, batch: Batch) -> Tensor:
        """Encode a batch."""
        numbers = [batch.numeric]
        if self.numeric is not None:
            numbers = [self.numeric(batch.numeric[:, : self._numbers]), batch.numeric[:, self._numbers :]]
        return torch.cat([*(table(batch.ids) for table in self.tables), *numbers], dim=1)  # [B, W]

    def shared(self) -> list[SharedTensor]:
        """Name the tables and the embeddings of numbers, which every objective trains."""
        tables = [table.shared() for table in self.tables if isinstance(table, EmbeddingTable)]
        return tables + (self.numeric.shared() if self.numeric is not None else [])
