"""Features: the kinds of columns that a model can read."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recmtl.errors import SchemaError
from recmtl.io.spellings import TICKS, ZONE
from recmtl.schema.tasks import Task
from recmtl.schema.validation import check_choice, check_count, check_flag, check_limits, check_nonempty

NumericTransform = Literal["knots", "standardize", "min_max", "log1p", "quantile", "none"]
Pooling = Literal["mean", "sum", "self_attention", "target_attention"]
Keep = Literal["first", "last"]
# The parts of a date or time and their number of values.
CALENDAR: Mapping[str, int] = {"minute": 60, "hour": 24, "weekday": 7, "day": 31, "month": 12, "quarter": 4}
CODES = "aAwdbBmyYHIpMSfzjUWGVu%"  # of a strptime format
Clip = tuple[float | None, float | None]


@dataclass(frozen=True)
class Categorical:
    """A column with one category per row: text, integers or booleans.

    Id 0 is "unknown" (unseen in training, or rarer than ``min_count``), id 1 is "missing". If no training row lacks the
    category, a missing one is unknown, too.

    Args:
        name: The column, or a pattern such as ``categorical_*``.
        min_count: Categories seen less often in the training rows become "unknown".
        max_vocabulary: Keep this many of the most frequent categories; ``None`` keeps all.
        hash_buckets: Hash into this many buckets instead of fitting a vocabulary.
        width: Embedding width; ``None`` takes the encoder's.
        share_with: Another feature whose vocabulary and embeddings this one shares, such as a history of items with the
            item. The vocabulary is fitted on both columns; its options are set on the other feature.
        label_rates: Add two numbers for each binary task: how much more often its label is 1 in the training rows with
            the same category than in all of them, and how many such rows there are. Those of a training row are counted
            in the other folds, so that they never depend on its own label.
    """

    name: str
    min_count: int = 1
    max_vocabulary: int | None = None
    hash_buckets: int | None = None
    width: int | None = None
    share_with: str | None = None
    label_rates: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_nonempty(self, "name", "share_with")
        check_flag(self, "label_rates")
        options = ("min_count", "max_vocabulary", "hash_buckets", "width")
        check_count(self, *options)
        own = [o for o in options if self.share_with and getattr(self, o) != getattr(type(self), o)]
        if own:
            feature = f"{type(self).__name__} {self.name!r}"
            raise SchemaError(f"{feature} shares the vocabulary of {self.share_with!r}: set `{own[0]}` there")


@dataclass(frozen=True)
class MultiCategorical(Categorical):
    """A column with any number of categories per row, pooled into one embedding: tags, or a history of items.

    Args:
        name: The column: lists, text with a separator, or lists that were written as text, such as ``['a', 'b']``,
            ``["a","b"]`` or ``[1 2]``.
        min_count: As in `Categorical`.
        max_vocabulary: As in `Categorical`.
        hash_buckets: As in `Categorical`.
        width: As in `Categorical`.
        share_with: As in `Categorical`.
        label_rates: Must be false: a row has several categories.
        separator: The text between two categories in a text column.
        max_length: Keep at most this many categories of a row, and no more than any training row has. A note counts the
            rows that have more.
        keep: Which ones: the ``last``, the most recent of a history, or the ``first``.
        pooling: ``mean`` or ``sum`` of a row's embeddings; ``self_attention`` weights them by a learned query (Lin et
            al., ICLR 2017), ``target_attention`` by how they go with the embedding of `target` (DIN, Zhou et al., KDD
            2018). A row without categories has one, "missing", or "unknown" if no training row is without.
        target: For ``target_attention``, the feature with the row's own item. Its embeddings must have the width of
            these: set `share_with`, too, or one `width` for both. If it is a `MultiCategorical`, the mean of its
            embeddings is the item's.
    """

    separator: str = "|"
    max_length: int = 50
    keep: Keep = "last"
    pooling: Pooling = "mean"
    target: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.label_rates:
            raise SchemaError(
                f"MultiCategorical {self.name!r}: `label_rates` is for features with one category per row: leave it out"
            )
        check_count(self, "max_length")
        check_choice(self, "pooling", Pooling)
        check_choice(self, "keep", Keep)
        check_nonempty(self, "separator", "target")
        if self.pooling == "target_attention" and self.target is None:
            raise SchemaError(
                f"MultiCategorical {self.name!r}: `target_attention` needs `target`, the feature of the row's own item"
            )
        if self.pooling != "target_attention" and self.target is not None:
            raise SchemaError(
                f"MultiCategorical {self.name!r}: `target` is for `pooling: target_attention`, got {self.pooling!r}"
            )


@dataclass(frozen=True)
class Numeric:
    """A column with one number per row.

    Args:
        name: The column, or a pattern such as ``numerical_*``.
        transform: ``knots`` maps a value to its place among the knots of the column, from -1 at the first to 1 at the
            last, in equal steps from knot to knot; a value between two knots lies between their places, a value beyond
            the training rows at the end. The knots are at most 129 values of the training rows: all of them if there
            are no more; else those that many rows have, and quantiles of the others. ``standardize`` to mean 0 and
            variance 1; ``min_max`` maps the range of the training rows to [0, 1]; ``log1p`` standardizes
            sign(x)·log(1 + |x|); ``quantile`` maps a value to the share of training rows that are no larger,
            interpolated between at most 256 quantiles; ``none`` keeps the value. A missing value becomes the mean of
            the training rows, with ``knots`` and ``quantile`` their median.
        clip: Limits ``(low, high)`` applied to raw values first; either may be ``None``.
        missing_indicator: Add an input that is 1 where the value is missing, 0 elsewhere. ``None`` adds it if a
            training row lacks the value.
    """

    name: str
    transform: NumericTransform = "knots"
    clip: Clip | None = None
    missing_indicator: bool | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_nonempty(self, "name")
        check_choice(self, "transform", NumericTransform)
        check_limits(self, "clip")
        if self.missing_indicator is not None:
            check_flag(self, "missing_indicator")


@dataclass(frozen=True)
class Timestamp:
    """A date or time per row, encoded as one category per calendar part.

    "Missing" is a category of each part, "unknown" if no training row lacks the time.

    Times are local as written: the offset of a text (``+02:00``) is ignored, a column with a time zone is read in that
    zone, Unix time in UTC. There is no part for the year, as future years are unseen in training.

    Args:
        name: The column, or a pattern: dates and timestamps, text or integers.
        parts: Any of ``minute``, ``hour``, ``weekday``, ``day`` (of the month), ``month`` and ``quarter``.
        format: The format of text: ISO 8601 by default, or a ``strptime`` format (``%d.%m.%Y``; ``%z`` only at the
            end), of which the time of day may lack. ``seconds``, ``milliseconds``, ``microseconds`` and ``nanoseconds``
            are Unix time. In Unix time and in formats of digits alone (``%Y%m%d``) 0 and -1 are missing.
        width: Embedding width of each part; ``None`` takes the encoder's.
    """

    name: str
    parts: Sequence[str] = ("hour", "weekday", "day", "month")
    format: str | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_nonempty(self, "name", "format")
        check_count(self, "width")
        known = isinstance(self.parts, list | tuple) and all(p in list(CALENDAR) for p in self.parts)
        if not known or not self.parts or len(set(self.parts)) < len(self.parts):
            raise SchemaError(
                f"Timestamp {self.name!r}: `parts` must be some of {', '.join(CALENDAR)}, each once, got {self.parts!r}"
            )
        object.__setattr__(self, "parts", tuple(self.parts))
        codes = re.findall("%(.?)", self.format or "")
        if self.format not in (None, *TICKS) and (not codes or not set(codes) <= set(CODES)):
            raise SchemaError(
                f"Timestamp {self.name!r}: `format` must be one of {', '.join(TICKS)}, or have codes of `strptime`, "
                f"such as %d.%m.%Y, got {self.format!r}"
            )
        if self.format and ZONE in self.format.removesuffix(ZONE):
            raise SchemaError(f"Timestamp {self.name!r}: `format` may have {ZONE} only at its end, got {self.format!r}")


@dataclass(frozen=True)
class Binned:
    """A column with one number per row, encoded as the id of its bin; each bin has an embedding.

    Bins hold equal shares of the training rows, as far as ties allow: equal edges are merged. A missing value is a
    category of its own, "unknown" if no training row lacks one.

    Args:
        name: The column, or a pattern such as ``numerical_*``.
        bins: The largest number of bins.
        width: Embedding width; ``None`` takes the encoder's.
        clip: As in `Numeric`.
    """

    name: str
    bins: int = 32
    width: int | None = None
    clip: Clip | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_nonempty(self, "name")
        check_count(self, "bins", "width")
        check_limits(self, "clip")


Feature = Categorical | MultiCategorical | Numeric | Binned | Timestamp
KINDS: Mapping[str, type[Feature]] = {
    "categorical": Categorical,
    "multi_categorical": MultiCategorical,
    "numeric": Numeric,
    "timestamp": Timestamp,
    "binned": Binned,
}
KIND_NAMES = {cls: kind for kind, cls in KINDS.items()}


def check_sharing(features: Sequence[Feature]) -> None:
    """Check that each `share_with` names a categorical feature with a vocabulary of its own."""
    for feature in (f for f in features if isinstance(f, Categorical) and f.share_with):
        wanted = str(feature.share_with)
        owner = named_feature(features, wanted)
        if not isinstance(owner, Categorical):
            reason = "is not categorical" if owner else "is not a feature"
            raise SchemaError(f"feature {feature.name!r} shares the vocabulary of {wanted!r}, which {reason}")
        if owner.share_with:
            raise SchemaError(
                f"feature {feature.name!r} shares the vocabulary of {wanted!r}, which has none of its own: set "
                "`share_with` to a feature that has one"
            )


def check_targets(features: Sequence[Feature]) -> None:
    """Check that each `target` of a history names a categorical feature, of a list one that is pooled by its mean."""
    by_name = {feature.name: feature for feature in features}
    for feature in features:
        if not isinstance(feature, MultiCategorical) or feature.target is None:
            continue
        wanted = feature.target
        target = by_name.get(wanted) or next((f for f in features if fnmatch.fnmatchcase(wanted, f.name)), None)
        reason = None
        if target is feature:
            reason = "is the history itself"
        elif not isinstance(target, Categorical):
            reason = "is not categorical" if target else "is not a feature"
        elif isinstance(target, MultiCategorical) and target.pooling != "mean":
            reason = f"is a list with `pooling: {target.pooling}`, where a list must have `mean`"
        if reason:
            raise SchemaError(f"the target of history {feature.name!r} is {feature.target!r}, which {reason}")


def check_label_rates(features: Sequence[Feature], tasks: Sequence[Task]) -> None:
    """Check that there is a binary task if a feature has `label_rates`."""
    rated = next((f.name for f in features if isinstance(f, Categorical) and f.label_rates), None)
    if rated is not None and not any(task.kind == "binary" for task in tasks):
        raise SchemaError(f"feature {rated!r} has `label_rates`, which need a binary task: leave it out")


def check_domain(features: Sequence[Feature], domain: str | None) -> None:
    """Check that a schema's `domain` names a feature with one category per row and a vocabulary."""
    if domain is None:
        return
    feature = named_feature(features, domain)
    owner = named_feature(features, feature.share_with or domain) if isinstance(feature, Categorical) else None
    reason = None
    if feature is None:
        reason = "is not a feature"
    elif not isinstance(feature, Categorical):
        reason = f"is {KIND_NAMES[type(feature)]}"
    elif isinstance(feature, MultiCategorical):
        reason = "has several categories per row"
    elif isinstance(owner, Categorical) and owner.hash_buckets:
        reason = "has hash buckets instead of a vocabulary"
    if reason:
        raise SchemaError(f"the domain must be a categorical feature with a vocabulary, but {domain!r} {reason}")


def named_feature(features: Sequence[Feature], name: str) -> Feature | None:
    """Return the feature of a name, or else the first whose pattern matches it."""
    exact = next((f for f in features if f.name == name), None)
    return exact or next((f for f in features if fnmatch.fnmatchcase(name, f.name)), None)
