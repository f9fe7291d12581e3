"""The kinds of column that a model can read."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recmtl.errors import SchemaError
from recmtl.schema.validation import at_least_one, bounds, is_flag, names, one_of

NumericTransform = Literal["standardize", "min_max", "log1p", "quantile", "none"]
Pooling = Literal["mean", "sum"]
# The parts of a date or time, and how many values each has.
CALENDAR: Mapping[str, int] = {"minute": 60, "hour": 24, "weekday": 7, "day": 31, "month": 12, "quarter": 4}
ZONE = "%z"
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
        share_with: Another feature, whose categories and embeddings are this one's, too: a history of items and the
            item itself. The vocabulary is learned from both columns; how it is kept is said by that feature alone.
    """

    name: str
    min_count: int = 1
    max_vocabulary: int | None = None
    hash_buckets: int | None = None
    width: int | None = None
    share_with: str | None = None

    def __post_init__(self) -> None:
        """Check the name and the counts."""
        names(self, "name", "share_with")
        options = ("min_count", "max_vocabulary", "hash_buckets", "width")
        at_least_one(self, *options)
        own = [o for o in options if self.share_with and getattr(self, o) != getattr(type(self), o)]
        if own:
            who = f"{type(self).__name__} {self.name!r}"
            raise SchemaError(f"{who} shares the vocabulary of {self.share_with!r}: set `{own[0]}` there")


@dataclass(frozen=True)
class MultiCategorical(Categorical):
    """A column with any number of categories per row, pooled into one embedding.

    Args:
        name: The column: text with a separator, or a list column.
        min_count: As in `Categorical`.
        max_vocabulary: As in `Categorical`.
        hash_buckets: As in `Categorical`.
        width: As in `Categorical`.
        share_with: As in `Categorical`.
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
class Timestamp:
    """A date or time per row, read as one category per part of the calendar; missing is a category of each part.

    The clock is the one that the column shows: the offset of a text (``+02:00``) is passed over, a column with a time
    zone is read in that zone, Unix time in UTC. There is no part for the year, as the years to predict are never those
    of the training rows.

    Args:
        name: The column, or a pattern: dates and timestamps, text or integers.
        parts: Any of ``minute``, ``hour``, ``weekday``, ``day`` (of the month), ``month`` and ``quarter``.
        format: How text is written: ISO 8601 by default, else as in ``strptime`` (``%d.%m.%Y``; ``%z`` only at the
            end). ``seconds`` and ``milliseconds`` are Unix time.
        width: Width of each part's embedding; ``None`` takes the encoder's.
    """

    name: str
    parts: Sequence[str] = ("hour", "weekday", "day", "month")
    format: str | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Check the name, the parts and the format."""
        names(self, "name", "format")
        at_least_one(self, "width")
        known = isinstance(self.parts, list | tuple) and all(p in list(CALENDAR) for p in self.parts)
        if not known or not self.parts or len(set(self.parts)) < len(self.parts):
            raise SchemaError(
                f"Timestamp {self.name!r}: `parts` must be some of {', '.join(CALENDAR)}, each once, got {self.parts!r}"
            )
        object.__setattr__(self, "parts", tuple(self.parts))
        if self.format and ZONE in self.format.removesuffix(ZONE):
            raise SchemaError(f"Timestamp {self.name!r}: `format` may have {ZONE} only at its end, got {self.format!r}")


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


Feature = Categorical | MultiCategorical | Numeric | Binned | Timestamp
KINDS: Mapping[str, type[Feature]] = {
    "categorical": Categorical,
    "multi_categorical": MultiCategorical,
    "numeric": Numeric,
    "timestamp": Timestamp,
    "binned": Binned,
}


def check_sharing(features: Sequence[Feature]) -> None:
    """Check that whoever shares a vocabulary shares that of a categorical feature that has its own.

    Raises:
        SchemaError: The other feature is unknown, has no vocabulary, or shares one itself.
    """
    for feature in (f for f in features if isinstance(f, Categorical) and f.share_with):
        wanted = str(feature.share_with)
        owner = next((f for f in features if f.name == wanted), None)
        owner = owner or next((f for f in features if fnmatch.fnmatchcase(wanted, f.name)), None)
        if not isinstance(owner, Categorical):
            what = "is not categorical" if owner else "is not a feature"
            raise SchemaError(f"feature {feature.name!r} shares the vocabulary of {wanted!r}, which {what}")
        if owner.share_with:
            raise SchemaError(
                f"feature {feature.name!r} shares the vocabulary of {wanted!r}, which has none of its own: name the "
                f"feature whose vocabulary {wanted!r} shares"
            )
