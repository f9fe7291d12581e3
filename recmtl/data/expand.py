"""Globs and folders to files, on disk and in object stores alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pyarrow.fs as fs

from recmtl.data.errors import DataError, unreadable
from recmtl.schema.location import Location, public_name

WILDCARDS = frozenset("*?[")


def expand(place: str | Path) -> list[Location]:
    """Give the files that a path, folder or glob names; in a URI a ``?`` begins the options and is no wildcard.

    Raises:
        DataError: There are none, or the place cannot be read.
    """
    try:
        location = Location.of(place)
        kind = location.filesystem.get_file_info(location.path).type
        if kind == fs.FileType.Directory:
            found = [file.path for file in _listed(location, location.path) if file.is_file and not hidden(file)]
        elif kind == fs.FileType.NotFound:
            found = list(_glob(location))
        else:
            return [location]
    except (OSError, ValueError) as error:
        raise unreadable(public_name(place), error) from error
    if not found:
        folder = kind == fs.FileType.Directory
        name = repr(location.name)
        raise DataError(f"the folder {name} holds no files" if folder else f"there is no file {name}")
    return [location.at(path) for path in sorted(found, key=PurePosixPath)]


def hidden(file: fs.FileInfo) -> bool:
    """Whether a file is hidden, or a mark that another program left."""
    return bool(file.base_name.startswith((".", "_")))


def _listed(location: Location, folder: str, recursive: bool = False) -> list[fs.FileInfo]:
    chosen = fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
    found: list[fs.FileInfo] = location.filesystem.get_file_info(chosen)
    return found


def _glob(location: Location) -> Iterator[str]:
    parts = PurePosixPath(location.path).parts
    first = next((i for i, part in enumerate(parts) if WILDCARDS & set(part)), None)
    if first is None:
        return
    for path in _matching(location, str(PurePosixPath(*parts[:first])), parts[first:]):
        yield str(PurePosixPath(path))


def _matching(location: Location, folder: str, pattern: Sequence[str]) -> Iterator[str]:
    first, *rest = pattern
    if first == "**":
        folders = [i.path for i in _listed(location, folder, recursive=True) if i.type == fs.FileType.Directory]
        for inner in [folder, *folders]:
            yield from _matching(location, inner, rest or ["*"])
        return
    for info in _listed(location, folder):
        if fnmatchcase(info.base_name, first) and not (hidden(info) and first[0] in WILDCARDS):
            if not rest and info.is_file:
                yield info.path
            elif rest and info.type == fs.FileType.Directory:
                yield from _matching(location, info.path, rest)
