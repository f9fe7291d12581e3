"""How much memory there is for rows, and what is said where it does not hold what was asked for."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from recmtl.errors import OutOfMemoryError

UNLIMITED = 1 << 60
# What torch says of memory that it does not get, or could not even count.
REFUSED = re.compile(r"can't allocate memory|not enough memory|out of memory|[Oo]verflow")


@contextmanager
def explain_oom(what: str, advice: str = "") -> Iterator[None]:
    """Say of memory that is asked for within a block and cannot be had what it was for; the innermost block says it.

    Args:
        what: What memory is to hold.
        advice: What would take less.

    Raises:
        OutOfMemoryError: Memory does not hold it.
    """
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError, TypeError, OSError) as error:
        if isinstance(error, OutOfMemoryError) or not is_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        size = re.search(r"allocate ([\d.]+ \w+)", reason)
        asked = f" ({size[1]} more)" if size else ""
        raise OutOfMemoryError(f"memory does not hold {what}{asked}{advice and ': '}{advice}") from error


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory cannot be had."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or REFUSED.search(str(error)) is not None


def available_memory() -> int:
    """Give the bytes that this process can still take: what the system has free, or less where a cgroup limits it."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.is_file() else None
    return min([int(found[1]) * 1024 if found else UNLIMITED, *_left_in_cgroups(Path("/"))])


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """What the limits of the process's memory cgroups leave, those above them included."""
    listing = root / "proc/self/cgroup"
    for line in listing.read_text().splitlines() if listing.is_file() else []:
        number, controllers, path = line.split(":", 2)
        base, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        if "memory" in controllers.split(","):
            base, limit, used = base / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif number != "0":
            continue
        for folder in (base / path.lstrip("/"), *(base / path.lstrip("/")).parents):
            text = (folder / limit).read_text().strip() if (folder / limit).is_file() else "max"
            if text != "max" and int(text) < UNLIMITED:
                yield max(0, int(text) - int((folder / used).read_text()) + _files(folder))


def _files(folder: Path) -> int:
    """Bytes of the usage that are copies of files, which give way."""
    found = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
