"""The examples run, as a user would run them."""

import os
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS_DATA = {"census.py"}


def run(python: Path, script: Path, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, script, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.py") if p.name not in NEEDS_DATA))
def test_example_runs_and_says_something(name: str, warm_python: Path) -> None:
    assert run(warm_python, EXAMPLES / name).strip()


def test_census_example_learns_both_tasks(real_data: Path, warm_python: Path) -> None:
    printed = run(warm_python, EXAMPLES / "census.py", str(real_data / "census_income"), "--epochs", "1")
    aucs = [float(line.split()[1]) for line in printed.splitlines() if line.startswith(("income", "never_married"))]
    assert len(aucs) == 4
    assert min(aucs) > 0.9


@pytest.mark.slow
def test_several_processes_print_what_one_prints(warm_python: Path) -> None:
    script = EXAMPLES / "several_processes.py"
    command = [warm_python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == run(warm_python, script)
