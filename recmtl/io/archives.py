"""The files of a folder or a zip, also of zips within, read without being unpacked."""

from __future__ import annotations

import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO

import pyarrow as pa

from recmtl.errors import DataError
from recmtl.io.location import URI, public_name

NESTED_BYTES = 1 << 36  # of a zip within a zip, which is copied to a temporary file
NESTED_DEPTH = 2  # zips around a zip
ENCRYPTED = 0x1  # flag of a member
FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)  # of damaged or unknown zips


@dataclass(frozen=True)
class Member:
    """A file of a folder or a zip.

    Args:
        name: Its path from there, through the zips that hold it.
        open: Opens it for reading.
    """

    name: str
    open: Callable[[], pa.NativeFile]


def on_disk(location: str | Path) -> Path:
    """Give the path of a folder or zip.

    Raises:
        DataError: It lies in an object store, where a zip cannot be read from any position.
    """
    if isinstance(location, str) and URI.match(location):
        raise DataError(f"{public_name(location)!r} is not on this machine: copy the raw files and give their folder")
    return Path(location)


def members(location: Path, wanted: Callable[[str], bool], stack: ExitStack) -> Iterator[Member]:
    """List the files of a folder or a zip and of the zips within; hidden files are left out.

    Args:
        location: The folder or zip.
        wanted: Says by its name whether a zip within is worth opening; otherwise it is listed as a file.
        stack: Closes the zips in the end.

    Raises:
        DataError: There is no such folder or zip, a zip cannot be read, or a zip has a member that no honest one has.
    """
    if location.is_dir():
        for path in sorted(location.rglob("*")):
            name = path.relative_to(location).as_posix()
            if path.is_file() and not _hidden(name):
                if _is_zip(name) and wanted(name):
                    yield from _archived(_open_zip(path, str(path), stack), f"{name}/", str(path), wanted, stack)
                else:
                    yield Member(name, partial(pa.input_stream, str(path), compression="detect"))
    elif not location.exists():
        raise DataError(f"there is no folder or zip {str(location)!r}")
    else:
        yield from _archived(_open_zip(location, str(location), stack), "", str(location), wanted, stack)


def _archived(
    archive: zipfile.ZipFile, prefix: str, place: str, wanted: Callable[[str], bool], stack: ExitStack, depth: int = 0
) -> Iterator[Member]:
    """List the members of a zip at `place`; `prefix` stands before their names."""
    for info in archive.infolist():
        _check(info, place)
        name, inner = prefix + info.filename, f"{place}/{info.filename}"
        if info.is_dir() or _hidden(name):
            continue
        if _is_zip(name) and wanted(name):
            if depth == NESTED_DEPTH:
                raise DataError(
                    f"{inner} lies within {depth + 1} other zips: unpack the outer ones and give the folder"
                )
            file = _open_zip(stack.enter_context(_spooled(archive, info, inner)), inner, stack)
            yield from _archived(file, f"{name}/", inner, wanted, stack, depth + 1)
        else:
            yield Member(name, partial(_stream, archive, info))


def _check(info: zipfile.ZipInfo, place: str) -> None:
    path = PureWindowsPath(info.filename)  # which knows both separators and drives
    if path.anchor or ".." in path.parts:
        raise DataError(f"{place} has the member {info.filename!r}: expected names that stay within the zip")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{place} has the member {info.filename!r}, a link: expected files and folders")
    if info.flag_bits & ENCRYPTED:
        raise DataError(f"{place} has the member {info.filename!r}, which is encrypted: unpack it and give the folder")


def _open_zip(file: Path | IO[bytes], place: str, stack: ExitStack) -> zipfile.ZipFile:
    try:
        return stack.enter_context(zipfile.ZipFile(file))
    except FAULTS as error:
        raise DataError(f"{place} is neither a folder nor a zip that can be read: {error}") from error


@contextmanager
def _spooled(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: str) -> Iterator[IO[bytes]]:
    """Copy a zip within a zip to a temporary file: it can be read from any position."""
    folder = tempfile.gettempdir()
    limit = min(NESTED_BYTES, shutil.disk_usage(folder).free)
    if info.file_size > limit:
        size = f"{info.file_size:,} bytes, and {folder} takes {limit:,}"
        raise DataError(f"{place} has {size}: unpack the outer zip and give the folder")
    with tempfile.TemporaryFile() as file:
        try:
            with archive.open(info) as packed:  # which ends at the size declared
                shutil.copyfileobj(packed, file)
        except FAULTS as error:
            raise DataError(f"{place} cannot be read: {error}") from error
        yield file


def _stream(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> pa.NativeFile:
    return pa.input_stream(archive.open(info))


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))
