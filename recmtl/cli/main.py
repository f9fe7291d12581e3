"""The command ``recmtl``: what a command needs is imported when that command runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from recmtl._version import __version__
from recmtl.cli.catalogue import check_command, check_spelling, command_help, load_catalogue, overview
from recmtl.cli.terminal import BAD_INPUT, INTERRUPTED, end, lasting_output, one_line
from recmtl.errors import DataError, DivergenceError, OutOfMemoryError, RunError, SchemaError, UsageError

HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends in one line and exit status 2."""
    with lasting_output():
        try:
            status = run(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()  # a disk may be full
        except (UsageError, DataError, SchemaError, RunError, DivergenceError, OutOfMemoryError, OSError) as error:
            return end(one_line(error), BAD_INPUT)
        except KeyboardInterrupt:
            return end("interrupted", INTERRUPTED)
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
    check_spelling(name, catalogue[name], rest)
    with exit_at_interrupt():
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
def exit_at_interrupt() -> Iterator[None]:
    """Exit at once on SIGINT while modules are imported: an extension module may swallow the exception."""

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(end("interrupted", INTERRUPTED))

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def print_text(text: str) -> int:
    """Print a text and return the exit status of success."""
    sys.stdout.write(text + "\n")
    return 0
