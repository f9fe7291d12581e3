"""Steps reuse the memory that the last one freed."""

import subprocess
import sys

import pytest

from recmtl.io.machine import keep_freed_memory

COUNTED = """
import resource, torch
from recmtl.io.machine import keep_freed_memory
assert keep_freed_memory()
def step():
    blocks = [torch.ones(1 << 19) for _ in range(8)]  # 2 MiB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults() -> int:
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_steps_reuse_freed_memory() -> None:
    """Twenty steps touch 81,920 pages; C libraries without the setting are not tested."""
    assert not keep_freed_memory() or faults() < 1000


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
