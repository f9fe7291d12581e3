"""A schema together with what the training rows taught it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.schema.arrow_file import read_plain
from recmtl.schema.checks import SchemaError
from recmtl.schema.features import CALENDAR, Binned, Categorical, Feature, MultiCategorical, Numeric, Timestamp
from recmtl.schema.fitted_checks import check_fitted
from recmtl.schema.plain import from_json, read_text
from recmtl.schema.schema import Schema
from recmtl.schema.tasks import Task

UNKNOWN, MISSING, FIRST = 0, 1, 2  # the indices of a vocabulary: two reserved ones, then the categories
DIGESTED_TOGETHER = 1 << 20  # categories, as Python text
SCHEMA_FILE, VOCABULARY_FILE = "schema.json", "vocabularies.arrow"
VOCABULARY_LAYOUT = pa.schema([("feature", pa.string()), ("category", pa.large_string())])
FINGERPRINT = "fingerprint"


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
        digest = hashlib.sha256(json.dumps(self._content(), indent=1, ensure_ascii=False).encode())
        for name in sorted(self.vocabularies):
            digest.update(name.encode())
            for start in range(0, len(self.vocabularies[name]), DIGESTED_TOGETHER):
                part = self.vocabularies[name].slice(start, DIGESTED_TOGETHER).to_pylist()
                digest.update("\0".join(["", *part]).encode())
        return digest.hexdigest()[:16]

    def _content(self) -> dict[str, Any]:
        return {
            "schema": self.schema.to_dict(),
            "lengths": dict(self.lengths),
            "moments": {name: m._asdict() for name, m in self.moments.items()},
            "quantiles": dict(self.quantiles),
            "integer_keys": sorted(self.integer_keys),
            "rates": [{"label": k[0], "given": k[1]} | r._asdict() for k, r in self.rates.items()],
            "vocabulary_sizes": {name: len(v) for name, v in self.vocabularies.items()},
        }

    def save(self, folder: Path) -> None:
        """Write the fitted schema into a folder that exists: `schema.json` and `vocabularies.arrow`."""
        content = json.dumps(self._content() | {FINGERPRINT: self.fingerprint}, indent=1, ensure_ascii=False)
        (folder / SCHEMA_FILE).write_text(content, encoding="utf-8")
        layout = VOCABULARY_LAYOUT
        with ipc.new_file(str(folder / VOCABULARY_FILE), layout) as writer:
            for name, values in self.vocabularies.items():
                names = pa.repeat(name, len(values))
                writer.write_batch(pa.record_batch([names, values.cast(pa.large_string())], schema=layout))

    @classmethod
    def load(cls, folder: Path) -> FittedSchema:
        """Read what `save` wrote.

        Raises:
            SchemaError: A file is missing, damaged, or the two do not belong together.
        """
        try:
            content = from_json(read_text(folder / SCHEMA_FILE))
            schema = Schema.from_dict(content["schema"], str(folder / SCHEMA_FILE))
            sizes = content["vocabulary_sizes"]
            fitted = cls(
                schema=schema,
                vocabularies=dict(zip(sizes, _vocabularies(folder / VOCABULARY_FILE), strict=True)),
                lengths=content["lengths"],
                moments={name: Moments(**m) for name, m in content["moments"].items()},
                quantiles={name: tuple(edges) for name, edges in content["quantiles"].items()},
                integer_keys=frozenset(content["integer_keys"]),
                rates={(r["label"], r["given"]): LabelRate(r["rows"], r["mean"]) for r in content["rates"]},
            )
            if {name: len(v) for name, v in fitted.vocabularies.items()} != sizes:
                raise ValueError("its vocabularies have other sizes")
            check_fitted(fitted)
            if fitted.fingerprint != content[FINGERPRINT]:
                raise ValueError("its content is not what its fingerprint says")
        except OSError as error:
            raise SchemaError(f"cannot read the fitted schema in {str(folder)!r}: {error}") from error
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration, pa.ArrowException) as error:
            raise SchemaError(f"the fitted schema in {str(folder)!r} is damaged: {_said(error)}") from error
        return fitted


def _vocabularies(path: Path) -> list[pa.Array]:
    """Read the categories of each feature."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a file")
    with pa.OSFile(str(path)) as file:
        columns, batches = read_plain(file.read_buffer(), path.name)
    if columns != VOCABULARY_LAYOUT:
        raise ValueError(f"{path.name} has other columns")
    return [batch.column(1) for batch in batches]


def _said(error: Exception) -> str:
    missing = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(missing.split()) or type(error).__name__
