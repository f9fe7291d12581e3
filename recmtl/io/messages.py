"""Messages between processes of one machine: their large arrays are not sent, but mapped from a file."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import IO, Any, NamedTuple

from recmtl.errors import DataError

LARGE_BYTES = 1 << 16  # of an array, from which on it is written to the file
ALIGNMENT = 64  # bytes, of the arrays in the file


class Message(NamedTuple):
    """A pickled object, the sizes of its large arrays in bytes, and the file that has them if there are any."""

    pickled: bytes
    sizes: list[int]
    file: IO[bytes] | None


def pack(content: object) -> Message:
    """Return a message with an object.

    The file has no name, so that none is left behind, however the processes end.

    Raises:
        DataError: The file cannot be written.
    """
    arrays = list[memoryview]()

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        small = buffer.raw().nbytes < LARGE_BYTES
        if not small:
            arrays.append(buffer.raw())
        return small

    pickled = pickle.dumps(content, 5, buffer_callback=is_small)
    sizes = [array.nbytes for array in arrays]
    return Message(pickled, sizes, _written(arrays, sizes) if arrays else None)


def _written(arrays: Sequence[memoryview], sizes: Sequence[int]) -> IO[bytes]:
    """Return an open file with some arrays."""
    try:
        with ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            for array, start in zip(arrays, _starts(sizes), strict=True):
                file.seek(start)
                file.write(array)
            file.flush()
            stack.pop_all()
            return file
    except OSError as error:
        folder, reason = tempfile.gettempdir(), os.strerror(error.errno) if error.errno else error
        raise DataError(f"results of a worker cannot be written to {folder}, which TMPDIR names: {reason}") from error


def send(connection: Connection, message: Message) -> None:
    """Send a message, and close its file."""
    connection.send((message.pickled, message.sizes))
    if message.file is not None:
        with message.file as file:
            send_handle(connection, file.fileno(), os.getpid())


def receive(connection: Connection) -> Any:
    """Wait for a message and return its object. Its large arrays are read when they are used; others see no changes."""
    pickled, sizes = connection.recv()
    if not sizes:
        return pickle.loads(pickled)
    descriptor = recv_handle(connection)
    try:
        mapped = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(descriptor)
    arrays = [mapped[start : start + size] for start, size in zip(_starts(sizes), sizes, strict=True)]
    return pickle.loads(pickled, buffers=arrays)


def _starts(sizes: Sequence[int]) -> list[int]:
    """Return where arrays begin in the file."""
    return list(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes[:-1]), initial=0))
