"""Write, read and check fitted schemas."""

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
MAX_ID_COLUMNS = 1 << 20


def save_fitted(fitted: FittedSchema, folder: Path) -> None:
    """Write a fitted schema into an existing folder as `schema.json` and `vocabularies.arrow`."""
    content = json.dumps(fitted.to_dict() | {FINGERPRINT: fitted.fingerprint}, indent=1, ensure_ascii=False)
    (folder / SCHEMA_FILE).write_text(content, encoding="utf-8")
    with ipc.new_file(str(folder / VOCABULARY_FILE), VOCABULARY_LAYOUT) as writer:
        for name, values in fitted.vocabularies.items():
            names = pa.repeat(name, len(values))
            writer.write_batch(pa.record_batch([names, values.cast(pa.large_string())], schema=VOCABULARY_LAYOUT))


def load_fitted(folder: Path) -> FittedSchema:
    """Read a fitted schema written by `save_fitted`.

    Raises:
        SchemaError: A file is missing or damaged, or the two files do not match.
    """
    try:
        content = from_json(read_text(folder / SCHEMA_FILE))
        sizes = content["vocabulary_sizes"]
        fitted = FittedSchema(
            schema=Schema.from_dict(content["schema"], str(folder / SCHEMA_FILE)),
            vocabularies=dict(zip(sizes, _read_vocabularies(folder / VOCABULARY_FILE), strict=True)),
            lengths=content["lengths"],
            moments={name: Moments(**m) for name, m in content["moments"].items()},
            quantiles={name: tuple(edges) for name, edges in content["quantiles"].items()},
            integer_keys=frozenset(content["integer_keys"]),
            rates={(r["label"], r["given"]): LabelRate(r["rows"], r["mean"]) for r in content["rates"]},
        )
        if {name: len(v) for name, v in fitted.vocabularies.items()} != sizes:
            raise ValueError(f"its vocabularies have other sizes than {SCHEMA_FILE} says")
        check_fitted(fitted)
        if fitted.fingerprint != content[FINGERPRINT]:
            raise ValueError("its content does not match its fingerprint")
    except OSError as error:
        raise SchemaError(f"cannot read the fitted schema in {str(folder)!r}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, pa.ArrowException) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        reason = reason or type(error).__name__
        raise SchemaError(f"the fitted schema in {str(folder)!r} is damaged: {reason}") from error
    return fitted


def _read_vocabularies(path: Path) -> list[pa.Array]:
    """Read the categories of each feature."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a file")
    with pa.OSFile(str(path)) as file:
        columns, batches = read_plain(file.read_buffer(), path.name)
    if columns != VOCABULARY_LAYOUT:
        raise ValueError(f"{path.name} must have the columns {', '.join(VOCABULARY_LAYOUT.names)}")
    return [batch.column(1) for batch in batches]


def check_fitted(fitted: FittedSchema) -> None:
    """Check that everything that the features and tasks need is there, of the right type and in range.

    Raises:
        ValueError: Something is missing or invalid.
    """
    schema = fitted.schema
    for feature in schema.features:
        name = feature.name
        if isinstance(feature, Categorical) and not schema.owner(feature).hash_buckets:
            owner = schema.owner(feature).name
            _check_vocabulary(owner, fitted.vocabularies.get(owner))
        if isinstance(feature, MultiCategorical):
            length = fitted.lengths.get(name)
            if type(length) is not int or not 1 <= length <= MAX_ID_COLUMNS:
                raise ValueError(f"the longest list of {name!r} is {length!r}, expected 1 to {MAX_ID_COLUMNS:,}")
        if isinstance(feature, Numeric) and not (name in fitted.moments and all(map(is_number, fitted.moments[name]))):
            raise ValueError(f"{name!r} has no mean and deviation that are numbers")
        if isinstance(feature, Numeric | Binned):
            quantiles = fitted.quantiles.get(name)
            if quantiles is None or not all(map(is_number, quantiles)) or list(quantiles) != sorted(quantiles):
                raise ValueError(f"{name!r} has no quantiles that are numbers in ascending order")
    if fitted.id_columns > MAX_ID_COLUMNS:
        raise ValueError(f"its features need {fitted.id_columns:,} id columns, expected at most {MAX_ID_COLUMNS:,}")
    for task in schema.tasks:
        rate = fitted.rates.get((task.label, task.given))
        if rate is None or type(rate.rows) is not int or rate.rows < 0 or not is_number(rate.mean):
            raise ValueError(f"task {task.name!r} has no label rate")
        if task.kind == "binary" and not 0 <= rate.mean <= 1:
            raise ValueError(f"task {task.name!r} has the label rate {rate.mean}, expected one in [0, 1]")


def _check_vocabulary(name: str, categories: pa.Array | None) -> None:
    if categories is None:
        raise ValueError(f"{name!r} has no vocabulary")
    categories.validate(full=True)
    if categories.null_count:
        raise ValueError(f"the vocabulary of {name!r} has missing values")
