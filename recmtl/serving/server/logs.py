"""The log of a server: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime


class Log:
    """Writes events as JSON lines; each is one write, so that lines of several workers do not mix.

    Args:
        worker: The process that writes.
        descriptor: The file descriptor to write to.
    """

    def __init__(self, worker: int | None = None, descriptor: int | None = None) -> None:
        self._worker = worker
        self._descriptor = sys.__stderr__.fileno() if descriptor is None and sys.__stderr__ else descriptor

    def __call__(self, event: str, level: str = "info", /, **facts: object) -> None:
        """Write an event with its facts; a log that cannot be written stops nothing."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        worker = {} if self._worker is None else {"worker": self._worker}
        line = json.dumps({"time": time, "level": level, "event": event, **worker, **facts}, default=str)
        if self._descriptor is not None:
            try:
                os.write(self._descriptor, f"{line}\n".encode())
            except OSError:
                self._descriptor = None

    def failure(self, event: str, error: BaseException) -> None:
        """Write an error of ours with its traceback, in one line."""
        self(event, "error", reason=one_line(error), traceback="".join(traceback.format_exception(error)))


class LogHandler(logging.Handler):
    """Passes errors of the HTTP server on to a `Log`; bytes that are no HTTP are a client's affair."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._log.failure(record.getMessage().strip(), error)
        else:
            self._log(record.getMessage().strip(), record.levelname.lower())


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
