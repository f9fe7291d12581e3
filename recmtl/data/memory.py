"""How much memory there is for rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

UNLIMITED = 1 << 60


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
