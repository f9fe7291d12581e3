"""How a command ends: one line on standard error and an exit status."""

from __future__ import annotations

import sys
from contextlib import suppress

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


def end(text: str, status: int) -> int:
    """Print why a command ends, unless standard error is closed, and return its exit status."""
    with suppress(OSError):
        sys.stderr.write(f"recmtl: {text}\n")
        sys.stderr.flush()
    return status


def one_line(error: Exception) -> str:
    """Return the message of an error in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {str(error.filename)!r}"
    return " ".join(str(error).split())
