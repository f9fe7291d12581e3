"""Files and folders written whole or not at all, and locks between processes."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from recmtl.errors import DataError, ExistsError

REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)  # a URI, of which `Path` keeps one slash
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # by the file system


def check_local(path: str | Path) -> None:
    """Check that a folder or file to be written is no URI, which `Path` would take for a folder of that name.

    Raises:
        DataError: It is one.
    """
    if found := REMOTE.match(str(path)):
        scheme, rest = found.groups()
        server, slash, folders = rest.partition("?")[0].partition("/")
        name = f"{scheme}://{server.rpartition('@')[2]}{slash}{folders}"  # without credentials
        if scheme == "file":
            raise DataError(f"{name!r} is a URI: give the path alone")
        raise DataError(f"{name!r} is not on this machine: give a folder on its disk, and copy it")


@contextmanager
def new_folder(path: Path, before: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to `path` if the block ends without an exception.

    A `path` that exists, unless it is an empty folder, raises `ExistsError`, or is renamed to `before` at the end.
    """
    check_local(path)
    if before is None and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ExistsError(f"{str(path)!r} exists already: choose another folder or remove it")
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield partial
        if before is not None and path.exists():
            os.replace(path, before)
        _rename_folder(partial, path)
        fsync(path.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise_if_disk_full(path, error)
        raise


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which takes its place if the block ends without an exception.

    Whoever looks finds the old folder or the new one, whole; in a moment between two renamings, none.
    """
    before = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with new_folder(path, before) as partial:
            yield partial
    finally:
        shutil.rmtree(before, ignore_errors=True)


def _rename_folder(partial: Path, path: Path) -> None:
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise ExistsError(f"{str(path)!r} appeared meanwhile") from error
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` if the block ends without an exception.

    The content is synced to disk first: after a crash of the machine `path` is the old file or the new one, whole.
    """
    check_local(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder, expected a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # fail before any work is done
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield partial
        fsync(partial)
        os.replace(partial, path)
        fsync(path.parent)
    except OSError as error:
        raise_if_disk_full(path, error)
        raise
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove the files and folders that a killed process has left half written below a folder."""
    for path in [*folder.rglob(".*.partial")]:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # a folder, which is gone
            path.unlink()


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    if sys.platform == "win32":  # which cannot sync a folder, or a file opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def raise_if_disk_full(path: Path, error: BaseException) -> None:
    """Raise an error that names the file or folder if the disk is full; pyarrow's own error names none."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> DataError:
    """Build the error of a file or folder that cannot be written."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        above = next((place for place in (path, *path.parents) if place.is_file()), path)
        return DataError(f"{str(path)!r} cannot be written: {str(above)!r} is a file, not a folder")
    return DataError(f"{str(path)!r} cannot be written: {os.strerror(error.errno) if error.errno else error}")


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[tuple[int, ...] | None]:
    """Hold a lock file within a block. The file is removed afterwards; a killed process releases its lock.

    Yields the descriptors that a child process must inherit to hold the lock as well, or ``None`` if another process
    holds it and `waiting`, called once before waiting for it, is ``None``. A file system without locks locks nothing.

    Raises:
        DataError: The folder cannot be written, or the file is one that holds something, which no lock does.
    """
    if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_size)):  # a lock is empty
        raise ExistsError(f"{str(path)!r} is no lock file of recmtl: choose another folder, or remove it")
    descriptors: list[int] = []
    lock = FileLock(path, on_acquired=descriptors.append)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        acquired = _acquire(lock, waiting)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    if not acquired:
        yield None
        return
    try:
        yield tuple(descriptors)
    finally:
        with suppress(OSError):
            path.unlink()  # before the release: a waiting process sees that it locked a removed file, and tries again
        lock.release()


def _acquire(lock: FileLock, waiting: Callable[[], None] | None) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if waiting is None:
            return False
        waiting()
        lock.acquire()
    except OSError as error:
        if error.errno not in LOCKS_UNSUPPORTED:
            raise
    return True


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
