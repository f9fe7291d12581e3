"""Each method does what it claims on a problem planted for it, over ten seeds; the README quotes what was measured."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from benchmarks import claims
from benchmarks.claims import PLAIN, PROBLEMS, SEEDS, Difference, measure, train

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "claims.json").read_text())["results"]
SECTION = (ROOT / "README.md").read_text().split("### When balancing helps")[1].split("\n#")[0]


@pytest.mark.slow
def test_bringing_gradients_to_one_size_helps_the_small_task() -> None:
    results = measure(PROBLEMS["scale"], ["MetaBalance(target=1)", "NormalizedSplitter", "GradNorm(lr=0.1)"])
    for name, row in results.items():
        assert len(row.errors) == len(SEEDS) == 10
        if name != PLAIN:
            assert row.first.verdict == "better", name
            assert row.mean[0] < 0.5 * results[PLAIN].mean[0], name
            assert row.both.verdict == "better", name  # the large task pays less than the small one gains


@pytest.mark.slow
def test_projecting_conflicts_helps_the_weaker_of_two_opposed_tasks() -> None:
    row = measure(PROBLEMS["opposed"], ["PCGrad"])["PCGrad"]
    assert (row.first.verdict, row.second.verdict, row.both.verdict) == ("better", "worse", "better")


@pytest.mark.slow
def test_rotations_let_two_rotated_copies_share_one_representation() -> None:
    results = measure(PROBLEMS["rotated"], ["RotateOnly", "RotoGrad"])
    for name in ("RotateOnly", "RotoGrad"):
        row = results[name]
        assert (row.first.verdict, row.second.verdict) == ("better", "better"), name
        assert row.cosines[1] > 0 > results[PLAIN].cosines[1], name


def test_without_conflict_projecting_is_the_plain_sum() -> None:
    agreeing = dataclasses.replace(PROBLEMS["opposed"], labels=lambda x: x[:, None, :1].expand(-1, 2, -1), steps=20)
    plain, projected = (train(agreeing, claims.METHODS[name], seed=0) for name in (PLAIN, "PCGrad"))
    assert min(plain.cosines) > 0.5
    assert projected.errors == pytest.approx(plain.errors, rel=1e-9)


@pytest.mark.parametrize("name", claims.METHODS)
def test_a_seed_decides_everything(name: str) -> None:
    short = dataclasses.replace(PROBLEMS["scale"], steps=10)
    assert train(short, claims.METHODS[name], seed=3) == train(short, claims.METHODS[name], seed=3)
    assert train(short, claims.METHODS[name], seed=3) != train(short, claims.METHODS[name], seed=4)


def test_every_seed_of_every_method_is_on_record() -> None:
    assert RESULTS.keys() == PROBLEMS.keys()
    for name, problem in PROBLEMS.items():
        recorded = RESULTS[name]["methods"]
        assert {PLAIN, *problem.variants} <= recorded.keys() <= {*claims.METHODS, *problem.variants}
        assert all(len(row["errors"]) == len(SEEDS) for row in recorded.values())


def quoted(problem: dict, method: str) -> list[str]:
    """A row of the README's table, as the record has it."""
    row = problem["methods"][method]
    cells = [problem["title"], f"`{method}`"]
    for task, key in enumerate(("first", "second")):
        difference = Difference(**row[key])
        paired = f" ({difference.mean:+z.3f} ± {difference.half:.3f})".replace("-", "−")
        cells.append(f"{row['mean'][task]:.3f}" + (paired if method != PLAIN else ""))
    return [*cells, " → ".join(f"{cosine:+z.2f}" for cosine in row["cosines"]).replace("-", "−")]


def test_the_readme_quotes_what_was_measured() -> None:
    lines = [line for line in SECTION.splitlines() if line.startswith("|")][2:]
    titles = {problem["title"]: problem for problem in RESULTS.values()}
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {row[0] for row in found} == titles.keys()
    for row in found:
        assert row == quoted(titles[row[0]], row[1].strip("`"))


def test_the_readme_quotes_figures_in_its_table_alone() -> None:
    prose = "\n".join(line for line in SECTION.splitlines() if not line.startswith("|"))
    assert not re.search(r"[−+]?\d\.\d{3}", prose)
