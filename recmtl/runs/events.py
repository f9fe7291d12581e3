"""Event files for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from recmtl.io.files import refuse_full

VERSION = "brain.Event:2"


class Events:
    """An event file, written without a thread: a full disk is said where it is met.

    Args:
        folder: The folder.
        done: The steps after which numbers are written: what other files in the folder say of later ones is void.

    Raises:
        DataError: The disk is full; also of all methods.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        self._path = folder / f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        with self._named():
            self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version=VERSION))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=done + 1))

    def add(self, name: str, value: float, step: int) -> None:
        """Write a number."""
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)])))

    def flush(self) -> None:
        """Hand over all that was written."""
        with self._named():
            self._file.flush()

    def close(self) -> None:
        """End the file."""
        with self._named():
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._named():
            self._records.write(event.SerializeToString())

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            refuse_full(self._path, error)
            raise
