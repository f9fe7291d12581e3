"""Processes that this one starts: how they end."""

from __future__ import annotations

import signal
import subprocess
from typing import Any


def end_process(process: subprocess.Popen[Any], seconds: float) -> None:
    """Wait for a process that was asked to end, and kill it after some seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
