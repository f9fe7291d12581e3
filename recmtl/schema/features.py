"""The kinds of column that a model can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from recmtl.schema.checks import at_least_one, bounds, is_flag, names, one_of

NumericTransform = Literal["standardize", "min_max", "log1p", "quantile", "none"]
Pooling = Literal["mean", "sum"]
Clip = tuple[float | None, float | None]


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
        transform: ``standardize`` to mean 0 and variance 1; ``min_max`` to [0, 1] by the range of the training rows,
            which other rows may leave; ``log1p`` takes sign(x)·log(1 + |x|) and standardises it; ``quantile`` gives the
            share of the training rows that are no larger, linear between at most 256 quantiles (a missing value
            becomes their median); ``none`` leaves the value as it is.
        clip: The limits ``(low, high)`` to which raw values are cut before all else; either may be ``None``.
        missing_indicator: Give the model a further number: 1 where the value is missing, 0 elsewhere.
    """

    name: str
    transform: NumericTransform = "standardize"
    clip: Clip | None = None
    missing_indicator: bool = False

    def __post_init__(self) -> None:
        """Check the name and the options."""
        names(self, "name")
        one_of(self, "transform", NumericTransform)
        bounds(self, "clip")
        is_flag(self, "missing_indicator")


@dataclass(frozen=True)
class Binned:
    """A column with one number per row, of which the model sees the bin: each bin has an embedding.

    The bins hold equal shares of the training rows, as far as equal values allow: edges that are equal are one. A
    missing value is a category of its own.

    Args:
        name: The column, or a pattern such as ``numerical_*``.
        bins: How many, at most.
        width: Width of the embedding; ``None`` takes the encoder's.
        clip: As in `Numeric`.
    """

    name: str
    bins: int = 32
    width: int | None = None
    clip: Clip | None = None

    def __post_init__(self) -> None:
        """Check the name and the options."""
        names(self, "name")
        at_least_one(self, "bins", "width")
        bounds(self, "clip")


Feature = Categorical | MultiCategorical | Numeric | Binned
KINDS: Mapping[str, type[Feature]] = {
    "categorical": Categorical,
    "multi_categorical": MultiCategorical,
    "numeric": Numeric,
    "binned": Binned,
}
