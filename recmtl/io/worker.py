"""The processes of a `WorkerPool`: `python -m recmtl.io.worker MODULE DESCRIPTOR…`, forked after the module is loaded.

The process that forks them waits for their ends. If one is killed, it kills the others, then itself by the same signal.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from recmtl import errors
from recmtl.io.machine import keep_freed_memory
from recmtl.io.messages import Message, pack, send


def main(module: str, *descriptors: str) -> None:
    """Fork a process for each end of a connection, and wait for them."""
    importlib.import_module(module)
    keep_freed_memory()
    ends = [int(descriptor) for descriptor in descriptors]
    children = set[int]()
    for end in ends:
        child = os.fork()
        if child == 0:
            for other in ends:
                if other != end:
                    os.close(other)
            serve(Connection(end))
            os._exit(0)
        children.add(child)
    for end in ends:
        os.close(end)
    while children:
        child, status = os.wait()
        children.discard(child)
        if os.WIFSIGNALED(status):
            for other in children:
                os.kill(other, signal.SIGKILL)
            os.kill(os.getpid(), os.WTERMSIG(status))


def serve(connection: Connection) -> None:
    """Call functions until the other end of the connection is closed."""
    try:
        while True:
            good, found = answer(_call, connection.recv_bytes())
            send(connection, found if good else pack((False, found)))
    except (EOFError, OSError):
        return


def _call(request: bytes) -> Message:
    function, argument = pickle.loads(request)
    return pack((True, function(argument)))


def answer(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Any]:
    """Return whether a function ends well, and its result or else its exception, with the lines that raised it."""
    try:
        return True, function(argument)
    except Exception as error:
        found = errors.sendable_error(error)
        if type(error).__module__ != errors.__name__:
            found.add_note(traceback.format_exc())
        return False, found


if __name__ == "__main__":
    main(*sys.argv[1:])
