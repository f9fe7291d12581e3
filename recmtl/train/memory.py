"""Freed memory is kept for the next step; how much there was at most is known at the end."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
KEPT, LARGEST = 1 << 30, 32 << 20  # bytes; the second is the most that glibc takes


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, up to 1 GiB, for its next allocation.

    A training step frees what the next one allocates. By default glibc returns large blocks to the system each time,
    which then hands them back page by page, cleared: milliseconds per step.

    Returns:
        Whether the C library took the setting; others than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, KEPT))


def peak_memory() -> int:
    """Give the most memory that the process has held so far, in bytes.

    Linux says it of the program that runs now; what `getrusage` counts goes on from the one that started it.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    unit = 1 if sys.platform == "darwin" else 1024
    return kilobytes[0] * 1024 if kilobytes else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
