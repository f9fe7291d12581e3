"""What stands in a cache of prepared datasets: where each comes from, whether it is whole, and how it goes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recmtl.errors import DataError
from recmtl.io.files import locked, new_file
from recmtl.io.location import Location
from recmtl.io.untrusted import from_json, read_text

ORIGIN = "origin.json"  # written last: without it a dataset is unfinished
KEY_LETTERS = 24
KEY = "[0-9a-f]" * KEY_LETTERS
DAY = 24 * 60 * 60.0


@dataclass(frozen=True)
class CachedDataset:
    """A prepared dataset in a cache.

    Args:
        folder: Where it stands; its name is its key.
        files: The raw files of each split; of an unfinished dataset they are not known.
        rows: The rows of each split.
        created: When it was finished, in seconds since 1970.
    """

    folder: Path
    files: Mapping[str, Sequence[str]]
    rows: Mapping[str, int]
    created: float

    @classmethod
    def open(cls, folder: Path) -> CachedDataset:
        """Read where a dataset comes from."""
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
        """The bytes it takes."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def age(self) -> float:
        """The days since it was finished."""
        return max(0.0, (time.time() - self.created) / DAY)

    def to_dict(self) -> dict[str, Any]:
        """Give what a list shows as plain data."""
        files, rows = {split: list(paths) for split, paths in self.files.items()}, dict(self.rows)
        return {"name": self.folder.name, "files": files, "rows": rows, "bytes": self.size, "days": self.age}


def write_origin(folder: Path, files: Mapping[str, Sequence[Location]], rows: Mapping[str, int]) -> None:
    """Write beside a prepared dataset where it comes from."""
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
    """Find the datasets of a cache, the youngest first.

    Args:
        cache: The folder that keeps prepared datasets.
        names: Only those whose names begin so.
        older_than: Only those that are so many days old and more.

    Raises:
        DataError: No dataset has such a name.
    """
    found = [CachedDataset.open(folder) for folder in cache.glob(KEY) if folder.is_dir()]
    for name in names:
        if not any(dataset.folder.name.startswith(name) for dataset in found):
            raise DataError(f"there is no dataset {name!r} in the cache {str(cache)!r}")
    chosen = [d for d in found if not names or d.folder.name.startswith(tuple(names))]
    chosen = [d for d in chosen if older_than is None or d.age >= older_than]
    return sorted(chosen, key=lambda dataset: (dataset.age, dataset.folder.name))


def remove(datasets: Sequence[CachedDataset]) -> list[CachedDataset]:
    """Remove datasets from their cache; give those that went: one that a process is preparing stays."""
    removed = []
    for dataset in datasets:
        with locked(lock_of(dataset.folder)) as mine:
            if mine is not None:
                (dataset.folder / ORIGIN).unlink(missing_ok=True)  # first: what is half there is unfinished
                shutil.rmtree(dataset.folder)
                removed.append(dataset)
    return removed


def remove_leftovers(cache: Path, older_than: float = 0.0) -> None:
    """Remove what killed processes left, folders and locks, where it is so many seconds old."""
    for path in [*cache.glob(f".{KEY}.*.partial"), *cache.glob(f".{KEY}.lock")]:
        with suppress(OSError, DataError):  # the cache may be somebody else's, or another process is at the same
            if time.time() - path.stat().st_mtime >= older_than:
                with locked(lock_of(cache / path.name.split(".")[1])) as mine:
                    if mine is not None:
                        shutil.rmtree(path, ignore_errors=True)  # a lock goes by itself


def lock_of(folder: Path) -> Path:
    """Give the file that is locked while a dataset is prepared."""
    return folder.with_name(f".{folder.name}.lock")
