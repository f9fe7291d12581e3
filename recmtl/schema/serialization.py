"""Read, write and check fitted schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.errors import SchemaError
from recmtl.io.untrusted import from_json, read_plain, read_text
from recmtl.schema.features import Binned, Categorical, MultiCategorical, Numeric
from recmtl.schema.fitted import FittedSchema, LabelRate, Moments
from recmtl.schema.schema import Schema
from recmtl.schema.validation import is_number

SCHEMA_FILE, VOCABULARY_FILE = "schema.json", "vocabularies.arrow"
VOCABULARY_LAYOUT = pa.schema([("feature", pa.string()), ("category", pa.large_string())])
FINGERPRINT = "fingerprint"
MOST_COLUMNS = 1 << 20  # of ids


def check_fitted(fitted: FittedSchema) -> None:
    """Check that all that the features need is there, of the kind and in the range that fitting gives.

    Raises:
        ValueError: Something is not.
    """
    for feature in fitted.schema.features:
        if isinstance(feature, Categorical):
            owner = fitted.schema.owner(feature)
            if not owner.hash_buckets:
                _check_vocabulary(owner.name, fitted.vocabularies.get(owner.name))
        if isinstance(feature, MultiCategorical):
            length = fitted.lengths.get(feature.name)
            if type(length) is not int or not 1 <= length <= MOST_COLUMNS:
                raise ValueError(f"the longest list of {feature.name!r} is {length!r}, expected 1 to {MOST_COLUMNS:,}")
        if isinstance(feature, Numeric) and not (
            feature.name in fitted.moments and all(map(is_number, fitted.moments[feature.name]))
        ):
            raise ValueError(f"{feature.name!r} has no mean and deviation that are numbers")
        if isinstance(feature, Numeric | Binned):
            _check_quantiles(feature.name, fitted.quantiles.get(feature.name))
    if fitted.id_columns > MOST_COLUMNS:
        raise ValueError(f"its features take {fitted.id_columns:,} columns of ids, expected at most {MOST_COLUMNS:,}")
    for task in fitted.schema.tasks:
        rate = fitted.rates.get((task.label, task.given))
        if rate is None or type(rate.rows) is not int or rate.rows < 0 or not is_number(rate.mean):
            raise ValueError(f"task {task.name!r} has no label rate")
        if task.kind == "binary" and not 0 <= rate.mean <= 1:
            raise ValueError(f"task {task.name!r} has the label rate {rate.mean}, expected a share")


def _check_vocabulary(name: str, categories: pa.Array | None) -> None:
    if categories is None:
        raise ValueError(f"{name!r} has no vocabulary")
    categories.validate(full=True)
    if categories.null_count:
        raise ValueError(f"the vocabulary of {name!r} has gaps")


def _check_quantiles(name: str, quantiles: tuple[float, ...] | None) -> None:
    if quantiles is None or not all(map(is_number, quantiles)) or list(quantiles) != sorted(quantiles):
        raise ValueError(f"{name!r} has no quantiles that are numbers and rise")


def _vocabularies(path: Path) -> list[pa.Array]:
    """Read the categories of each feature."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a file")
    with pa.OSFile(str(path)) as file:
        columns, batches = read_plain(file.read_buffer(), path.name)
    if columns != VOCABULARY_LAYOUT:
        raise ValueError(f"{path.name} has other columns")
    return [batch.column(1) for batch in batches]


def _reason(error: Exception) -> str:
    missing = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(missing.split()) or type(error).__name__


def save_fitted(fitted: FittedSchema, folder: Path) -> None:
    """Write a fitted schema into an existing folder as `schema.json` and `vocabularies.arrow`."""
    content = json.dumps(fitted.content() | {FINGERPRINT: fitted.fingerprint}, indent=1, ensure_ascii=False)
    (folder / SCHEMA_FILE).write_text(content, encoding="utf-8")
    with ipc.new_file(str(folder / VOCABULARY_FILE), VOCABULARY_LAYOUT) as writer:
        for name, values in fitted.vocabularies.items():
            names = pa.repeat(name, len(values))
            writer.write_batch(pa.record_batch([names, values.cast(pa.large_string())], schema=VOCABULARY_LAYOUT))


def load_fitted(folder: Path) -> FittedSchema:
    """Read a fitted schema that `save_fitted` wrote.

    Raises:
        SchemaError: A file is missing or damaged, or the two do not belong together.
    """
    try:
        content = from_json(read_text(folder / SCHEMA_FILE))
        schema = Schema.from_dict(content["schema"], str(folder / SCHEMA_FILE))
        sizes = content["vocabulary_sizes"]
        fitted = FittedSchema(
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
        raise SchemaError(f"the fitted schema in {str(folder)!r} is damaged: {_reason(error)}") from error
    return fitted
