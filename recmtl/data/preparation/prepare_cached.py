"""Prepare raw files through the cache: what was prepared from the same content by the same schema is opened."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

from recmtl.data.preparation.part_work import Progress
from recmtl.data.preparation.parts import check_workers
from recmtl.data.preparation.prepare import prepare
from recmtl.data.store.cache import (
    DAY,
    KEY_LETTERS,
    CachedDataset,
    check_writable,
    default_cache,
    lock_path,
    remove_stale,
    write_origin,
)
from recmtl.data.store.format import FORMAT_VERSION
from recmtl.data.store.prepared import PreparedData
from recmtl.errors import DataError, ExistsError, unreadable
from recmtl.io.csv_records import BadRows
from recmtl.io.files import locked
from recmtl.io.location import Location
from recmtl.io.partitions import Partitions, files_of
from recmtl.schema import Schema, SchemaError, Thinning
from recmtl.schema.extend import Extension


def prepare_cached(
    schema: Schema | None,
    train: str | Partitions,
    valid: str | Partitions | None = None,
    test: str | Partitions | None = None,
    holdout: float = 0.1,
    cache: Path | None = None,
    progress: Progress = lambda what, rows: None,
    bad_rows: BadRows = "error",
    thinning: Thinning | None = None,
    extension: Extension | None = None,
    workers: int = 1,
) -> PreparedData:
    """Prepare raw files, or open what was prepared from files of the same content by the same schema.

    If two processes want the same dataset, one prepares it and the other waits. A cached dataset is checked as a whole:
    training reads all of it anyway, and the raw files were read for their key. A damaged one is prepared again, and a
    note says so.
    """
    check_workers(workers)
    splits = {"train": train, "valid": valid, "test": test}
    paths = {name: files_of(files) for name, files in splits.items() if files}
    contents = {name: [content_key(path) for path in files] for name, files in paths.items()}
    rates = thinning.to_dict() if thinning else None
    fit_by = [schema.to_dict() if schema else None, extension.key if extension else None]
    key = json.dumps([FORMAT_VERSION, fit_by, holdout, bad_rows, rates, contents], sort_keys=True)
    folder = (cache or default_cache()) / hashlib.sha256(key.encode()).hexdigest()[:KEY_LETTERS]
    remove_stale(folder.parent, older_than=DAY)
    found, notes = _open_checked(folder)
    if found is None:
        check_writable(folder.parent)
        with locked(lock_path(folder), lambda: progress("wait for another process", 0)):
            found, notes = _open_checked(folder)  # another process may have prepared it meanwhile
            if found is None:
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    said = (holdout, progress, bad_rows, thinning, extension, workers)
                    found = prepare(schema, train, valid, test, folder, *said)
                except ExistsError:  # another process was faster, on a file system without locks
                    return PreparedData.open(folder)
                write_origin(folder, paths, {name: len(rows) for name, rows in found.splits.items()})
    return replace(found, notes=(*found.notes, *notes))


def _open_checked(folder: Path) -> tuple[PreparedData | None, tuple[str, ...]]:
    """Open a finished dataset; if it is damaged, return a note that it is prepared again."""
    if not CachedDataset.open(folder).finished:
        return None, ()
    try:
        data = PreparedData.open(folder)
        data.check()
    except (DataError, SchemaError) as error:
        return None, (f"what the cache had was prepared again: {error}",)
    return data, ()


def content_key(location: Location) -> str:
    """Return the SHA-256 of a raw file, its suffixes, which decide how it is read, and the keys of its folders."""
    try:
        with location.stream(compressed=True) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest() + "".join(location.suffixes)
        return content + (json.dumps(location.part_keys) if location.part_keys else "")
    except OSError as error:
        raise unreadable(location.name, error) from error
