"""The machine that this process has: its memory and CPUs, their limits, other work on it, and errors of memory."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from recmtl.errors import OutOfMemoryError

UNLIMITED = 1 << 60
# Limit and usage, by the version of cgroups.
CGROUP_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
# What a process may use at most (`ulimit -v`, `ulimit -d`), and the line of /proc/self/status that says what it uses.
OWN_LIMITS = {resource.RLIMIT_AS: "VmSize", resource.RLIMIT_DATA: "VmData"}
# Messages of torch when an allocation fails, or its size overflows. They also identify `torch.OutOfMemoryError`.
REFUSED = re.compile(r"can't allocate memory|not enough memory|out of memory|[Oo]verflow")
WAIT_POLICY, NUM_THREADS = "OMP_WAIT_POLICY", "OMP_NUM_THREADS"
THREADS_GIVEN = bool(os.environ.get(NUM_THREADS))  # by the user or a launcher, before recmtl was imported
LOAD_SECONDS = 60.0  # over which the first load average is taken
FREE_SHARE = 0.75  # of its threads that a run finds a CPU for on a machine that is not busy
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
KEPT_BYTES, MMAP_BYTES = 1 << 30, 32 << 20  # the second is the maximum that glibc accepts
Version = Literal[1, 2]


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


def available_memory(processes: int = 1) -> int:
    """Return the bytes that this process can still allocate, one of so many that work alike on this machine.

    It is a share of the free system memory, or of what a cgroup leaves if it is limited; or less if the process itself
    is limited (`ulimit -v`, `ulimit -d`).
    """
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.is_file() else None
    shared = min([int(found[1]) * 1024 if found else UNLIMITED, *_left_in_cgroups(Path("/"))])
    return min([shared // processes, *_left_of_own_limits()])


def _left_of_own_limits() -> Iterator[int]:
    """Yield what the limits of this process itself leave it."""
    for limit, name in OWN_LIMITS.items():
        most, used = resource.getrlimit(limit)[0], _process_status(name)
        if most != resource.RLIM_INFINITY and used is not None:
            yield max(0, most - used)


def _process_status(name: str) -> int | None:
    """Return the bytes in a line of /proc/self/status; ``None`` where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Yield what the memory limits of the process's cgroups and their parents leave."""
    for folder, version in cgroup_folders("memory", root):
        limit, used = CGROUP_FILES[version]
        text = (folder / limit).read_text().strip() if (folder / limit).is_file() else "max"
        if text != "max" and int(text) < UNLIMITED:
            yield max(0, int(text) - int((folder / used).read_text()) + _page_cache(folder))


def _page_cache(folder: Path) -> int:
    """Return the bytes of a cgroup's usage that are cached files, which the kernel can drop."""
    found = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def peak_memory() -> int:
    """Return the peak resident memory in bytes; `getrusage` includes that of the program that started the process."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = _process_status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if peak is None else peak


def cgroup_folders(controller: str, root: Path) -> Iterator[tuple[Path, Version]]:
    """Yield the folders that may limit this process, with the version of cgroups: its own and those above it.

    Args:
        controller: What is limited: ``memory`` or ``cpu``.
        root: The folder that holds ``proc`` and ``sys``; ``/`` outside of tests.
    """
    listing, base = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []:
        number, controllers, path = line.split(":", 2)
        version: Version = 2
        mount = base
        if controller in controllers.split(","):
            version = 1
            mount = next(filter(Path.is_dir, (base / controllers, base / controller)), base / controller)
        elif number != "0":
            continue
        folder = mount / path.lstrip("/")
        for each in (folder, *folder.parents):
            yield each, version
            if each == base:
                break


def set_openmp_defaults(root: Path = Path("/")) -> None:
    """Let OpenMP's threads wait passively, and start no more of them than a container's CPU limit allows.

    OpenMP reads these variables of the environment when torch is loaded, so nothing is set after that. What the user
    set stays. By default OpenMP's threads wait for each other in busy loops, which takes the CPU from the thread that
    they wait for as soon as another process runs. Processes started from this one inherit the variables.
    """
    if "torch" in sys.modules:
        return
    os.environ.setdefault(WAIT_POLICY, "passive")
    cpus = usable_cpus(root)
    if NUM_THREADS not in os.environ and cpus < allowed_cpus():
        os.environ[NUM_THREADS] = str(cpus)


def threads_variable(processes: int) -> dict[str, str]:
    """Return the variable that shares the CPUs among processes; none for one, or if a number of threads was given."""
    if processes == 1 or THREADS_GIVEN:
        return {}
    return {NUM_THREADS: str(max(1, usable_cpus() // processes))}


def waits_passively() -> bool:
    """Return whether OpenMP's threads sleep while they wait, by the environment."""
    return os.environ.get(WAIT_POLICY, "").strip().lower() == "passive"


def allowed_cpus() -> int:
    """Return the number of CPUs that this process may run on, without the time limit of a container."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def usable_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs that this process can keep busy: affinity and the CPU limits of its cgroups.

    A limit of 1.5 CPUs counts as 2.
    """
    return max(1, min([allowed_cpus(), *(math.ceil(limit) for limit in cgroup_cpus(root))]))


def cgroup_cpus(root: Path) -> Iterator[float]:
    """Yield the limits of CPU time of the process's cgroups, in CPUs; a limit that cannot be read is none."""
    try:
        folders = list(cgroup_folders("cpu", root))
    except (OSError, ValueError):
        return
    for folder, version in folders:
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            else:
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                quota, period = ((folder / name).read_text(encoding="utf-8").strip() for name in files)
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def load_of_others(processes: int = 1) -> float | None:
    """Return the number of CPUs that other work kept busy in the last minute; ``None`` if it is not known.

    It is the machine's load average without the CPU time of this process, and of those that share its training.
    """
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
    own = time.process_time() / max(LOAD_SECONDS, process_age())
    return max(0.0, load - processes * own)


def process_age() -> float:
    """Return the seconds since this process started; 0 if they are not known."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), in ticks since boot
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def threads_warning(threads: int, processes: int = 1) -> str | None:
    """Return a warning if the threads of the training's processes on this machine are more than the usable CPUs."""
    cpus = usable_cpus()
    if threads == 1 or threads * processes <= cpus:
        return None
    taken = f"{threads} threads" if processes == 1 else f"{threads} threads in each of {processes} processes"
    advice = f"set `trainer.run.threads` to {max(1, cpus // processes)}"
    return f"{taken} are more than this machine's {cpus} usable CPU{'s' if cpus > 1 else ''}, which is slower: {advice}"


def busy_warning(threads: int, processes: int = 1) -> str | None:
    """Return a warning if other work leaves too few CPUs to the threads of each of the training's processes."""
    cpus, others = os.cpu_count() or 1, load_of_others(processes)
    taken = threads * processes
    if others is None or cpus - others >= FREE_SHARE * taken:
        return None
    load = f" (its load is {others:.1f})" if others > cpus else ""
    warning = f"the machine is busy: other work keeps {min(others, cpus):.1f} of {cpus} CPUs busy{load}, this training "
    warning += f"takes {taken} thread{'s' if taken > 1 else ''}"
    fewer = max(1, math.floor((cpus - others) / processes))
    room = cpus - others >= FREE_SHARE * fewer * processes
    warning += f"; `threads` {fewer} leaves room" if fewer < threads and room else ""
    active = threads > 1 and not waits_passively()
    return warning + ("; they wait actively, which is far slower then: import recmtl before torch" if active else "")


def keep_freed_memory() -> bool:
    """Let malloc keep up to 1 GiB of freed memory for the next allocations.

    A training step frees what the next one allocates, as does the preparation of a batch of rows. By default glibc
    returns large blocks to the system each time, which hands them back page by page, cleared: milliseconds per step.

    Returns:
        Whether the C library accepted the setting; those other than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {MMAP_THRESHOLD: MMAP_BYTES, TRIM_THRESHOLD: KEPT_BYTES}
    return mallopt is not None and all(mallopt(name, value) for name, value in settings.items())
