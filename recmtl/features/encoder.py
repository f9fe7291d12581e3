"""Batches to one dense vector per row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features.numeric import NumericEmbedding, PlainNumbers
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
        numeric: Builds what embeds the numeric features; by default they stay as they are.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, schema: FittedSchema, width: int = 16, numeric: NumericFactory = PlainNumbers) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}")
        by_width: dict[int, list[IdBlock]] = {}
        for block in schema.id_blocks:
            by_width.setdefault(block.feature.width or width, []).append(block)
        self.tables = nn.ModuleList(EmbeddingTable(blocks, w) for w, blocks in sorted(by_width.items()))
        self.numeric = (numeric if schema.numeric else PlainNumbers)(schema)
        indicators = schema.numeric_columns - len(schema.numeric)
        embedded = sum(w * len(blocks) for w, blocks in by_width.items())
        self.out_features = embedded + self.numeric.out_features + indicators

    def forward(self, batch: Batch) -> Tensor:
        """Encode a batch."""
        numbers = batch.numeric[:, : self.numeric.features]
        indicators = batch.numeric[:, self.numeric.features :]
        return torch.cat([*(table(batch.ids) for table in self.tables), self.numeric(numbers), indicators], 1)  # [B, W]

    def shared(self) -> list[SharedTensor]:
        """Name the tables and the embeddings of numbers, which every objective trains."""
        tables = [table.shared() for table in self.tables if isinstance(table, EmbeddingTable)]
        return tables + self.numeric.shared()
