"""Files and folders that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from recmtl.errors import DataError, ExistsError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # and pyarrow says of none of them which file it was


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block ends without an exception.

    Raises:
        ExistsError: `path` exists and is not an empty folder.
        DataError: The disk is full, or nothing can be written there.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ExistsError(f"{str(path)!r} exists already: choose another folder or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield partial
        os.chmod(partial, 0o777 & ~_umask())
        _take_place(partial, path)
        synced(path.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        refuse_full(path, error)
        raise


def _take_place(partial: Path, path: Path) -> None:
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise ExistsError(f"{str(path)!r} appeared meanwhile") from error
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends without an exception.

    By then its content lies on the disk: a machine that fails leaves the old file or the new one, never half of one.

    Raises:
        DataError: The disk is full, or nothing can be written there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # before there is anything to lose
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield partial
        synced(partial)
        os.replace(partial, path)
        synced(path.parent)
    except OSError as error:
        refuse_full(path, error)
        raise
    finally:
        partial.unlink(missing_ok=True)


def synced(path: Path) -> None:
    """Wait until a file, or which files lie in a folder, is on the disk."""
    if sys.platform == "win32":  # where neither a folder nor a file that is read can be waited for
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_full(path: Path, error: BaseException) -> None:
    """Say which file or folder a full disk does not take.

    Raises:
        DataError: The error is that of a full disk.
    """
    if isinstance(error, OSError) and error.errno in FULL:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> DataError:
    """Say of a file or folder why it cannot be written."""
    return DataError(f"{str(path)!r} cannot be written: {os.strerror(error.errno) if error.errno else error}")


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[BinaryIO | None]:
    """Hold the lock of a file that is there as long as the lock is; the lock of a process ends with the process.

    What is given is the locked file: a child process that inherits its descriptor holds the lock, too. Where the file
    system has no locks, nothing is locked.

    Args:
        path: The file.
        waiting: Called once before another process is waited for; ``None`` does not wait and gives ``None``.

    Raises:
        DataError: The folder of the file cannot be written.
    """
    while True:
        with _opened(path) as file:
            if not _lock(file, wait=False):
                if waiting is None:
                    yield None
                    return
                waiting()
                _lock(file, wait=True)
            if not _is_at(file, path):  # its last owner took it away
                continue
            try:
                yield file
            finally:
                path.unlink(missing_ok=True)
            return


def _opened(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise unwritable(path.parent, error) from error


def _lock(file: BinaryIO, wait: bool) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digest(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
