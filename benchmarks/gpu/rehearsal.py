"""A rehearsal on a CPU: stand-ins for `torch.cuda`, so that the lines that a GPU would run are run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from recmtl.balance import backward, shared
from recmtl.features import table_rows
from recmtl.layers import experts

TESTS = Path(__file__).parents[2] / "tests"
STANDING_IN = {
    "max_memory_allocated": 0,
    "memory_allocated": 0,
    "reset_peak_memory_stats": None,
    "get_device_name": "stand-ins on a CPU",
    "get_device_properties": "stand-ins on a CPU",
}


def stand_in(patch: Any = None) -> None:
    """Put stand-ins in the place of `torch.cuda`, and let no step look at values.

    A record repeats the operations of a step one by one, and refuses those that a GPU would have to wait for.

    Args:
        patch: pytest's `monkeypatch`, which takes the stand-ins away again; by default they stay in this process.
    """
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    patch = patch or importlib.import_module("pytest").MonkeyPatch()
    importlib.import_module("cuda_stand_in").CudaStandIn(patch)
    for name, value in STANDING_IN.items():
        patch.setattr(torch.cuda, name, lambda *_, value=value: value)
    for module in (backward, shared, experts):
        patch.setattr(module, "on_host", lambda _: False)
    patch.setattr(table_rows, "distinct_ids", table_rows.padded)
