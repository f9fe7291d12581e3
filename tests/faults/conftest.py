"""What the fault suite shares: a server that forks processes, rows to train on, and the count of what was survived."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recmtl.data.synth import synthesize

LIMIT = 60.0  # seconds that a command has
FORKING = Path(__file__).with_name("forking.py")
COLUMNS = ("tried", "survived")


class Tally:
    """Counts the faults that a test tries and those that are survived, and keeps what was lost at most.

    Args:
        fault: What is tried.
    """

    def __init__(self, fault: str) -> None:
        self.counts = {"fault": fault, "tried": 0, "survived": 0, "lost": 0, "unit": ""}

    def tried(self, number: int = 1) -> None:
        self.counts["tried"] += number

    def survived(self, number: int = 1, lost: int = 0, unit: str = "") -> None:
        self.counts["survived"] += number
        self.counts["lost"] = max(self.counts["lost"], lost)
        self.counts["unit"] = unit or self.counts["unit"]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Count for the line of the table that the mark `fault` names."""
    counted = Tally(request.node.get_closest_marker("fault").args[0])
    request.node.user_properties.append(("fault", counted.counts))
    return counted


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name): the line of the table of faults that a test counts for")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of faults."""
    lines: dict[str, dict[str, object]] = {}
    for reports in ("passed", "failed", "xfailed"):
        for report in terminalreporter.stats.get(reports, []):
            for counts in (dict(c) for name, c in report.user_properties if name == "fault" and report.when == "call"):
                line = lines.setdefault(counts["fault"], {**counts, "tried": 0, "survived": 0, "lost": 0})
                line |= {name: line[name] + counts[name] for name in COLUMNS}
                line |= {"lost": max(line["lost"], counts["lost"]), "unit": line["unit"] or counts["unit"]}
    if lines:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'fault':<58}{'tried':>6}{'survived':>10}  lost at most")
    for fault, line in sorted(lines.items()):
        lost = f"{line['lost']} {line['unit']}" if line["unit"] else "nothing"
        terminalreporter.write_line(f"{fault:<58}{line['tried']:>6}{line['survived']:>10}  {lost}")


class Job:
    """A command that runs in a process of its own.

    Args:
        server: The server that forked it.
        folder: Where its output is.
    """

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server, self._folder = server, folder
        self.pid = int(server.stdout.readline())
        self.started = time.monotonic()

    def kill(self, seconds: float, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and those that it started, once it has run so long."""
        time.sleep(max(0.0, seconds - (time.monotonic() - self.started)))
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # it has ended, or is not a group yet
            os.kill(self.pid, number) if Path(f"/proc/{self.pid}").exists() else None

    def wait(self) -> int:
        """Give the exit status; a command that takes too long is killed."""
        killer = subprocess.Popen([sys.executable, "-S", "-c", KILLER, str(LIMIT), str(self.pid)])
        status = int(self._server.stdout.readline())
        killer.kill()
        killer.wait()
        self.seconds = time.monotonic() - self.started
        return status

    @property
    def said(self) -> str:
        """What it wrote to its standard error."""
        return (self._folder / "error.txt").read_text(errors="replace")


KILLER = "import os, sys, time; time.sleep(float(sys.argv[1])); os.killpg(int(sys.argv[2]), 9)"


class Forker:
    """Starts commands, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(folder / "mpl")}
        self._server = subprocess.Popen(
            [sys.executable, str(FORKING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, *arguments: object, **faults: object) -> Job:
        """Start a command; what may be planted in it says `forking.run`."""
        cache = faults.pop("cache", self._folder / "cache")
        files = {"output": str(self._folder / "output.txt"), "error": str(self._folder / "error.txt")}
        job = {"arguments": [str(a) for a in arguments], "environment": {"RECMTL_CACHE": str(cache)}} | files | faults
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return Job(self._server, self._folder)

    def run(self, *arguments: object, **faults: object) -> Job:
        """Run a command to its end."""
        job = self.start(*arguments, **faults)
        job.status = job.wait()
        return job

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """Start the server of these tests."""
    server = Forker(tmp_path_factory.mktemp("forker"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, valid and test CSV of 3,000 rows in all."""
    folder = tmp_path_factory.mktemp("rows")
    synthesize(folder, 3000, seed=1, click_rate=0.2, conversion_rate=0.3)
    return folder


@pytest.fixture
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    """Give numbers that are the same each time, and others for each test."""
    return np.random.default_rng(list(request.node.nodeid.encode()))
