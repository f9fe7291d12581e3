"""CPUs that a process may use, OpenMP's defaults, and a busy machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recmtl.io import machine

ROOT = Path(__file__).parents[2]


def planted(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "7:memory:/\n3:cpu,cpuacct:/docker/abc\n"
LIMITS = {
    "none": ({}, []),
    "version 2": ({"proc/self/cgroup": "0::/mine\n", "sys/fs/cgroup/mine/cpu.max": "150000 100000\n"}, [1.5]),
    "version 2, none": ({"proc/self/cgroup": "0::/mine\n", "sys/fs/cgroup/mine/cpu.max": "max 100000\n"}, []),
    "version 2, limited above": (
        {
            "proc/self/cgroup": "0::/pod/mine\n",
            "sys/fs/cgroup/pod/mine/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "50000 25000\n",
        },
        [4.0, 2.0],
    ),
    "version 2, seen from within a namespace": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"},
        [0.2],
    ),
    "version 1, mounted at the container's own": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        [3.0],
    ),
    "version 1, under the controller's name": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        [1.0],
    ),
    "damaged": ({"proc/self/cgroup": "0::/mine\n", "sys/fs/cgroup/mine/cpu.max": "many\n"}, []),
    "damaged list": ({"proc/self/cgroup": "?\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, []),
    "a period of 0": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, []),
}


@pytest.mark.parametrize(("files", "limits"), LIMITS.values(), ids=LIMITS.keys())
def test_limits_of_cgroups(files: dict[str, str], limits: list[float], tmp_path: Path) -> None:
    assert list(machine.cgroup_cpus(planted(tmp_path, files))) == limits


@pytest.mark.parametrize(("quota", "usable"), [("max", 8), ("800000", 8), ("3200000", 8), ("150000", 2), ("10000", 1)])
def test_usable_cpus_are_the_fewer_of_affinity_and_limit(
    quota: str, usable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}
    assert machine.usable_cpus(planted(tmp_path, files)) == usable


def test_affinity_counts_without_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert machine.usable_cpus(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_cpus(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cpus(tmp_path) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2"}),
        ({"OMP_NUM_THREADS": "5"}, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "5"}),
    ],
)
def test_openmp_defaults_leave_what_the_user_set(
    given: dict[str, str], expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    root = planted(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"})
    machine.set_openmp_defaults(root)
    assert environment == given  # torch is loaded: it is too late
    monkeypatch.delitem(sys.modules, "torch")
    machine.set_openmp_defaults(root)
    assert environment == expected


def test_the_number_of_threads_is_left_to_openmp_without_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.delitem(sys.modules, "torch")
    machine.set_openmp_defaults(tmp_path)
    assert environment == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("code", "given", "policy"),
    [
        ("import recmtl, torch", {}, "passive"),
        ("import recmtl.balance", {}, "passive"),
        ("import recmtl.cli.main", {}, "passive"),
        ("import recmtl", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("import sys; sys.modules['torch'] = None; import recmtl", {}, "None"),
    ],
)
def test_recmtl_sets_the_policy_before_torch_is_loaded(code: str, given: dict[str, str], policy: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    shown = f"{code}; import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run(
        [sys.executable, "-c", shown], env=inherited | given, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == policy


def test_processes_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 7)
    monkeypatch.setattr(machine, "THREADS_GIVEN", False)
    shared = [machine.threads_variable(processes) for processes in (1, 2, 7, 9)]
    assert shared == [{}, {"OMP_NUM_THREADS": "3"}, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}]
    monkeypatch.setattr(machine, "THREADS_GIVEN", True)
    assert machine.threads_variable(2) == {}


def planted_load(monkeypatch: pytest.MonkeyPatch, load: float, own_seconds: float, age: float, number: int) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(time, "process_time", lambda: own_seconds)
    monkeypatch.setattr(machine, "process_age", lambda: age)
    monkeypatch.setattr(os, "cpu_count", lambda: number)


def test_the_load_of_others_is_without_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    planted_load(monkeypatch, 3.0, own_seconds=30.0, age=20.0, number=4)
    assert machine.load_of_others() == 2.5  # 30 of the last 60 seconds of a CPU
    planted_load(monkeypatch, 3.0, own_seconds=240.0, age=120.0, number=4)
    assert machine.load_of_others() == 1.0  # two CPUs all the time
    planted_load(monkeypatch, 0.5, own_seconds=60.0, age=60.0, number=4)
    assert machine.load_of_others() == 0.0


def test_a_busy_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    planted_load(monkeypatch, 1.2, own_seconds=0.0, age=0.0, number=2)
    two = "the machine is busy: other work keeps 1.2 of 2 CPUs busy, this training takes 2 threads; "
    two += "`threads` 1 leaves room"
    assert machine.busy_warning(2) == two
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert machine.busy_warning(2) == (
        f"{two}; they wait actively, which is far slower then: import recmtl before torch"
    )
    planted_load(monkeypatch, 5.0, own_seconds=0.0, age=0.0, number=2)
    assert machine.busy_warning(1) == (
        "the machine is busy: other work keeps 2.0 of 2 CPUs busy (its load is 5.0), this training takes 1 thread"
    )
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert str(machine.busy_warning(2)).endswith("this training takes 2 threads")  # one would have no room either


def test_more_threads_than_cpus_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 4)
    assert [machine.threads_warning(*given) for given in ((1,), (4,), (1, 9), (2, 2))] == [None] * 4
    assert machine.threads_warning(999) == (
        "999 threads are more than this machine's 4 usable CPUs, which is slower: set `trainer.run.threads` to 4"
    )
    assert machine.threads_warning(4, 2) == (
        "4 threads in each of 2 processes are more than this machine's 4 usable CPUs, which is slower: "
        "set `trainer.run.threads` to 2"
    )


@pytest.mark.parametrize(
    ("load", "threads", "processes"), [(0.0, 2, 1), (0.4, 2, 1), (1.2, 1, 1), (2.0, 1, 2), (2.0, 2, 1)]
)
def test_a_free_machine_is_not_warned_of(
    load: float, threads: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the load is 2, it is that of the training's own processes, which prepared the rows."""
    planted_load(monkeypatch, load, own_seconds=60.0 * load / processes, age=60.0, number=2)
    assert machine.load_of_others(processes) == 0.0
    assert machine.busy_warning(threads, processes) is None
    planted_load(monkeypatch, min(load, 1.2), own_seconds=0.0, age=60.0, number=4)
    assert machine.busy_warning(threads, processes) is None


def test_an_unknown_load_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert machine.load_of_others() is None
    assert machine.busy_warning(64) is None


def test_the_age_of_this_process_grows() -> None:
    first = machine.process_age()
    time.sleep(0.05)
    assert 0.04 <= machine.process_age() - first < 60
