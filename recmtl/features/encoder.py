"""The feature encoder: from a batch to one dense vector per row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recmtl.balance.shared import SharedTensor, shared_tensors
from recmtl.data import Batch
from recmtl.features.embedding_table import Embedded, EmbeddingTable, Field
from recmtl.features.numeric_embeddings import NumericEmbedding, PlainNumbers
from recmtl.features.pooling import POOLINGS, mean_of
from recmtl.features.pretrained import check_pretrained, load_vectors
from recmtl.features.spline_embeddings import SplineEmbeddings
from recmtl.layers.interaction import Interaction, InteractionFactory, build_interaction, interacted
from recmtl.schema import FittedSchema, IdBlock, MultiCategorical

NARROWEST, WIDEST = 4, 16  # embeddings whose width is not given

NumericFactory = Callable[[FittedSchema], NumericEmbedding]


class FeatureEncoder(nn.Module):
    """Embeddings of all features, concatenated.

    Categorical features of one width share one flat table, of which each feature is a part. Without a width a feature
    of n ids has the smallest power of two that is at least 2·√n, from 4 to 16. Lists are pooled as the schema says.

    Attributes:
        out_features: The width of the output, W.
        found: The share of the categories that have a pretrained vector, by feature.

    Shape:
        - output: ``[B, W]``: the embeddings of categories, those of numbers, the missing indicators, then label rates;
          with an interaction, what it makes of them

    Args:
        schema: The fitted schema.
        width: The width of the embeddings of features without a width of their own; ``None`` follows their number of
            ids.
        pretrained: Pretrained vectors by feature: a file (CSV, Parquet or Arrow) with categories in the first column
            and vectors in the others, one number each or all in one column of lists. Categories without a vector keep
            their initial values. ``None`` in place of a file loads nothing: the weights come from a checkpoint.
        freeze: Whether features with pretrained vectors are not trained.
        numeric: Builds the embedding of the numeric features.
        interaction: Builds the block that combines the features, from the width of the encoded row, such as
            `CrossLayers`; ``None`` for none.

    Raises:
        ValueError: `width` is below 1, `pretrained` names a feature that cannot have vectors, a history and its target
            have embeddings of different widths, or `interaction` builds no module of that width with `out_features`.
        DataError: A file cannot be read, its vectors have another width, or no category has a vector.

    Example:
        >>> import pandas as pd, recmtl
        >>> schema = recmtl.Schema([recmtl.Categorical("item"), recmtl.Numeric("price")], [recmtl.Task("ctr", "click")])
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "price": [1.0, 2.0, 5.0], "click": [1, 0, 1]})
        >>> data = recmtl.prepare(schema, rows, holdout=0)
        >>> encoder = FeatureEncoder(data.schema, width=4)
        >>> encoder(next(recmtl.Loader(data.train, 3).epoch())).shape  # 4 of item and 4 of price
        torch.Size([3, 8])
    """

    def __init__(
        self,
        schema: FittedSchema,
        width: int | None = None,
        pretrained: Mapping[str, str | Path | None] | None = None,
        freeze: bool = False,
        numeric: NumericFactory = SplineEmbeddings,
        interaction: InteractionFactory | None = None,
    ) -> None:
        super().__init__()
        if width is not None and width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}")
        files = dict(pretrained or {})
        check_pretrained(files, schema)
        groups: dict[tuple[int, bool], list[IdBlock]] = {}  # one table per group
        for block in schema.id_blocks:
            frozen = freeze and block.owner in [(name, None) for name in files]
            groups.setdefault((block.width or width or default_width(block.first_size), frozen), []).append(block)
        tables: list[EmbeddingTable] = []
        self.found: dict[str, float] = {}
        for (w, frozen), blocks in sorted(groups.items()):
            table = EmbeddingTable(blocks, w)
            for block in blocks:
                file = files.get(block.name)
                if file is not None:
                    self.found[block.name] = load_vectors(table, block, file, schema)
            tables.append(table.requires_grad_(not frozen))
        self.tables = nn.ModuleList(tables)
        self.pools = nn.ModuleList(POOLINGS[feature.pooling](t.width) for t in tables for feature in lists_of(t))
        self._targets = [target_place(feature, t, tables) for t in tables for feature in lists_of(t)]
        self.numeric = (numeric if schema.numeric else PlainNumbers)(schema)
        self._numbers = [feature.name for feature in schema.numeric]
        indicators = {f"{feature.name}.missing": 1 for feature in schema.numeric if feature.missing_indicator}
        rates = {f"{block.name}.label_rates": 2 * len(schema.rated_tasks) for block in schema.rated_blocks}
        self._unembedded = indicators | rates  # the columns of each
        embedded = sum(w * len(blocks) for (w, _), blocks in groups.items())
        self.out_features = embedded + self.numeric.out_features + schema.numeric_columns - len(schema.numeric)
        self.interaction: Interaction | None = None
        if interaction is not None:
            self.interaction = build_interaction(interaction, self.out_features)
            self.out_features = self.interaction.out_features

    def forward(self, batch: Batch) -> Tensor:
        """Return the encoded batch, ``[B, W]``."""
        numbers = batch.numeric[:, : self.numeric.features]
        unembedded = batch.numeric[:, self.numeric.features :]
        x = torch.cat([*self._pooled(batch), self.numeric(numbers), unembedded], 1)  # [B, W]
        return x if self.interaction is None else interacted(self.interaction, x)

    def _pooled(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the embeddings of the categories, lists pooled, table by table."""
        embedded: list[Embedded] = [table(batch.ids, batch.lists) for table in self.tables]
        pools = zip(self.pools, self._targets, strict=True)
        for own in embedded:
            yield own.singles.flatten(1)
            for lists in own.lists:
                pool, target = next(pools)
                yield pool(lists, target.of(embedded) if target else None)

    def fields(self, batch: Batch) -> dict[str, Field]:
        """Return the embeddings of each feature by its name, before lists are pooled and all are concatenated.

        A calendar part of a timestamp is a field of its own (``time.hour``), and so are what says that a number is
        missing (``price.missing``) and the label rates of a category (``item.label_rates``). With a `width` all
        categories have one width. Fields may be read in addition to the encoder's output, in one step.
        """
        found: dict[str, Field] = {}
        for table in self.tables:
            assert isinstance(table, EmbeddingTable)
            singles, lists = table(batch.ids, batch.lists)
            found |= {block.name: Field(rows) for block, rows in zip(table.singles, singles.unbind(1), strict=True)}
            found |= {block.name: own.padded(block.length) for block, own in zip(table.lists, lists, strict=True)}
        numbers = batch.numeric[:, : self.numeric.features]
        found |= dict(zip(self._numbers, map(Field, self.numeric.fields(numbers)), strict=True))
        unembedded = torch.split(batch.numeric[:, self.numeric.features :], list(self._unembedded.values()), dim=1)
        return found | dict(zip(self._unembedded, map(Field, unembedded), strict=True))

    def shared_tensors(self) -> list[SharedTensor]:
        """Return the parameters, those of a subclass as well, which every objective trains.

        Tables and the embeddings of numbers have one part per feature; those of the interaction follow.
        """
        own = (SharedTensor(parameter) for parameter in self.parameters(recurse=False))
        found = (*shared_tensors(*self.children()), *own)
        return list({id(shared.tensor): shared for shared in found}.values())


class TargetPlace(NamedTuple):
    """The place of a feature among the embeddings of all tables."""

    table: int
    place: int  # among the table's features with one value, or among its lists
    listed: bool

    def of(self, embedded: Sequence[Embedded]) -> Tensor:
        """Return the embedding of the feature, of a list the mean of its elements, ``[B, width]``."""
        found = embedded[self.table]
        if not self.listed:
            return found.singles[:, self.place]
        return mean_of(found.lists[self.place])


def target_place(
    history: MultiCategorical, own: EmbeddingTable, tables: Sequence[EmbeddingTable]
) -> TargetPlace | None:
    """Return the place of the target of a history, whose table is given; ``None`` without a target."""
    if history.target is None:
        return None
    for number, table in enumerate(tables):
        for listed, blocks in ((False, table.singles), (True, table.lists)):
            names = [block.name for block in blocks]
            if history.target in names:
                if table.width != own.width:
                    raise ValueError(
                        f"history {history.name!r} has embeddings of width {own.width}, its target {history.target!r} "
                        f"of width {table.width}: set one `width` for both, or `share_with: {history.target}`"
                    )
                return TargetPlace(number, names.index(history.target), listed)
    raise AssertionError(f"the schema was checked: {history.target} is a feature")


def lists_of(table: EmbeddingTable) -> list[MultiCategorical]:
    """Return the multi-valued features of a table."""
    return [block.feature for block in table.lists if isinstance(block.feature, MultiCategorical)]


def default_width(size: int) -> int:
    """Return the width of the embeddings of a feature with so many ids."""
    return min(WIDEST, max(NARROWEST, 1 << math.ceil(math.log2(2 * math.sqrt(size)))))
