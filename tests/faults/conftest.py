"""Fixtures of the fault suite: a server that forks processes, rows to train on, and a count of faults survived."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from forker import Forker
from subject import OPTIONS, Subject, data

from recmtl.data.synthetic.generate import synthesize

COLUMNS = ("tried", "survived")


class Tally:
    """The number of faults that a test injects and that are survived, and the largest loss.

    Args:
        fault: The kind of fault.
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
    """Return the counter of the fault that the mark `fault` names."""
    counted = Tally(request.node.get_closest_marker("fault").args[0])
    request.node.user_properties.append(("fault", counted.counts))
    return counted


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name): the line that a test counts for in the table of faults")


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


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """Start the server that forks the commands of the tests."""
    server = Forker(tmp_path_factory.mktemp("forker"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write train, valid and test CSV files of 3,000 rows in all."""
    folder = tmp_path_factory.mktemp("rows")
    synthesize(folder, 3000, seed=1, click_rate=0.2, conversion_rate=0.3)
    return folder


@pytest.fixture
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator seeded by the test's name."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def training(forker: Forker, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    options = [
        "train",
        "--model",
        "MMOE",
        "--model.experts",
        "2",
        "--model.style.dropout",
        "0.1",
        "--balancer",
        "PCGrad",
        *data(rows),
        *OPTIONS,
    ]
    place = tmp_path_factory.mktemp("training")
    return Subject(forker, place, lambda p: [*options, "--run", p], lambda p: [*options, "--run", p, "--resume"])


@pytest.fixture(scope="session")
def continuing(forker: Forker, rows: Path, training: Subject, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    files = ["--data.train", rows / "valid.csv", "--data.test", rows / "test.csv"]
    options = ["train", "--continue", training.whole, *files]
    place = tmp_path_factory.mktemp("continuing")
    return Subject(forker, place, lambda p: [*options, "--run", p], lambda p: [*options, "--run", p, "--resume"])


@pytest.fixture(scope="session")
def preparing(forker: Forker, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    files = ["--train", rows / "train.csv", "--test", rows / "test.csv"]

    def command(path: Path) -> list[object]:
        return ["prepare", "--card", "aliexpress", *files, "--out", path]

    return Subject(forker, tmp_path_factory.mktemp("preparing"), command, command)


@pytest.fixture(scope="session")
def tuning(forker: Forker, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    place = tmp_path_factory.mktemp("tuning")
    space = place / "space.yaml"
    space.write_text(
        "trainer.optimization.optimizer.lr: {low: 0.0005, high: 0.02, log: true}\nbalancer: [Sum, PCGrad]\n"
    )
    options = ["--trainer.epochs", "1", "--search", space, "--trials", "4", "--model", "SharedBottom"]

    def command(path: Path) -> list[object]:
        return ["tune", *data(rows), *OPTIONS, *options, "--out", path]

    return Subject(forker, place, command, command)


@pytest.fixture(scope="session")
def comparing(forker: Forker, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    grid = ["--trainer.epochs", "1", "--models", "SharedBottom", "MMOE", "--seeds", "1", "--balancers", "MetaBalance"]

    def command(path: Path) -> list[object]:
        return ["compare", *data(rows), *OPTIONS, *grid, "--out", path]

    return Subject(forker, tmp_path_factory.mktemp("comparing"), command, command)
