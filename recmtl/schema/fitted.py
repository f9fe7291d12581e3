"""A schema with the vocabularies, statistics and label rates of the training rows."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.errors import counted
from recmtl.schema.features import CALENDAR, Binned, Categorical, Feature, MultiCategorical, Numeric, Timestamp
from recmtl.schema.history import FitHistory
from recmtl.schema.schema import Schema
from recmtl.schema.tasks import LabelKey, Task
from recmtl.schema.thinning import Thinning

OTHER_DOMAINS, MOST_DOMAINS = "other", 64
UNKNOWN, MISSING, FIRST = 0, 1, 2  # ids of categories: two reserved ones, then the vocabulary
DIGEST_CHUNK = 1 << 20  # categories hashed at a time, as Python text
FREE = "\0free\0"  # what a free place of a vocabulary is hashed as


class Moments(NamedTuple):
    """Mean and standard deviation of a transformed numeric column over the training rows."""

    mean: float
    deviation: float


class LogMoments(NamedTuple):
    """The share of labels above 0, and mean and standard deviation of the logarithms of these."""

    positive: float
    mean: float
    deviation: float


class LabelRate(NamedTuple):
    """The number of training rows with a label and a weight above 0, and the (weighted) mean of the label."""

    rows: int
    mean: float


class LabelCounts(NamedTuple):
    """The training rows with a label, and those where it is 1, of each id of a feature and each binary task.

    Row weights count, divided by their mean over the rows of the task. Both are float64 ``[tasks, ids]``.
    """

    rows: npt.NDArray[np.float64]
    positives: npt.NDArray[np.float64]


class IdBlock(NamedTuple):
    """The ids of a categorical or binned feature, or of a calendar part: a column of the matrix of ids, or lists.

    Args:
        feature: The feature.
        size: The number of ids: vocabulary, buckets or bins, including "unknown" and "missing".
        start: The column in the matrix of ids; of a multi-valued feature, the place among the lists.
        length: How many ids a row has at most: 1, or the longest list of a multi-valued feature.
        width: The embedding width set in the schema; ``None`` takes the encoder's.
        part: The calendar part of a timestamp.
        first: The number of ids on the first day, which a default width follows, if it was another one.
    """

    feature: Categorical | Binned | Timestamp
    size: int
    start: int
    length: int
    width: int | None = None
    part: str | None = None
    first: int | None = None

    @property
    def name(self) -> str:
        """The name of the block: ``item``, ``time.hour``."""
        return self.feature.name if self.part is None else f"{self.feature.name}.{self.part}"

    @property
    def first_size(self) -> int:
        """The number of ids on the first day."""
        return self.size if self.first is None else self.first

    @property
    def listed(self) -> bool:
        """Whether a row has a list of ids."""
        return isinstance(self.feature, MultiCategorical)

    @property
    def owner(self) -> tuple[str, str | None]:
        """The feature and part whose embeddings the block uses; blocks with equal owners share them."""
        shared = self.feature.share_with if isinstance(self.feature, Categorical) else None
        return shared or self.feature.name, self.part


class DomainColumn(NamedTuple):
    """The feature that says which domain a row belongs to.

    The domains 0 to D - 1 are those of the training rows; D are all others, and rows without one.

    Args:
        block: Its column in the matrix of ids, where domain d has the id `FIRST` + d.
        categories: The domains 0 to D - 1, the most frequent first.
    """

    block: IdBlock
    categories: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the domains 0 to D; the last is ``other``, with underscores if a category has that name."""
        other = OTHER_DOMAINS
        while other in self.categories:
            other += "_"
        return (*self.categories, other)


@dataclass(frozen=True, eq=False, repr=False)
class FittedSchema:
    """A schema with the vocabularies, statistics and label rates of its training rows.

    Encoders and models are built from it, and it is saved with a run.

    Args:
        schema: The resolved schema; of each numeric feature it says whether it has a missing indicator.
        vocabularies: The categories of each feature with a vocabulary of its own, as text, the most frequent first,
            those of later days behind them. Their ids start at 2; 0 is "unknown", 1 is "missing". A null is the free
            place of a category that was not seen for long.
        lengths: The longest list kept of each multi-valued feature.
        moments: Mean and deviation of each numeric feature; the deviation is 0 if it does not vary.
        quantiles: Evenly spaced quantiles of each numeric feature from minimum to maximum, or its knots if that is its
            transform, clipped but not transformed; for a binned feature, the edges between its bins.
        integer_keys: The carried columns that hold only integers; the others are kept as text.
        rates: Rows and mean of each label among the rows of its condition, with the weights of a task if it has a
            column of them: ``{(label, given): LabelRate}``, ``{(label, given, weight_column): LabelRate}``.
        label_counts: The labels by id of each feature with `label_rates`.
        medians: The median of each numeric feature with the transform `knots`, which a missing value becomes.
        ranges: The lowest and the highest value, clipped but not transformed, of each numeric or binned feature that
            has any.
        missing: The share of training rows that lack each feature. Where it is 0, a missing category, bin or time is
            encoded as "unknown" in later rows.
        constants: The ids of each block that has the same ones in every training row; it has them in all other rows,
            too, as a model learns nothing of others.
        thinning: How the training file was thinned; ``None`` if it was not.
        unthinned_means: The mean of each label as in `rates`, estimated for the file before it was thinned.
        label_deviations: The (weighted) standard deviation of the label of each regression among the rows of its
            condition, by the same keys.
        class_shares: The (weighted) share of each class of a multi-class task among its training rows, by task.
        log_moments: Of each task of an amount, the (weighted) share of training rows above 0, and the mean and
            deviation of the logarithms of these.
        first_sizes: The number of ids of each block that had another one on the first day.
        history: The days that it was fitted on; the fingerprint leaves it out.
    """

    schema: Schema
    vocabularies: Mapping[str, pa.Array]
    lengths: Mapping[str, int]
    moments: Mapping[str, Moments]
    quantiles: Mapping[str, tuple[float, ...]]
    integer_keys: frozenset[str]
    rates: Mapping[LabelKey, LabelRate]
    label_counts: Mapping[str, LabelCounts] = field(default_factory=dict)
    medians: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    thinning: Thinning | None = None
    unthinned_means: Mapping[LabelKey, float] = field(default_factory=dict)
    label_deviations: Mapping[LabelKey, float] = field(default_factory=dict)
    class_shares: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    log_moments: Mapping[str, LogMoments] = field(default_factory=dict)
    first_sizes: Mapping[str, int] = field(default_factory=dict)
    history: FitHistory = field(default_factory=FitHistory)

    def __repr__(self) -> str:
        categories = sum(map(len, self.vocabularies.values()))
        return f"FittedSchema({self.schema!r}; {categories:,} categories, {counted(self.id_columns, 'id column')})"

    def _repr_html_(self) -> str:
        """Return tables of the features and tasks for notebooks."""
        return self.schema._repr_html_()

    @cached_property
    def id_blocks(self) -> tuple[IdBlock, ...]:
        """The blocks of ids, in the order of the features: columns and lists each at the next place of their kind."""
        starts = {True: itertools.count(), False: itertools.count()}
        blocks = (block for feature in self.schema.features for block in self._blocks(feature))
        first = self.first_sizes
        return tuple(b._replace(start=next(starts[b.listed]), first=first.get(b.name)) for b in blocks)

    def _blocks(self, feature: Feature) -> Iterator[IdBlock]:
        if isinstance(feature, Timestamp):
            for part in feature.parts:
                yield IdBlock(feature, FIRST + CALENDAR[part], 0, 1, feature.width, part)
        elif isinstance(feature, Binned):
            yield IdBlock(feature, FIRST + len(self.quantiles[feature.name]) + 1, 0, 1, feature.width)
        elif isinstance(feature, Categorical):
            owner = self.schema.owner(feature)
            categories = owner.hash_buckets or len(self.vocabularies[owner.name])
            length = self.lengths[feature.name] if isinstance(feature, MultiCategorical) else 1
            yield IdBlock(feature, FIRST + categories, 0, length, owner.width)

    @cached_property
    def id_columns(self) -> int:
        """The number of columns of the matrix of ids."""
        return sum(not block.listed for block in self.id_blocks)

    @cached_property
    def list_blocks(self) -> tuple[IdBlock, ...]:
        """The blocks of multi-valued features."""
        return tuple(block for block in self.id_blocks if block.listed)

    @cached_property
    def domain(self) -> DomainColumn | None:
        """The domain of the rows; ``None`` if the schema names none."""
        found = next((block for block in self.id_blocks if block.name == self.schema.domain), None)
        if found is None:
            return None
        return DomainColumn(found, tuple(self.vocabularies[found.owner[0]].to_pylist()))

    @cached_property
    def numeric(self) -> tuple[Numeric, ...]:
        """The numeric features, in the order of their columns."""
        return tuple(f for f in self.schema.features if isinstance(f, Numeric))

    @property
    def numeric_columns(self) -> int:
        """The number of numeric columns: the numeric features, their missing indicators, then the label rates.

        Of each feature with `label_rates` come the rate of each binary task, then the number of rows of each.
        """
        indicators = sum(bool(f.missing_indicator) for f in self.numeric)
        return len(self.numeric) + indicators + 2 * len(self.rated_blocks) * len(self.rated_tasks)

    @cached_property
    def rated_blocks(self) -> tuple[IdBlock, ...]:
        """The blocks of ids of the features with `label_rates`."""
        return tuple(b for b in self.id_blocks if isinstance(b.feature, Categorical) and b.feature.label_rates)

    @cached_property
    def rated_tasks(self) -> tuple[Task, ...]:
        """The tasks of which `label_rates` are counted: the binary ones."""
        return tuple(task for task in self.schema.tasks if task.kind == "binary")

    def rate(self, task: Task) -> LabelRate:
        """Return the training rows that count for a task and the mean of its label."""
        return self.rates[task.label_key]

    def unthinned_rate(self, task: Task) -> LabelRate:
        """Return the same with the mean in the file before it was thinned; without thinning it is the mean."""
        rate = self.rate(task)
        return rate._replace(mean=self.unthinned_means.get(task.label_key, rate.mean))

    def label_moments(self, task: Task) -> Moments:
        """Return the mean and deviation by which the loss of a task standardizes its label.

        They are those of the training rows for a regression, 0 and 1 for other tasks. The deviation of a label that
        does not vary is 1.
        """
        deviation = self.label_deviations.get(task.label_key)
        return Moments(0.0, 1.0) if deviation is None else Moments(self.rate(task).mean, deviation or 1.0)

    def classes(self, task: str) -> tuple[str, ...]:
        """Return the classes of a task, in the order of its predictions; none if it is not multi-class."""
        return next((tuple(map(str, t.classes)) for t in self.schema.tasks if t.name == task), ())

    @property
    def task_notes(self) -> list[str]:
        """A sentence on each task whose training rows have no label, or one value alone."""
        return [f"task {task.name!r} has {found}" for task in self.schema.tasks for found in self._faults(task)]

    def _faults(self, task: Task) -> Iterator[str]:
        rate, weighted = self.rate(task), task.weight_column or self.schema.weight
        if rate.rows == 0:
            yield f"no training row with a label{' and a weight above 0' if weighted else ''}"
        elif task.has_classes:
            shares = zip(task.classes, self.class_shares[task.name], strict=True)
            yield from (f"no training row of class {name!r}" for name, share in shares if not share)
        elif task.kind == "amount" and rate.mean == 0:
            yield f"no amount in the training rows: every label is 0{self._null_numbers}"
        elif task.kind == "binary" and rate.mean in (0.0, 1.0):
            yield f"one class in the training rows: every label is {rate.mean:.0f}{self._null_numbers}"
        elif self.label_deviations.get(task.label_key) == 0:
            yield f"one value in the training rows: every label is {rate.mean:g}{self._null_numbers}"

    @property
    def _null_numbers(self) -> str:
        """Which numbers are no labels, as the end of a sentence on labels."""
        numbers = " or ".join(f"{number:g}" for number in sorted(self.schema.text_format.null_words.numbers))
        return f", and {numbers} stands for a missing one" if numbers else ""

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that affects encoding: equal fingerprints encode equally."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), ensure_ascii=False).encode())
        for name in sorted(self.vocabularies):
            digest.update(name.encode())
            for start in range(0, len(self.vocabularies[name]), DIGEST_CHUNK):
                part = self.vocabularies[name].slice(start, DIGEST_CHUNK).fill_null(FREE).to_pylist()
                digest.update("\0".join(["", *part]).encode())
        for block in self.rated_blocks:
            for array in self.label_counts[block.name]:
                digest.update(np.ascontiguousarray(array, "<f8").reshape(-1).data)
        return digest.hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the fitted schema as plain data, with the sizes of the vocabularies instead of their categories."""
        return {
            "schema": self.schema.to_dict(),
            "lengths": dict(self.lengths),
            "moments": {name: m._asdict() for name, m in self.moments.items()},
            "quantiles": dict(self.quantiles),
            "medians": dict(self.medians),
            "ranges": dict(self.ranges),
            "missing": dict(self.missing),
            "constants": dict(self.constants),
            "integer_keys": sorted(self.integer_keys),
            "rates": [{"key": list(key)} | rate._asdict() for key, rate in self.rates.items()],
            "thinning": self.thinning.to_dict() if self.thinning else None,
            "unthinned_means": [{"key": list(key), "mean": mean} for key, mean in self.unthinned_means.items()],
            "label_deviations": [{"key": list(key), "deviation": d} for key, d in self.label_deviations.items()],
            "vocabulary_sizes": {name: len(v) for name, v in self.vocabularies.items()},
            "class_shares": {name: list(shares) for name, shares in self.class_shares.items()},
            "log_moments": {name: list(moments) for name, moments in self.log_moments.items()},
            "first_sizes": dict(self.first_sizes),
        }
