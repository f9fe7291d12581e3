"""Processes that call functions for this one, each with one argument at a time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, TypeVar

from recmtl.errors import DataError
from recmtl.io.machine import threads_variable
from recmtl.io.messages import receive
from recmtl.io.processes import killed_by

GRACE_SECONDS = 2.0  # to wait for the exit status of a process that was lost

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class WorkerPool:
    """Processes that are forked from one that has loaded a module, so that they share its start and its memory.

    Args:
        workers: How many there are.
        module: The module that they need.

    Raises:
        DataError: The system has no forks, or opens no more connections.
    """

    def __init__(self, workers: int, module: str) -> None:
        if not hasattr(os, "fork"):
            raise DataError(f"{sys.platform} does not fork processes: leave `workers` at 1")
        pairs = list[tuple[socket.socket, socket.socket]]()
        try:
            pairs.extend(socket.socketpair() for _ in range(workers))
        except OSError as error:
            for end in chain.from_iterable(pairs):
                end.close()
            raise DataError(f"only {len(pairs):,} of {workers:,} `workers` can start: {error.strerror}") from error
        theirs = [other.fileno() for _, other in pairs]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "recmtl.io.worker", module, *map(str, theirs)],
            pass_fds=theirs,
            env=os.environ | threads_variable(workers),
            start_new_session=True,  # an interrupt is handled here alone
        )
        for _, other in pairs:
            other.close()
        self._idle = [Connection(own.detach()) for own, _ in pairs]
        self._busy: dict[Connection, int] = {}  # the number of the argument

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all processes; those that still work are killed."""
        if self._busy:
            self._kill()
        for connection in [*self._idle, *self._busy]:
            connection.close()
        self._process.wait()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for connection in self._busy:
            with suppress(EOFError, OSError):
                while True:  # until the other end is closed by the end of its process
                    connection.recv_bytes()

    def map(self, function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> Iterator[Result]:
        """Yield the result of a function for each argument, in order; arguments are taken when a process is free.

        An exception is raised in order as well.

        Raises:
            DataError: A process has died.
        """
        for stale in [*self._busy]:  # of a map that was left before its end
            self._take(stale)
        coming, results, place, failed = enumerate(arguments), dict[int, tuple[bool, Any]](), 0, False
        most = 2 * (len(self._idle) + len(self._busy))  # results that wait for a slow one
        while True:
            while self._idle and not failed and len(self._busy) + len(results) < most:
                number, argument = next(coming, (-1, None))
                if number < 0:
                    break
                connection = self._idle[-1]
                self._busy[connection] = number  # first: an interrupt in between must not lose it
                self._idle.pop()
                with suppress(OSError):  # it has died, which its end tells
                    connection.send((function, argument))
            if place in results:
                good, value = results.pop(place)
                if not good:
                    raise value
                yield value
                place += 1
            elif not self._busy:
                return
            for ready in wait([*self._busy], 0 if place in results else None) if self._busy else ():
                assert isinstance(ready, Connection)
                number, answer = self._take(ready)
                results[number] = answer
                failed = failed or not answer[0]

    def _take(self, connection: Connection) -> tuple[int, tuple[bool, Any]]:
        """Wait for the answer of a process; return the number of its argument, then whether it is a result, and it."""
        try:
            answer: tuple[bool, Any] = receive(connection)
        except (EOFError, OSError):
            how = None
            with suppress(subprocess.TimeoutExpired):
                how = killed_by(self._process.wait(GRACE_SECONDS))  # it ends as the process that it has forked
            self._kill()
            raise DataError(f"a worker process was {how or 'lost'}: give fewer `workers`, or more memory") from None
        self._idle.append(connection)
        return self._busy.pop(connection), answer
