"""What the bits of a run depend on beside its recipe."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import torch


def environment() -> list[str]:
    """Say what the bits of a run depend on beside its recipe."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return [f"torch {torch.__version__}", f"CPU {cpu}", f"{torch.get_num_threads()} threads"]


def changes(recipe: Path) -> Iterator[str]:
    """Say what of it is not as the comments at the head of a recipe say.

    Args:
        recipe: The recipe of a run.
    """
    lines = recipe.read_text(encoding="utf-8").splitlines()
    begun = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    for before, now in zip(begun, environment(), strict=False):
        if before != now:
            yield f"the run was begun with {before}, here it is {now}: the last bits may differ"
