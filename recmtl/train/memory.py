"""Freed memory is kept for the next step."""

from __future__ import annotations

import ctypes
import sys

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
