"""The kinds of column that a model can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from recmtl.schema.checks import at_least_one, names, one_of

NumericTransform = Literal["standardize", "log1p", "none"]
Pooling = Literal["mean", "sum"]


@dataclass(frozen=True)
class Categorical:
    """A column with one category per row: text, integers of any size or booleans.

    Index 0 of its vocabulary is "unknown" (unseen in training, or rarer than ``min_count``), index 1 is "missing".

    Args:
        name: The column, or a pattern such as ``categorical_*``.
        min_count: Categories seen less often in the training rows become "unknown".
        max_vocabulary: Keep only that many of the most frequent categories; ``None`` keeps all.
        hash_buckets: Hash into this many buckets instead of keeping a vocabulary.
        width: Width of the embedding; ``None`` takes the encoder's.
    """

    name: str
    min_count: int = 1
    max_vocabulary: int | None = None
    hash_buckets: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Check the name and the counts."""
        names(self, "name")
        at_least_one(self, "min_count", "max_vocabulary", "hash_buckets", "width")


@dataclass(frozen=True)
class MultiCategorical(Categorical):
    """A column with any number of categories per row, pooled into one embedding.

    Args:
        name: The column: text with a separator, or a list column.
        min_count: As in `Categorical`.
        max_vocabulary: As in `Categorical`.
        hash_buckets: As in `Categorical`.
        width: As in `Categorical`.
        separator: What stands between two categories in a text column.
        max_length: Only that many categories of a row are kept, the first ones.
        pooling: How the embeddings of a row become one. A row without categories has the embedding of "missing".
    """

    separator: str = "|"
    max_length: int = 50
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        """Check the separator, the length and the pooling."""
        super().__post_init__()
        at_least_one(self, "max_length")
        one_of(self, "pooling", Pooling)
        names(self, "separator")


@dataclass(frozen=True)
class Numeric:
    """A column with one number per row. A missing value becomes the mean of the training rows.

    Args:
        name: The column, or a pattern such as ``numerical_*``.
        transform: ``standardize`` to mean 0 and variance 1; ``log1p`` takes sign(x)·log(1 + |x|) first;
            ``none`` leaves the value as it is.
    """

    name: str
    transform: NumericTransform = "standardize"

    def __post_init__(self) -> None:
        """Check the name and the transform."""
        names(self, "name")
        one_of(self, "transform", NumericTransform)


Feature = Categorical | MultiCategorical | Numeric
KINDS: Mapping[str, type[Feature]] = {
    "categorical": Categorical,
    "multi_categorical": MultiCategorical,
    "numeric": Numeric,
}
