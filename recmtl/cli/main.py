"""The command ``recmtl``: what a command needs is imported when that command runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

from recmtl._version import __version__
from recmtl.cli.catalogue import check_command, check_spelling, command_help, load_catalogue, overview
from recmtl.cli.terminal import BAD_INPUT, FAILED, end, interrupted_status, lasting_output
from recmtl.errors import EXPECTED, LostRankError, Terminated, ToldError, UsageError, one_line
from recmtl.io.processes import joined_on_error

HELP = ("-h", "--help")
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends in one line and exit status 2."""
    with lasting_output(), handled(ENDING, terminate):
        try:
            status = run(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()  # a disk may be full
        except EXPECTED as error:
            return end(one_line(error), BAD_INPUT)
        except ToldError as told:
            return FAILED if isinstance(told.error, LostRankError) else BAD_INPUT
        except KeyboardInterrupt as error:
            return end(str(error) or "interrupted", interrupted_status(error))
        return status


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    check_text(arguments)
    catalogue = load_catalogue()
    name, *rest = arguments or ["--help"]
    if name in HELP:
        return print_text(overview(catalogue))
    if name == "--version":
        return print_text(f"recmtl {__version__}")
    check_command(name, catalogue)
    if any(argument in HELP for argument in rest):
        return print_text(command_help(catalogue[name]))
    with joined_on_error():
        check_spelling(name, catalogue[name], rest)
    with handled((signal.SIGINT, *ENDING), leave):
        running = import_module("recmtl.cli.running")
        import_module(f"recmtl.cli.{name}")
    status: int = running.run_command(name, rest)
    return status


def check_text(arguments: Sequence[str]) -> None:
    """Refuse arguments with bytes that are no text, which no recipe could hold."""
    for argument in arguments:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):
            raise UsageError(f"{argument!a} is no UTF-8: rename the file, or set PYTHONUTF8=1 if its name is UTF-8")


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle signals within a block, but for those that are ignored, or that a program handles."""
    own = (signal.SIG_DFL, signal.default_int_handler, terminate)
    here = threading.current_thread() is threading.main_thread()
    before = {number: found for number in numbers if here and (found := signal.getsignal(number)) in own}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, found)


def leave(number: int, frame: FrameType | None) -> None:
    """Exit at once, as an exception may be lost within an extension module that is being imported."""
    error = KeyboardInterrupt() if number == signal.SIGINT else Terminated(signal.Signals(number))
    os._exit(end(str(error) or "interrupted", interrupted_status(error)))


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise an exception, on which unfinished files are removed; a second signal is ignored meanwhile."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Terminated(signal.Signals(number))


def print_text(text: str) -> int:
    """Print a text and return the exit status of success."""
    sys.stdout.write(text + "\n")
    return 0
