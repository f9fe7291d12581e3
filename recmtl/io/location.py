"""Locations of files: on disk, or in an object store that pyarrow supports."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as fs

from recmtl.errors import DataError, unreadable

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
WILDCARDS = frozenset("*?[")
BUFFER_BYTES = 1 << 20  # per read: each read from an object store is a request
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
PART_KEY = re.compile(r"([^=]+)=(.*)")  # a folder of rows that share a value: date=2024-01-01
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # in place of a missing value
EMPTY_PART = "part-"  # the name of a file that Spark writes for no rows begins like this
# Tables whose log says which of their files and rows count: where it is below the table, and how to export the rows.
TABLE_LOGS = {
    "Delta Lake": ("_delta_log", "*", "`pyarrow.dataset.write_dataset(DeltaTable(…).to_pyarrow_dataset(), …)`"),
    "Iceberg": (
        "metadata",
        "*.metadata.json",
        "`pyarrow.parquet.write_table(table.scan().to_arrow(), …)`",
    ),
    "Hudi": (".hoodie", "*", "`spark.read.format('hudi').load(…).write.parquet(…)`"),
    "Lance": ("_versions", "*.manifest", "`pyarrow.parquet.write_table(lance.dataset(…).to_table(), …)`"),
}
TABLE_DATA = "data"  # the folder within a table where Iceberg and Lance keep its files


Wanted: TypeAlias = Callable[[Mapping[str, str | None], str], bool]


@dataclass(frozen=True)
class Location:
    """A file, a folder or a glob in a filesystem.

    Args:
        path: The path.
        filesystem: The filesystem.
        prefix: The part of its URI before the path.
        given: The path that was given, if another process has made it absolute.
    """

    path: str
    filesystem: fs.FileSystem
    prefix: str = ""
    given: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Make a path on disk absolute for another process, which may run in another folder."""
        if not self.on_disk or os.path.isabs(self.path):
            return vars(self)
        return vars(self) | {"path": os.path.join(os.getcwd(), self.path), "given": self.path}

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
        return self.prefix + (self.given or self.path)

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
        """The suffix before that of the compression, in lower case; ``.csv`` if there is none."""
        suffixes = (suffix.lower() for suffix in reversed(self.suffixes))
        return next((suffix for suffix in suffixes if suffix not in COMPRESSIONS), ".csv")

    @property
    def is_compressed(self) -> bool:
        """Whether its suffix names a compression."""
        return bool(self.suffixes) and self.suffixes[-1].lower() in COMPRESSIONS

    @property
    def part_keys(self) -> dict[str, str | None]:
        """The keys that the folders of the path give to all its rows, such as ``date=2024-01-01``."""
        return keys_of(PurePosixPath(self.path).parent)

    @property
    def lines_before(self) -> int:
        """The number of lines before it: none, as it is a whole file."""
        return 0

    @property
    def size(self) -> int:
        """The size in bytes."""
        return int(self.filesystem.get_file_info(self.path).size or 0)

    def stream(self, compressed: bool = False) -> pa.NativeFile:
        """Open the file for reading from the start, decompressed according to its suffix, or as it is."""
        suffix = self.suffixes[-1].lower() if self.suffixes and not compressed else ""
        codec = COMPRESSIONS.get(suffix)
        return self.filesystem.open_input_stream(self.path, compression=codec, buffer_size=BUFFER_BYTES)

    def file(self) -> pa.NativeFile:
        """Open the file for random access; a file on disk is mapped into memory."""
        return pa.memory_map(self.path) if self.on_disk else self.filesystem.open_input_file(self.path)


def keys_of(folder: PurePosixPath) -> dict[str, str | None]:
    """Return the keys that the parts of a folder's path give to its rows; ``None`` is a missing value."""
    found = (PART_KEY.fullmatch(part) for part in folder.parts)
    values = {unquote(key[1]): unquote(key[2]) for key in found if key}
    return {key: None if value == NO_VALUE else value for key, value in values.items()}


def public_name(place: str | Path) -> str:
    """Return a path or URI without credentials and options."""
    if isinstance(place, Path) or not URI.match(place):
        return str(place)
    parts = urlsplit(place, allow_fragments=False)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def expand(place: str | Path, wanted: Wanted | None = None) -> list[Location]:
    """Return the files of a path, folder or glob, sorted. In a URI ``?`` begins the options and is no wildcard.

    A folder has its files and those of folders named like ``date=2024-01-01`` in it: of those that are `wanted`, given
    their keys and path, which may be none. Hidden files, markers such as ``_SUCCESS`` and files without rows named
    ``part-…`` are left out.

    Raises:
        DataError: There is no such file, or it is one of a table whose log says which of its rows count.
    """
    try:
        location = Location.of(place)
        kind = location.filesystem.get_file_info(location.path).type
        if kind == fs.FileType.Directory:
            found = list(_files_of_folder(location, location.path, wanted or (lambda keys, folder: True)))
        elif kind == fs.FileType.NotFound:
            found = list(_glob(location))
        else:
            found = [location.path]
        if location.on_disk or kind != fs.FileType.File:  # in an object store each listing is a request
            inner = [PurePosixPath(path).parent for path in found]
            _check_no_table(
                location, [PurePosixPath(location.path), *inner] if kind == fs.FileType.Directory else inner
            )
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(public_name(place), error) from error
    if not found and not (wanted and kind == fs.FileType.Directory):
        folder = kind == fs.FileType.Directory
        name = repr(location.name)
        raise DataError(f"the folder {name} holds no files" if folder else f"there is no file {name}")
    return [replace(location, path=path) for path in sorted(found, key=PurePosixPath)]


def _check_no_table(location: Location, folders: Iterable[PurePosixPath]) -> None:
    """Check that no folder is a table with a log, or within one: files of deleted rows lie in it as well."""
    for table in sorted({table for folder in folders for table in _tables_around(folder)}):
        for kind, (log, pattern, export) in TABLE_LOGS.items():
            try:
                found = [info.base_name for info in _list_folder(location, str(table / log))]
            except OSError:  # one may not look into it, or it is a file
                continue
            if any(fnmatchcase(name, pattern) for name in found):
                raise DataError(
                    f"{location.prefix}{table} is a table of {kind}, whose files hold deleted rows as well: "
                    f"export it as Parquet, such as by {export}, and give the files written"
                )


def _tables_around(folder: PurePosixPath) -> tuple[PurePosixPath, ...]:
    """Return which folders would be the table that holds a folder: above those of parts such as ``date=2024-01-01``."""
    while PART_KEY.fullmatch(folder.name):
        folder = folder.parent
    return (folder, folder.parent) if folder.name == TABLE_DATA else (folder,)


def _files_of_folder(location: Location, folder: str, wanted: Wanted) -> Iterator[str]:
    for info in _list_folder(location, folder):
        if info.type == fs.FileType.Directory and PART_KEY.fullmatch(info.base_name) and not hidden(info):
            if wanted(keys_of(PurePosixPath(info.path)), location.prefix + info.path):
                yield from _files_of_folder(location, info.path, wanted)
        elif info.is_file and not hidden(info) and not _without_rows(info):
            yield info.path


def _without_rows(file: fs.FileInfo) -> bool:
    return bool(file.size == 0 and file.base_name.startswith(EMPTY_PART))


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
            if not rest and info.is_file and not _without_rows(info):
                yield info.path
            elif rest and info.type == fs.FileType.Directory:
                yield from _match(location, info.path, rest)
