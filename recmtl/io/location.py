"""Locations of files: on disk, or in an object store that pyarrow supports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as fs

from recmtl.errors import DataError, unreadable

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
WILDCARDS = frozenset("*?[")
BUFFER_BYTES = 1 << 20  # per read: each read from an object store is a request
COMPRESSIONS = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class Location:
    """A file, a folder or a glob in a filesystem; `prefix` is the part of its URI before the path."""

    path: str
    filesystem: fs.FileSystem
    prefix: str = ""

    @classmethod
    def of(cls, place: str | Path) -> Location:
        """Locate a path or URI (``s3://``, ``gs://``, ``hdfs://``, ``file://``); an unknown one raises `ValueError`.

        pyarrow's options such as ``region`` or ``endpoint_override`` go in the query of the URI.
        """
        if isinstance(place, Path) or not URI.match(place):
            return cls(str(Path(place)), fs.LocalFileSystem())
        parts = urlsplit(place, allow_fragments=False)
        server = f"{parts.scheme}://{parts.netloc}/" + (f"?{parts.query}" if parts.query else "")
        try:
            filesystem, root = fs.FileSystem.from_uri(server)
        except (OSError, ValueError) as error:  # its message may contain a password
            raise ValueError(str(error).replace(server, public_name(place))) from None
        root = root.strip("/")
        prefix = f"{parts.scheme}://" + ("" if root else parts.netloc.rpartition("@")[2])
        return cls(f"{root}/{unquote(parts.path).strip('/')}".rstrip("/"), filesystem, prefix)

    @property
    def name(self) -> str:
        """The path or URI without options and credentials."""
        return self.prefix + self.path

    @property
    def on_disk(self) -> bool:
        """Whether the file is on this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the file's name."""
        return PurePosixPath(self.path).suffixes

    @property
    def suffix(self) -> str:
        """The suffix before that of the compression; ``.csv`` if there is none."""
        return next((s for s in reversed(self.suffixes) if s not in COMPRESSIONS), ".csv")

    def stream(self, compression: str | None = "detect") -> pa.NativeFile:
        """Open the file for reading from the start, decompressed according to its suffix."""
        return self.filesystem.open_input_stream(self.path, compression=compression, buffer_size=BUFFER_BYTES)

    def file(self) -> pa.NativeFile:
        """Open the file for random access; a file on disk is mapped into memory."""
        return pa.memory_map(self.path) if self.on_disk else self.filesystem.open_input_file(self.path)


def public_name(place: str | Path) -> str:
    """Return a path or URI without credentials and options."""
    if isinstance(place, Path) or not URI.match(place):
        return str(place)
    parts = urlsplit(place, allow_fragments=False)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def expand(place: str | Path) -> list[Location]:
    """Return the files of a path, folder or glob, sorted. In a URI ``?`` begins the options and is no wildcard."""
    try:
        location = Location.of(place)
        kind = location.filesystem.get_file_info(location.path).type
        if kind == fs.FileType.Directory:
            found = [file.path for file in _list_folder(location, location.path) if file.is_file and not hidden(file)]
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
    return [replace(location, path=path) for path in sorted(found, key=PurePosixPath)]


def hidden(file: fs.FileInfo) -> bool:
    """Return whether a file is hidden, or a marker such as ``_SUCCESS``."""
    return bool(file.base_name.startswith((".", "_")))


def _list_folder(location: Location, folder: str, recursive: bool = False) -> list[fs.FileInfo]:
    selector = fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
    found: list[fs.FileInfo] = location.filesystem.get_file_info(selector)
    return found


def _glob(location: Location) -> Iterator[str]:
    parts = PurePosixPath(location.path).parts
    first = next((i for i, part in enumerate(parts) if WILDCARDS & set(part)), None)
    if first is None:
        return
    for path in _match(location, str(PurePosixPath(*parts[:first])), parts[first:]):
        yield str(PurePosixPath(path))


def _match(location: Location, folder: str, pattern: Sequence[str]) -> Iterator[str]:
    first, *rest = pattern
    if first == "**":
        folders = [i.path for i in _list_folder(location, folder, recursive=True) if i.type == fs.FileType.Directory]
        for inner in [folder, *folders]:
            yield from _match(location, inner, rest or ["*"])
        return
    for info in _list_folder(location, folder):
        if fnmatchcase(info.base_name, first) and not (hidden(info) and first[0] in WILDCARDS):
            if not rest and info.is_file:
                yield info.path
            elif rest and info.type == fs.FileType.Directory:
                yield from _match(location, info.path, rest)
