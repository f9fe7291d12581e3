"""How a command ends: one line on standard error and an exit status."""

from __future__ import annotations

import sys

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


def end(text: str, status: int) -> int:
    """Print why a command ends, and return its exit status."""
    sys.stderr.write(f"recmtl: {text}\n")
    sys.stderr.flush()
    return status


def one_line(error: Exception) -> str:
    """Return the message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {str(error.filename)!r}"
    return " ".join(str(error).split())
