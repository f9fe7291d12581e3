"""Batches to one dense vector per row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features.table import EmbeddingTable
from recmtl.layers import SharedTensor
from recmtl.schema import FittedSchema, IdBlock


class FeatureEncoder(nn.Module):
    """Embeds categories, takes numbers as they were standardised, and sets them side by side.

    Shape:
        - output: ``[B, out_features]``: the embeddings, then the numeric features

    Args:
        schema: The fitted schema.
        width: The width of the embeddings of features that do not name their own.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, schema: FittedSchema, width: int = 16) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}")
        by_width: dict[int, list[IdBlock]] = {}
        for block in schema.id_blocks:
            by_width.setdefault(block.feature.width or width, []).append(block)
        self.tables = nn.ModuleList(EmbeddingTable(blocks, w) for w, blocks in sorted(by_width.items()))
        self.out_features = sum(w * len(blocks) for w, blocks in by_width.items()) + len(schema.numeric)

    def forward(self, batch: Batch) -> Tensor:
        """Encode a batch."""
        return torch.cat([*(table(batch.ids) for table in self.tables), batch.numeric], dim=1)  # [B, W]

    def shared(self) -> list[SharedTensor]:
        """Name the tables, which every objective trains."""
        return [table.shared() for table in self.tables if isinstance(table, EmbeddingTable)]
