"""Batches to one dense vector per row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from recmtl.balance.shared import SharedTensor
from recmtl.data import Batch
from recmtl.features.embedding_table import EmbeddingTable
from recmtl.features.numeric_embeddings import NumericEmbedding, PlainNumbers
from recmtl.features.pretrained import check_features, put_vectors
from recmtl.schema import FittedSchema, IdBlock

NumericFactory = Callable[[FittedSchema], NumericEmbedding]


class FeatureEncoder(nn.Module):
    """Embeds categories, takes numbers as they were prepared or embeds them, too, and sets all side by side.

    Shape:
        - output: ``[B, out_features]``: the embeddings, then the numeric features, then their missing indicators

    Args:
        schema: The fitted schema.
        width: The width of the embeddings of features that do not name their own.
        pretrained: Vectors to start from, by the name of their feature: a file (CSV, Parquet or Arrow) whose first
            column holds categories, and whose other columns the vectors, one number each or all in a column of lists.
            Categories without a vector keep their start. ``None`` in place of a file leaves all of them at it: the
            weights come from a checkpoint.
        freeze: Whether features with pretrained vectors are left as they start: none of their rows is trained.
        numeric: Builds what embeds the numeric features; by default they stay as they are.

    Raises:
        ValueError: `width` is below 1, or `pretrained` names a feature that cannot have vectors.
        DataError: A file cannot be read, its vectors have another width, or no category has a vector.

    Attributes:
        found: The share of the categories that have a vector, by the name of their feature.
    """

    def __init__(
        self,
        schema: FittedSchema,
        width: int = 16,
        pretrained: Mapping[str, str | Path | None] | None = None,
        freeze: bool = False,
        numeric: NumericFactory = PlainNumbers,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}")
        files = dict(pretrained or {})
        check_features(files, schema)
        groups: dict[tuple[int, bool], list[IdBlock]] = {}  # a table each
        for block in schema.id_blocks:
            frozen = freeze and block.owner in [(name, None) for name in files]
            groups.setdefault((block.width or width, frozen), []).append(block)
        self.tables = nn.ModuleList()
        self.found: dict[str, float] = {}
        for (w, frozen), blocks in sorted(groups.items()):
            table = EmbeddingTable(blocks, w)
            for block in blocks:
                file = files.get(block.name)
                if file is not None:
                    self.found[block.name] = put_vectors(table.rows_of(block), file, schema, block.name)
            self.tables.append(table.requires_grad_(not frozen))
        self.numeric = (numeric if schema.numeric else PlainNumbers)(schema)
        indicators = schema.numeric_columns - len(schema.numeric)
        embedded = sum(w * len(blocks) for (w, _), blocks in groups.items())
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
