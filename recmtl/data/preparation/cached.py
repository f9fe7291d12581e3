"""Prepared datasets of raw files, kept under a key of their content and schema."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from recmtl.data.preparation.prepare import Progress, prepare
from recmtl.data.sources.bad_rows import BadRows
from recmtl.data.store.cache import DAY, KEY_LETTERS, CachedDataset, lock_of, remove_leftovers, write_origin
from recmtl.data.store.manifest import VERSION
from recmtl.data.store.prepared import PreparedData
from recmtl.errors import DataError, ExistsError, unreadable
from recmtl.io.files import locked
from recmtl.io.location import Location, expand
from recmtl.schema import Schema, SchemaError


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

    Of two processes that want the same one prepares and the other waits. What is opened is checked whole: training
    reads all of it anyway, and the raw files were read for their key. What is damaged is prepared again, with a note.

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
        DataError: A file is missing or cannot be used.
        SchemaError: A column is missing.
    """
    splits = {"train": train, "valid": valid, "test": test}
    paths = {name: expand(files) for name, files in splits.items() if files}
    digests = {name: [_digest(path) for path in files] for name, files in paths.items()}
    key = json.dumps([VERSION, schema.to_dict(), holdout, bad_rows, digests], sort_keys=True)
    folder = (cache or default_cache()) / hashlib.sha256(key.encode()).hexdigest()[:KEY_LETTERS]
    remove_leftovers(folder.parent, older_than=DAY)
    found, note = _open(folder)
    if found is None:
        with locked(lock_of(folder), lambda: progress("wait for another process", 0)):
            found, note = _open(folder)  # what another process may have prepared meanwhile
            if found is None:
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    found = prepare(schema, train, valid, test, folder, holdout, progress, bad_rows)
                except ExistsError:  # another process was faster, on a file system without locks
                    return PreparedData.open(folder)
                write_origin(folder, paths, {name: len(rows) for name, rows in found.splits.items()})
    return replace(found, notes=(*found.notes, *note))


def _open(folder: Path) -> tuple[PreparedData | None, tuple[str, ...]]:
    """Open a finished dataset; where there is none that is whole, say what became of it."""
    if not CachedDataset.open(folder).finished:
        return None, ()
    try:
        data = PreparedData.open(folder)
        data.check()
    except (DataError, SchemaError) as error:
        return None, (f"what the cache had was prepared again: {error}",)
    return data, ()


def _digest(location: Location) -> str:
    try:
        with location.stream(compression=None) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() + "".join(location.suffixes)
    except OSError as error:
        raise unreadable(location.name, error) from error
