"""Free memory, and errors that name what memory was needed for."""

from __future__ import annotations

import errno
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recmtl.errors import OutOfMemoryError

UNLIMITED = 1 << 60
# Messages of torch when an allocation fails, or its size overflows. They also identify `torch.OutOfMemoryError`.
REFUSED = re.compile(r"can't allocate memory|not enough memory|out of memory|[Oo]verflow")


@contextmanager
def explain_oom(what: str, advice: str = "") -> Iterator[None]:
    """Turn a failed allocation into an `OutOfMemoryError`; the innermost of nested blocks says what it was for."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError, TypeError, OSError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        size = re.search(r"allocate ([\d.]+ \w+)", reason)
        more = f" ({size[1]} more)" if size else ""
        raise OutOfMemoryError(f"memory does not hold {what}{more}{advice and ': '}{advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or REFUSED.search(str(error)) is not None


def available_memory() -> int:
    """Return the bytes that this process can still allocate: free system memory, or less if a cgroup limits it."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.is_file() else None
    return min([int(found[1]) * 1024 if found else UNLIMITED, *_left_in_cgroups(Path("/"))])


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Yield what the memory limits of the process's cgroups and their parents leave."""
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
                yield max(0, int(text) - int((folder / used).read_text()) + _page_cache(folder))


def _page_cache(folder: Path) -> int:
    """Return the bytes of a cgroup's usage that are cached files, which the kernel can drop."""
    found = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def peak_memory() -> int:
    """Return the peak resident memory in bytes; `getrusage` includes that of the program that started the process."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    unit = 1 if sys.platform == "darwin" else 1024
    return kilobytes[0] * 1024 if kilobytes else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
