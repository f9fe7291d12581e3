"""Prepared datasets of raw files, kept under a key of their content and schema."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from recmtl.data.cached import DAY, KEY_LETTERS, CachedDataset, check, lock_of, remove_leftovers, write_origin
from recmtl.data.errors import DataError, ExistsError, unreadable
from recmtl.data.expand import expand
from recmtl.data.files import locked
from recmtl.data.prepare import Progress, prepare
from recmtl.data.prepared import VERSION, PreparedData
from recmtl.data.skipped import BadRows
from recmtl.schema import Schema, SchemaError
from recmtl.schema.location import Location


def default_cache() -> Path:
    """Give the folder for prepared datasets: `RECMTL_CACHE`, or `recmtl` in the user's cache folder."""
    own = os.environ.get("RECMTL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recmtl"


def prepare_cached(
    schema: Schema,
    train: str,
    valid: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    cache: Path | None = None,
    progress: Progress = lambda what, rows: None,
    bad_rows: BadRows = "error",
) -> PreparedData:
    """Prepare raw files, or open what was prepared from files of the same content by the same schema.

    Of two processes that want the same one prepares and the other waits. What is opened is checked whole against the
    digests of when it was written: training reads all of it anyway, and the raw files were read for their key.

    Args:
        schema: What the columns mean.
        train: Training files, as `prepare` takes them.
        valid: Validation files.
        test: Test files.
        holdout: The share of the training groups to hold out when there are no validation files.
        cache: The folder that keeps prepared datasets.
        progress: Called with what is being done and the number of rows just read.
        bad_rows: What becomes of rows that do not parse, as in `prepare`.

    Raises:
        DataError: A file is missing or cannot be used, or what the cache has is damaged.
        SchemaError: A column is missing.
    """
    splits = {"train": train, "valid": valid, "test": test}
    paths = {name: expand(files) for name, files in splits.items() if files}
    digests = {name: [_digest(path) for path in files] for name, files in paths.items()}
    key = json.dumps([VERSION, schema.to_dict(), holdout, bad_rows, digests], sort_keys=True)
    folder = (cache or default_cache()) / hashlib.sha256(key.encode()).hexdigest()[:KEY_LETTERS]
    remove_leftovers(folder.parent, older_than=DAY)
    if not CachedDataset.open(folder).finished:
        with locked(lock_of(folder), lambda: progress("wait for another process", 0)):
            if not CachedDataset.open(folder).finished:
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    data = prepare(schema, train, valid, test, folder, holdout, progress, bad_rows)
                except ExistsError:  # another process was faster, on a file system without locks
                    return PreparedData.open(folder)
                write_origin(folder, paths, {name: len(rows) for name, rows in data.splits.items()})
                return data
    try:
        check(folder)
        return PreparedData.open(folder)
    except (DataError, SchemaError) as error:
        raise DataError(f"the cache is damaged, remove {str(folder)!r}: {error}") from error


def _digest(location: Location) -> str:
    try:
        with location.stream(compression=None) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() + "".join(location.suffixes)
    except OSError as error:
        raise unreadable(location.name, error) from error
