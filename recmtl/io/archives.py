"""The files of a folder or a zip, also of zips within it, read without unpacking them."""

from __future__ import annotations

import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa

from recmtl.errors import DataError, unreadable
from recmtl.io.location import COMPRESSIONS, URI, public_name

MAX_NESTING = 2  # zips around a zip that is opened
# What zipfile raises for zips that are damaged, encrypted, or packed by an unknown method.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Member:
    """A file of a folder or a zip; its name includes the zips that hold it."""

    name: str
    stream: Callable[[], pa.NativeFile]

    @property
    def lines_before(self) -> int:
        """The number of lines before it: none, as it is a whole file."""
        return 0


def on_disk(location: str | Path) -> Path:
    """Return the path of a folder or zip; an object store lacks the random access that zips need."""
    if isinstance(location, str) and URI.match(location):
        raise DataError(f"{public_name(location)!r} is not on this machine: copy the raw files and give their folder")
    return Path(location)


def members(location: Path, wanted: Callable[[str], bool], stack: ExitStack) -> Iterator[Member]:
    """List the files of a folder or a zip, except hidden ones, and of the zips within it whose names are wanted.

    The other zips are listed as files. `stack` closes the zips at its end.
    """
    if location.is_dir():
        for path in sorted(location.rglob("*")):
            name = path.relative_to(location).as_posix()
            if not path.is_file() or _hidden(name):
                continue
            if _is_zip(name) and wanted(name):
                yield from _members_of_zip(path, str(path), f"{name}/", wanted, stack)
            else:
                yield Member(name, partial(pa.input_stream, str(path), compression="detect"))
    elif not location.exists():
        raise DataError(f"there is no folder or zip {str(location)!r}")
    else:
        yield from _members_of_zip(location, str(location), "", wanted, stack)


def _members_of_zip(
    file: Path | IO[bytes], place: str, prefix: str, wanted: Callable[[str], bool], stack: ExitStack, nesting: int = 0
) -> Iterator[Member]:
    """List the members of a zip, called `place` in errors, with a prefix before their names."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
    except ZIP_ERRORS as error:
        raise DataError(f"{place} is neither a folder nor a zip that can be read: {error}") from error
    for info in archive.infolist():
        name = prefix + info.filename
        if info.is_dir() or _hidden(name):
            continue
        if _is_zip(name) and wanted(name) and nesting < MAX_NESTING:
            inner = f"{place}/{info.filename}"
            unpacked = _copy_to_disk(archive, info, inner, stack)
            yield from _members_of_zip(unpacked, inner, f"{name}/", wanted, stack, nesting + 1)
        else:
            yield Member(name, partial(_open_zipped, archive, info))


def _copy_to_disk(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: str, stack: ExitStack) -> IO[bytes]:
    """Copy a zip within a zip to a temporary file, which allows random access."""
    file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    try:
        with archive.open(info) as packed:
            shutil.copyfileobj(packed, file)
    except (OSError, *ZIP_ERRORS) as error:
        raise unreadable(place, error) from error
    return file


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> pa.NativeFile:
    codec = COMPRESSIONS.get(PurePosixPath(info.filename).suffix.lower())
    return pa.input_stream(archive.open(info), compression=codec)


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))
