"""The README is short, works, and quotes what was recorded."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from docs.generators import balancers, benchmark_tables
from recmtl.cli.catalogue import load_catalogue
from recmtl.comparison.tables import TIED
from tests.docs.blocks import ROOT, Page, blocks_of
from tests.docs.test_pages import quick

TEXT = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.slow
def test_every_block_runs(reader: Callable[[Sequence[str]], Path]) -> None:
    here = reader([])
    Page(quick(TEXT)).run()
    assert (here / "predictions.parquet").exists()
    assert "<h1>" in (here / "report.html").read_text()
    assert (here / "comparisons/first").is_dir()


def test_it_is_short_and_begins_with_two_commands_and_twelve_lines() -> None:
    assert len(TEXT.splitlines()) <= 150
    commands, program, *_ = blocks_of(TEXT)
    assert commands.code.splitlines() == ["$ make demo", "$ make test"]
    assert program.language == "python"
    lines = [line for line in program.code.splitlines() if line.strip()]
    assert len(lines) <= 12
    assert program.line + len(program.code.splitlines()) <= 40


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(links) > 20
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_every_command_and_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)`", TEXT)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in set(re.findall(r"`recmtl (\w+)", TEXT)):
        assert command in load_catalogue(), command


def test_speed_is_quoted_as_measured() -> None:
    """`python -c 'from docs.generators.benchmark_tables import speed_summary as s; print(s())'` prints the table."""
    assert benchmark_tables.speed_summary() in TEXT


def test_what_is_said_of_balancing_is_what_was_recorded() -> None:
    census = (RESULTS / "comparison_census.md").read_text()
    aliexpress = (RESULTS / "comparison_aliexpress.md").read_text()
    transfers = re.findall(r"transfer is (\w+) for (.*?);", census)
    assert transfers == [("negative", "SharedBottom with GradNorm, MMOE with GradNorm")]
    assert "On income, no row can be told apart from single-task training" in census
    every = (RESULTS / "comparison_balancers.md").read_text()
    assert every.count("| SharedBottom |") == 2 * 29
    for task in ("income", "never_married"):
        assert f"{task}: no variant differs significantly from single-task training" in every
        assert f"{task}: no variant differs significantly from the best" in every
    better = re.findall(r"On (\w+), transfer is positive for ESMM with Sum,", aliexpress)
    assert better == ["cvr", "ctcvr"]
    assert re.search(
        r"On ctcvr, 5 rows cannot be told apart from the best, ESMM with PCGrad; 1 row is worse", aliexpress
    )


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("census", {"income": "none", "never_married": "none"}),
        ("aliexpress", {"ctr": "none", "cvr": "SharedBottom with IMTLL", "ctcvr": "none"}),
    ],
)
def test_what_is_said_of_tuned_balancers_is_what_was_recorded(name: str, better: dict[str, str]) -> None:
    table = (RESULTS / f"tuned_{name}.md").read_text()
    trials = re.findall(r"^\| \S+ \| \S+ \| .* \| 5 \| .* \| (\d+) \| ", table, re.M)
    assert trials == ["20"] * (len(balancers.names()) + 1 + 3)  # and single-task training, and baselines
    for task, who in better.items():
        others = 29 - (who != "none")
        same = f"against FixedWeights, {who} better and none worse; {others} variants not significantly different"
        assert f"{task}: {same}" in table
        assert f"{task}: no net differs significantly from single-task training" in table


def test_what_is_said_of_means_and_baselines_beside_tuned_balancers_is_what_was_recorded() -> None:
    census, aliexpress = (tuned_cells(name) for name in ("census", "aliexpress"))
    single, lightgbm, histgb, logistic = "SingleTask with Sum", "lightgbm", "histgb", "logistic"
    for cells, task in ((census, 0), (aliexpress, 0)):
        assert max(cells, key=lambda name: mean(cells[name][task])) == lightgbm
        assert TIED in cells[single][task]
    cvr = {name: mean(cells[1]) for name, cells in aliexpress.items()}
    assert cvr["SharedBottom with FixedWeights"] < cvr["SharedBottom with Sum"] < cvr["SharedBottom with IMTLL"]
    shared = {name for name in cvr if name.startswith("SharedBottom")}
    assert {name for name in shared if cvr[name] <= cvr[single]} == {"SharedBottom with NormalizedSplitter"}
    assert max(cvr, key=lambda name: cvr[name]) == logistic
    assert TIED in aliexpress[single][1]
    to_single = (RESULTS / "tuned_aliexpress.md").read_text().rpartition("FixedWeights, whose")[2]
    significant = {name: re.search(rf"^\| {name} \| – \| (.*) \|$", to_single, re.M) for name in (logistic, histgb)}
    worse = {
        name: [cell.startswith("**−") for cell in found[1].split(" | ")] for name, found in significant.items() if found
    }
    assert worse == {logistic: [True, False, True], histgb: [False, True, False]}


def tuned_cells(name: str) -> dict[str, list[str]]:
    """Return the cells of each row's tasks in the first recorded table of tuned models."""
    table, *_ = (RESULTS / f"tuned_{name}.md").read_text().split("\nMean ± ")
    rows = re.findall(r"^\| (\w+) \| (\w+|–) \| (.*?) \| 5 \| ", table, re.M)
    return {model if own == "–" else f"{model} with {own}": cells.split(" | ") for model, own, cells in rows}


def mean(cell: str) -> float:
    """Return the mean in a cell such as `0.7998 ± 0.0022`."""
    return float(cell.strip("*").split(" ± ")[0])


def test_the_number_of_balancers_is_that_of_their_pages() -> None:
    assert f" {len(balancers.names())} in all: " in TEXT
