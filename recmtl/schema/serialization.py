"""Write and read fitted schemas."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.errors import SchemaError
from recmtl.io.import_paths import UntrustedPath, is_import_path, is_within
from recmtl.io.untrusted import from_json, read_text
from recmtl.schema.fitted import FittedSchema, LabelCounts, LabelRate, LogMoments, Moments
from recmtl.schema.history import COUNTS, HISTORY_LAYOUT, FitHistory, read_tables
from recmtl.schema.schema import Schema
from recmtl.schema.thinning import Thinning

SCHEMA_FILE, VOCABULARY_FILE, LABEL_COUNTS_FILE = "schema.json", "vocabularies.arrow", "label_counts.arrow"
HISTORY_FILE = "history.arrow"
FITTED_FILES = (SCHEMA_FILE, VOCABULARY_FILE, LABEL_COUNTS_FILE, HISTORY_FILE)
LAYOUT = 6  # of these files
VOCABULARY_LAYOUT = pa.schema([("feature", pa.string()), ("category", pa.large_string())])
LABEL_COUNTS_LAYOUT = pa.schema([("rows", pa.float64()), ("positives", pa.float64())])  # of a feature and task: by id
FINGERPRINT = "fingerprint"
LOSS_MODULES = ("recmtl.models", "torch.nn.functional")  # trusted in any case
MAX_IDS = 1 << 20


def save_fitted(fitted: FittedSchema, folder: Path) -> None:
    """Write a fitted schema into an existing folder as `schema.json` and three Arrow files."""
    history = fitted.history
    days = {
        "rows": history.rows,
        "files": dict(history.files),
        "parents": history.parents,
        "digest": history_digest(history),
    }
    content = {"layout": LAYOUT, **fitted.to_dict(), FINGERPRINT: fitted.fingerprint, "history": days}
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    (folder / SCHEMA_FILE).write_text("{\n" + ",\n".join(lines) + "\n}", encoding="utf-8")
    _write_history(history, folder / HISTORY_FILE)
    with ipc.new_file(str(folder / VOCABULARY_FILE), VOCABULARY_LAYOUT) as writer:
        for name, values in fitted.vocabularies.items():
            names = pa.repeat(name, len(values))
            writer.write_batch(pa.record_batch([names, values.cast(pa.large_string())], schema=VOCABULARY_LAYOUT))
    with ipc.new_file(str(folder / LABEL_COUNTS_FILE), LABEL_COUNTS_LAYOUT) as writer:
        for block in fitted.rated_blocks:
            for rows, positives in zip(*fitted.label_counts[block.name], strict=True):
                writer.write_batch(pa.record_batch([rows, positives], schema=LABEL_COUNTS_LAYOUT))


def history_digest(history: FitHistory) -> str:
    """Return a hash of all that a history holds."""
    found = hashlib.sha256(repr((history.rows, dict(history.files), history.parents)).encode())
    for name, ages in sorted(history.ages.items()):
        found.update(name.encode() + np.ascontiguousarray(ages, "<i8").tobytes())
    for name, table in sorted(history.waiting.items()):
        found.update(name.encode() + np.ascontiguousarray(table["count"].to_numpy(), "<i8").tobytes())
        found.update("\0".join(table["category"].to_pylist()).encode())
    return found.hexdigest()[:16]


def _write_history(history: FitHistory, path: Path) -> None:
    """Write ages and waiting categories to an Arrow file; a category is null in the batches of ages."""
    with ipc.new_file(str(path), HISTORY_LAYOUT) as writer:
        for name, ages in history.ages.items():
            nothing = pa.nulls(len(ages), pa.large_string())
            columns = [pa.repeat(name, len(ages)), nothing, pa.array(ages, pa.int64())]
            writer.write_batch(pa.record_batch(columns, schema=HISTORY_LAYOUT))
        for name, table in history.waiting.items():
            columns = [table[key].combine_chunks().cast(COUNTS.field(key).type) for key in COUNTS.names]
            writer.write_batch(pa.record_batch([pa.repeat(name, table.num_rows), *columns], schema=HISTORY_LAYOUT))


def load_fitted(folder: Path, trust: Collection[str] | None = ()) -> FittedSchema:
    """Read a fitted schema written by `save_fitted`.

    Args:
        folder: The folder.
        trust: As of `with_trust`.

    Raises:
        SchemaError: A file is missing or damaged, or the files do not match.
    """
    try:
        content = from_json(read_text(folder / SCHEMA_FILE))
        if isinstance(content, dict) and content.get("layout") != LAYOUT:
            raise SchemaError(f"the fitted schema in {str(folder)!r} was written by another version: fit it again")
        sizes = content["vocabulary_sizes"]
        fitted = FittedSchema(
            schema=Schema.from_dict(content["schema"], str(folder / SCHEMA_FILE)),
            vocabularies=dict(zip(sizes, _read_vocabularies(folder / VOCABULARY_FILE), strict=True)),
            lengths=content["lengths"],
            moments={name: Moments(**m) for name, m in content["moments"].items()},
            quantiles={name: tuple(edges) for name, edges in content["quantiles"].items()},
            medians=content["medians"],
            ranges={name: (low, high) for name, (low, high) in content["ranges"].items()},
            missing=content["missing"],
            constants={name: tuple(ids) for name, ids in content["constants"].items()},
            integer_keys=frozenset(content["integer_keys"]),
            rates={tuple(r["key"]): LabelRate(r["rows"], r["mean"]) for r in content["rates"]},
            thinning=Thinning(**content["thinning"]) if content["thinning"] else None,
            unthinned_means={tuple(m["key"]): m["mean"] for m in content["unthinned_means"]},
            label_deviations={tuple(d["key"]): d["deviation"] for d in content["label_deviations"]},
            class_shares={name: tuple(shares) for name, shares in content["class_shares"].items()},
            log_moments={name: LogMoments(*moments) for name, moments in content["log_moments"].items()},
            first_sizes=content["first_sizes"],
            history=_read_history(folder / HISTORY_FILE, content["history"]),
        )
        if {name: len(v) for name, v in fitted.vocabularies.items()} != sizes:
            raise ValueError(f"its vocabularies have other sizes than {SCHEMA_FILE} says")
        fitted = replace(fitted, label_counts=_read_label_counts(folder / LABEL_COUNTS_FILE, fitted))
        if fitted.fingerprint != content[FINGERPRINT]:
            raise ValueError("its content does not match its fingerprint")
        most = sum(block.length for block in fitted.id_blocks)
        if not 0 <= most <= MAX_IDS:
            raise ValueError(f"its rows have {most:,} ids, expected at most {MAX_IDS:,}")
    except OSError as error:
        raise SchemaError(f"cannot read the fitted schema in {str(folder)!r}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, pa.ArrowException) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        reason = reason or type(error).__name__
        raise SchemaError(f"the fitted schema in {str(folder)!r} is damaged: {reason}") from error
    return with_trust(fitted, trust)


def with_trust(fitted: FittedSchema, trust: Collection[str] | None) -> FittedSchema:
    """Return a schema whose losses of one's own are imported only if their module is trusted.

    Args:
        fitted: The schema.
        trust: The modules to trust; ``None`` trusts all that the schema names.
    """
    schema = schema_with_trust(fitted.schema, trust)
    return fitted if schema is fitted.schema else replace(fitted, schema=schema)


def schema_with_trust(schema: Schema, trust: Collection[str] | None) -> Schema:
    """Return a schema that is not fitted, as `with_trust` does."""
    if not any(is_import_path(task.loss) for task in schema.tasks):
        return schema
    tasks = [
        replace(task, loss=_with_trust(str(task.loss), trust)) if is_import_path(task.loss) else task
        for task in schema.tasks
    ]
    return replace(schema, tasks=tasks)


def _with_trust(path: str, trust: Collection[str] | None) -> str:
    return path if trust is None or is_within(path, (*LOSS_MODULES, *trust)) else UntrustedPath(path)


def _read_vocabularies(path: Path) -> list[pa.Array]:
    """Read the categories of each feature."""
    return [batch.column(1) for batch in _read_batches(path, VOCABULARY_LAYOUT)]


def _read_history(path: Path, days: Mapping[str, Any]) -> FitHistory:
    """Read the days that a schema was fitted on, given what `schema.json` says of them."""
    tables = read_tables(_read_batches(path, HISTORY_LAYOUT))
    history = FitHistory(days["rows"], dict(days["files"]), tuple(days["parents"]), *tables)
    if history_digest(history) != days["digest"]:
        raise ValueError(f"{path.name} does not match {SCHEMA_FILE}")
    return history


def _read_label_counts(path: Path, fitted: FittedSchema) -> dict[str, LabelCounts]:
    """Read the labels by id of each feature with `label_rates`: a batch for each binary task."""
    blocks, tasks = fitted.rated_blocks, len(fitted.rated_tasks)
    batches = _read_batches(path, LABEL_COUNTS_LAYOUT)
    if [batch.num_rows for batch in batches] != [block.size for block in blocks for _ in range(tasks)]:
        raise ValueError(f"{path.name} has other sizes than {SCHEMA_FILE} says")
    found = {}
    for place, block in enumerate(blocks):
        parts = batches[place * tasks : (place + 1) * tasks]
        columns = [np.stack([part.column(c).to_numpy(zero_copy_only=False) for part in parts]) for c in (0, 1)]
        found[block.name] = LabelCounts(*columns)
    return found


def _read_batches(path: Path, layout: pa.Schema) -> list[pa.RecordBatch]:
    """Read an Arrow file of a layout."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a file")
    with pa.OSFile(str(path)) as file, ipc.open_file(file) as reader:
        if reader.schema != layout:
            raise ValueError(f"{path.name} must have the columns {', '.join(layout.names)}")
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    for batch in batches:
        batch.validate(full=True)  # offsets may lead out of the file
    return batches
