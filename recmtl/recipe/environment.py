"""The environment that the last bits of a result depend on: torch, CPU, threads."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import torch


def environment(threads: int | None = None) -> list[str]:
    """Return torch's version, the CPU and the number of threads (by default torch's), a line each."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return [f"torch {torch.__version__}", f"CPU {cpu}", f"{threads or torch.get_num_threads()} threads"]


def environment_changes(recipe: Path, threads: int | None = None) -> Iterator[str]:
    """Yield a note for each line of the environment that differs from the comments at the head of a recipe."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    begun = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    for before, now in zip(begun, environment(threads), strict=False):
        if before != now:
            yield f"the run was begun with {before}, here it is {now}: the last bits may differ"
