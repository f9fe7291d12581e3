"""Write and read fitted schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.errors import SchemaError
from recmtl.io.untrusted import from_json, read_text
from recmtl.schema.fitted import FittedSchema, LabelRate, Moments
from recmtl.schema.schema import Schema

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
        if fitted.fingerprint != content[FINGERPRINT]:
            raise ValueError("its content does not match its fingerprint")
        if not 0 <= fitted.id_columns <= MAX_ID_COLUMNS:
            raise ValueError(f"it has {fitted.id_columns:,} id columns, expected at most {MAX_ID_COLUMNS:,}")
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
    with pa.OSFile(str(path)) as file, ipc.open_file(file) as reader:
        if reader.schema != VOCABULARY_LAYOUT:
            raise ValueError(f"{path.name} must have the columns {', '.join(VOCABULARY_LAYOUT.names)}")
        vocabularies = [reader.get_batch(i).column(1) for i in range(reader.num_record_batches)]
    for vocabulary in vocabularies:
        vocabulary.validate(full=True)  # its offsets may lead out of the file
    return vocabularies
