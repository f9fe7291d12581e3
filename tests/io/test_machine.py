"""Free memory as the system's files report it."""

import resource
from pathlib import Path

import pytest

from recmtl.io.machine import OWN_LIMITS, _left_in_cgroups, _process_status, available_memory

MEBI = 1 << 20


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, []),
        (
            {
                "proc/self/cgroup": "0::/jobs/mine\n",
                "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
                "sys/fs/cgroup/jobs/memory.max": f"{100 * MEBI}\n",
                "sys/fs/cgroup/jobs/memory.current": f"{70 * MEBI}\n",
                "sys/fs/cgroup/jobs/memory.stat": f"anon 5\ninactive_file {10 * MEBI}\n",
            },
            [40 * MEBI],
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,memory:/mine\n0::/\n",
                "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": f"{100 * MEBI}\n",
                "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": f"{130 * MEBI}\n",
                "sys/fs/cgroup/memory/mine/memory.stat": f"total_inactive_file {10 * MEBI}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            [0],
        ),
    ],
    ids=["none", "second version, limited above", "first version, overdrawn"],
)
def test_memory_left_by_cgroups(files: dict[str, str], left: list[int], tmp_path: Path) -> None:
    assert list(_left_in_cgroups(written(tmp_path, files))) == left


def test_available_memory_is_plausible() -> None:
    assert MEBI < available_memory() < 1 << 50
    assert available_memory(4) == pytest.approx(available_memory() / 4, rel=0.1)


@pytest.mark.parametrize(("limit", "used"), OWN_LIMITS.items())
def test_own_limits_count(limit: int, used: str) -> None:
    """Those of a process are its own, however many work beside it."""
    before, taken = resource.getrlimit(limit), _process_status(used)
    assert taken is not None
    try:
        resource.setrlimit(limit, (taken + 256 * MEBI, before[1]))
        found = available_memory(), available_memory(3)
    finally:
        resource.setrlimit(limit, before)
    assert all(192 * MEBI <= each <= 256 * MEBI for each in found)
