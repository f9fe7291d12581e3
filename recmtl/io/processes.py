"""Processes that this one starts, how they end, and those that ``torchrun`` started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from recmtl.errors import EXPECTED, ToldError, UsageError

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def end_process(process: subprocess.Popen[Any], seconds: float) -> None:
    """Wait for a process that was asked to end, and kill it after some seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let signals that end a command wait for the end of a block, such as one that starts a process and notes it.

    Python delivers signals to the main thread: in others, this does nothing. Ignored signals stay ignored.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    deferred = {number: found for number, found in before.items() if callable(found)}
    if threading.current_thread() is not threading.main_thread():
        deferred = {}
    for number in deferred:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, found in deferred.items():
            signal.signal(number, found)
        if came:
            signal.raise_signal(came[0])


def killed_by(status: int) -> str | None:
    """Return by which signal a process was killed, given its exit status; ``None`` if it was not.

    Example:
        >>> killed_by(-9)
        'killed by SIGKILL (out of memory?)'
    """
    if status >= 0:
        return None
    memory = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-status).name}{memory}"


def launched() -> int:
    """Return the number of processes that ``torchrun`` started; an empty variable counts as unset.

    Raises:
        UsageError: `WORLD_SIZE` and `RANK` are no numbers, or do not fit each other.
    """
    size, rank = _launch_number("WORLD_SIZE", 1), _launch_number("RANK", 0)
    if not rank and size in (None, 1):
        return 1
    if rank is None or size is None:
        given, missing = ("WORLD_SIZE", "RANK") if rank is None else ("RANK", "WORLD_SIZE")
        refuse_launch(f"{given} is {os.environ[given]}, but {missing} is not set")
    if rank >= size:
        refuse_launch(f"RANK is {rank}, expected a number below WORLD_SIZE, which is {size}")
    return size


def launched_rank() -> int:
    """Return the rank of this process among them."""
    return _launch_number("RANK", 0) or 0


def _launch_number(name: str, least: int) -> int | None:
    text = os.environ.get(name, "").strip()
    if text and not (text.isdecimal() and int(text) >= least):
        refuse_launch(f"{name} is {text!r}, expected a number of at least {least}")
    return int(text) if text else None


def refuse_launch(reason: str) -> NoReturn:
    """Raise the error of variables that ``torchrun`` would set otherwise."""
    raise UsageError(f"{reason}: start several processes with torchrun; to start one, unset RANK and WORLD_SIZE")


@contextmanager
def joined_on_error() -> Iterator[None]:
    """Join the processes if an expected error, such as that of a wrong option, ends a block before they have met.

    So an error of all is printed once, and that of one process ends the others. If they do not meet, each raises its
    own.
    """
    try:
        yield
    except EXPECTED as error:
        if launched() == 1:
            raise
        joined = import_module("recmtl.io.joining").joined  # which imports torch
        try:
            with joined():
                raise
        except ToldError:
            raise
        except Exception:
            raise error from error.__cause__
