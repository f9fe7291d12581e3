"""A schema together with what the training rows taught it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from recmtl.schema.features import CALENDAR, Binned, Categorical, Feature, MultiCategorical, Numeric, Timestamp
from recmtl.schema.schema import Schema
from recmtl.schema.tasks import Task

UNKNOWN, MISSING, FIRST = 0, 1, 2  # the indices of a vocabulary: two reserved ones, then the categories
DIGESTED_TOGETHER = 1 << 20  # categories, as Python text


class Moments(NamedTuple):
    """Mean and standard deviation of a numeric column in the training rows, after its transform."""

    mean: float
    deviation: float


class LabelRate(NamedTuple):
    """How many training rows have a label, and its (weighted) mean over them."""

    rows: int
    mean: float


class IdBlock(NamedTuple):
    """The columns that a categorical or binned feature, or a part of a date, takes in the matrix of ids.

    Args:
        feature: The feature.
        size: The number of indices: vocabulary, buckets or bins, "unknown" and "missing" included.
        start: The first column of the block.
        length: The number of columns: 1, or the longest list of a multi-valued feature.
        width: The width of the embedding that the schema asks for; ``None`` takes the encoder's.
        part: The part of a date.
    """

    feature: Categorical | Binned | Timestamp
    size: int
    start: int
    length: int
    width: int | None = None
    part: str | None = None

    @property
    def name(self) -> str:
        """What to call the block: ``item``, ``time.hour``."""
        return self.feature.name if self.part is None else f"{self.feature.name}.{self.part}"

    @property
    def owner(self) -> tuple[str, str | None]:
        """Whose embeddings the block uses; blocks with equal owners share them."""
        shared = self.feature.share_with if isinstance(self.feature, Categorical) else None
        return shared or self.feature.name, self.part


@dataclass(frozen=True, eq=False)
class FittedSchema:
    """A schema, and the vocabularies, statistics and label rates of its training rows.

    Encoders and models are built from it, and it is saved with a run.

    Args:
        schema: The schema, its patterns resolved.
        vocabularies: The categories of each feature that is not hashed and has its own, as text, the most frequent
            first. Their indices start at 2; 0 is "unknown", 1 is "missing".
        lengths: The longest list kept of each multi-valued feature.
        moments: Mean and deviation of each numeric feature.
        quantiles: Quantiles of each numeric feature, clipped but not transformed: evenly spaced from the least value
            to the greatest. Of a binned feature the edges between its bins.
        integer_keys: The carried columns that hold integers alone; the others are kept as text.
        rates: Rows and mean of each label among the rows of its condition: ``{(label, given): LabelRate}``.
    """

    schema: Schema
    vocabularies: Mapping[str, pa.Array]
    lengths: Mapping[str, int]
    moments: Mapping[str, Moments]
    quantiles: Mapping[str, tuple[float, ...]]
    integer_keys: frozenset[str]
    rates: Mapping[tuple[str, str | None], LabelRate]

    @cached_property
    def id_blocks(self) -> tuple[IdBlock, ...]:
        """The categorical and binned features and the parts of dates, in the order of their columns of ids."""
        blocks: list[IdBlock] = []
        for block in (block for feature in self.schema.features for block in self._blocks(feature)):
            start = blocks[-1].start + blocks[-1].length if blocks else 0
            blocks.append(block._replace(start=start))
        return tuple(blocks)

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

    @property
    def id_columns(self) -> int:
        """The number of columns of the matrix of ids."""
        return sum(block.length for block in self.id_blocks)

    @cached_property
    def numeric(self) -> tuple[Numeric, ...]:
        """The numeric features in the order of their columns."""
        return tuple(f for f in self.schema.features if isinstance(f, Numeric))

    @property
    def numeric_columns(self) -> int:
        """The number of columns of the matrix of numbers: the numeric features, then their missing indicators."""
        return len(self.numeric) + sum(f.missing_indicator for f in self.numeric)

    def rate(self, task: Task) -> LabelRate:
        """Give the rows that count for a task in training, and the mean of its label over them."""
        return self.rates[task.label, task.given]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of everything that decides how rows are encoded; equal fingerprints encode equally."""
        digest = hashlib.sha256(json.dumps(self.content(), indent=1, ensure_ascii=False).encode())
        for name in sorted(self.vocabularies):
            digest.update(name.encode())
            for start in range(0, len(self.vocabularies[name]), DIGESTED_TOGETHER):
                part = self.vocabularies[name].slice(start, DIGESTED_TOGETHER).to_pylist()
                digest.update("\0".join(["", *part]).encode())
        return digest.hexdigest()[:16]

    def content(self) -> dict[str, Any]:
        """Return everything but the vocabularies as plain data, with their sizes."""
        return {
            "schema": self.schema.to_dict(),
            "lengths": dict(self.lengths),
            "moments": {name: m._asdict() for name, m in self.moments.items()},
            "quantiles": dict(self.quantiles),
            "integer_keys": sorted(self.integer_keys),
            "rates": [{"label": k[0], "given": k[1]} | r._asdict() for k, r in self.rates.items()],
            "vocabulary_sizes": {name: len(v) for name, v in self.vocabularies.items()},
        }
