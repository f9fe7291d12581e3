"""The cache of prepared datasets: where it is, what it holds, and how entries are removed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recmtl.errors import DataError
from recmtl.io.files import check_local, locked, new_file
from recmtl.io.location import Location
from recmtl.io.untrusted import from_json, read_text

ORIGIN = "origin.json"  # written last: without it a dataset is unfinished
KEY_LETTERS = 24  # of the hash that names a dataset
KEY_PATTERN = "[0-9a-f]" * KEY_LETTERS
OTHER_CACHE = "name a folder with `--data.cache` (`recmtl cache`: `--cache`) or the variable RECMTL_CACHE"
DAY = 24 * 60 * 60.0


def default_cache() -> Path:
    """Return the cache's folder: `RECMTL_CACHE`, or `recmtl` in the user's cache folder.

    Raises:
        DataError: The user has no home.
    """
    own = os.environ.get("RECMTL_CACHE")
    try:
        return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recmtl"
    except RuntimeError as error:
        raise DataError(f"there is no home folder for prepared data: {OTHER_CACHE}") from error


def check_writable(cache: Path) -> None:
    """Create the folder of a cache, and check that one can write into it.

    Raises:
        DataError: One cannot.
    """
    check_local(cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(cache, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise DataError(f"the cache {str(cache)!r} cannot be written: {reason}: {OTHER_CACHE}")


@dataclass(frozen=True)
class CachedDataset:
    """A prepared dataset in a cache, in a folder named after its key. An unfinished one has no files and rows."""

    folder: Path
    files: Mapping[str, Sequence[str]]  # the raw files of each split
    rows: Mapping[str, int]  # of each split
    created: float  # when it was finished, in seconds since 1970

    @classmethod
    def open(cls, folder: Path) -> CachedDataset:
        """Read the origin of a dataset."""
        try:
            return cls(folder, **from_json(read_text(folder / ORIGIN)))
        except (OSError, ValueError, TypeError):
            return cls(folder, {}, {}, folder.stat().st_mtime if folder.is_dir() else 0.0)

    @property
    def finished(self) -> bool:
        """Whether all of it was written."""
        return bool(self.rows)

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def age(self) -> float:
        """Days since it was finished."""
        return max(0.0, (time.time() - self.created) / DAY)

    def to_dict(self) -> dict[str, Any]:
        """Return name, files, rows, size and age as plain data."""
        files, rows = {split: list(paths) for split, paths in self.files.items()}, dict(self.rows)
        return {"name": self.folder.name, "files": files, "rows": rows, "bytes": self.size, "days": self.age}


def write_origin(folder: Path, files: Mapping[str, Sequence[Location]], rows: Mapping[str, int]) -> None:
    """Write the origin of a finished dataset: its raw files, rows and time."""
    origin = {
        "files": {
            split: [str(Path(file.path).absolute()) if file.on_disk else file.name for file in found]
            for split, found in files.items()
        },
        "rows": rows,
        "created": time.time(),
    }
    with new_file(folder / ORIGIN) as file:
        file.write_text(json.dumps(origin, indent=1, ensure_ascii=False), encoding="utf-8")


def find_cached(cache: Path, names: Sequence[str] = (), older_than: float | None = None) -> list[CachedDataset]:
    """Return the datasets of a cache, the youngest first: those of some names, and at least some days old."""
    found = [CachedDataset.open(folder) for folder in cache.glob(KEY_PATTERN) if folder.is_dir()]
    for name in names:
        if not any(dataset.folder.name.startswith(name) for dataset in found):
            raise DataError(f"there is no dataset {name!r} in the cache {str(cache)!r}")
    kept = [d for d in found if not names or d.folder.name.startswith(tuple(names))]
    kept = [d for d in kept if older_than is None or d.age >= older_than]
    return sorted(kept, key=lambda dataset: (dataset.age, dataset.folder.name))


def remove_cached(datasets: Sequence[CachedDataset]) -> list[CachedDataset]:
    """Remove datasets from their cache; return the removed ones. One that a process is preparing is kept."""
    removed = []
    for dataset in datasets:
        with locked(lock_path(dataset.folder)) as mine:
            if mine is not None:
                (dataset.folder / ORIGIN).unlink(missing_ok=True)  # first: a half-removed dataset counts as unfinished
                shutil.rmtree(dataset.folder)
                removed.append(dataset)
    return removed


def remove_stale(cache: Path, older_than: float = 0.0) -> None:
    """Remove folders and locks of killed processes that are at least this many seconds old."""
    for path in [*cache.glob(f".{KEY_PATTERN}.*.partial"), *cache.glob(f".{KEY_PATTERN}.lock")]:
        with suppress(OSError, DataError):  # the cache may be read-only, or another process removes the same
            if time.time() - path.stat().st_mtime >= older_than:
                with locked(lock_path(cache / path.name.split(".")[1])) as mine:
                    if mine is not None:
                        shutil.rmtree(path, ignore_errors=True)  # a lock goes by itself


def lock_path(folder: Path) -> Path:
    """Return the file that is locked while a dataset is prepared."""
    return folder.with_name(f".{folder.name}.lock")
