"""Files that are written whole or not at all, on disk or in an object store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as fs

from recmtl.errors import DataError, ExistsError
from recmtl.io.files import new_file
from recmtl.io.location import Location, public_name

# Stores in which an object appears when its upload is complete; in others a file is moved to its name at the end.
ATOMIC_UPLOADS = ("s3", "gcs", "abfs")


@contextmanager
def new_output(place: str | Path) -> Iterator[Path]:
    """Yield a temporary path on disk, whose file appears at `place` if the block ends without an exception.

    Args:
        place: A path or URI (``s3://``, ``gs://``, ``hdfs://``, ``file://``) of a file, which may be there already.

    Raises:
        DataError: The file cannot be written.
    """
    location = locate_output(place)
    if location.on_disk:
        with new_file(Path(location.path)) as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix="recmtl-") as folder:
        spool = Path(folder) / PurePosixPath(location.path).name
        spool.touch()
        yield spool
        upload(spool, location)


def locate_output(place: str | Path) -> Location:
    """Return the location of a file to write; one in an object store has a bucket that exists.

    Raises:
        DataError: It names no file, or a store that cannot be reached.
    """
    name = public_name(place)
    try:
        location = Location.of(place)
        if location.on_disk:
            return location
        bucket, _, key = location.path.partition("/")
        if not key or str(place).partition("?")[0].endswith("/"):
            raise DataError(f"{name!r} names no file to write: give the whole name of one")
        found = location.filesystem.get_file_info(location.path)
        if found.type == fs.FileType.Directory:
            raise DataError(f"{name!r} is a folder, expected a file to write")
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise _unwritable(name, error) from error
    if location.filesystem.type_name in ATOMIC_UPLOADS:
        with suppress(OSError):  # one may write an object without looking at its bucket
            if location.filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
                raise DataError(f"{name!r} cannot be written: there is no bucket {bucket!r}")
    return location


def check_free(place: str | Path, option: str = "--out") -> None:
    """Check that there is no file or folder yet that would be overwritten.

    Raises:
        ExistsError: There is one.
        DataError: The place cannot be looked at.
    """
    location = locate_output(place)
    if location.on_disk:
        path = Path(location.path)
        taken = path.exists() or path.is_symlink()
    else:
        taken = location.filesystem.get_file_info(location.path).type != fs.FileType.NotFound
    if taken:
        raise ExistsError(f"{location.name!r} exists already: give `{option}` another name or remove it")


def upload(spool: Path, location: Location) -> None:
    """Copy a complete file from disk to its location, where it appears when all of it has arrived.

    Raises:
        DataError: It cannot be written.
    """
    store, path = location.filesystem, PurePosixPath(location.path)
    atomic = store.type_name in ATOMIC_UPLOADS
    arriving = path if atomic else path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        if not atomic:
            store.create_dir(str(path.parent), recursive=True)
        # in C++, which no signal interrupts: an output stream that Python closes early would leave a part of the file
        fs.copy_files(str(spool), str(arriving), fs.LocalFileSystem(), store)
        arrived, size = store.get_file_info(str(arriving)).size, spool.stat().st_size
        if arrived != size:
            store.delete_file(str(arriving))
            raise OSError(f"{arrived} of {size} bytes arrived")
        if not atomic:
            store.move(str(arriving), str(path))
    except (OSError, pa.ArrowException) as error:
        if not atomic:
            with suppress(OSError):
                store.delete_file(str(arriving))
        raise _unwritable(location.name, error) from error


def _unwritable(name: str, error: Exception) -> DataError:
    reason = " ".join(" ".join(map(str, error.args)).split()).rstrip(".")
    return DataError(f"{name!r} cannot be written: {reason}")
