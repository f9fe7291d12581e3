"""Each method does what it claims on a problem planted for it, over three seeds; the record of ten is complete."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import claims, claims_pareto, claims_problems
from benchmarks.claims import PLAIN, PROBLEMS, SEEDS, measure, train
from benchmarks.claims_problems import CLAIMS, opposed
from docs.generators import claims_tables

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "claims.json").read_text())
RESULTS = RECORD["results"]


@pytest.fixture
def three_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds enough where a difference is many times as large as its interval."""
    monkeypatch.setattr(claims, "SEEDS", range(3))
    monkeypatch.setattr(claims, "T_95", 4.303)  # of Student's t with 2 degrees of freedom


def verdicts(problem: str, name: str) -> tuple[str, str, str]:
    """The verdicts on record, over ten seeds: of the first task, the second, and both."""
    row = RESULTS[problem]["methods"][name]
    first, second, both = (claims.Difference(**row[part]).verdict for part in ("first", "second", "both"))
    return first, second, both


@pytest.mark.slow
@pytest.mark.usefixtures("three_seeds")
def test_bringing_gradients_to_one_size_helps_the_small_task() -> None:
    results = measure(
        PROBLEMS["scale"], ["MetaBalance(target=1)", "NormalizedSplitter", "GradNorm(lr=0.1)"], claims.SEEDS
    )
    for name, row in results.items():
        assert len(row.errors) == 3
        if name != PLAIN:
            assert row.first.verdict == "better", name
            assert row.mean[0] < 0.5 * results[PLAIN].mean[0], name
            assert row.both.verdict == "better", name  # the large task pays less than the small one gains
            assert verdicts("scale", name)[::2] == ("better", "better"), name


@pytest.mark.slow
@pytest.mark.usefixtures("three_seeds")
def test_projecting_conflicts_helps_the_weaker_of_two_opposed_tasks() -> None:
    row = measure(PROBLEMS["opposed"], ["PCGrad"], claims.SEEDS)["PCGrad"]
    assert (row.first.verdict, row.second.verdict, row.both.verdict) == ("better", "worse", "better")
    assert verdicts("opposed", "PCGrad") == ("better", "worse", "better")


@pytest.mark.slow
@pytest.mark.usefixtures("three_seeds")
def test_rotations_let_two_rotated_copies_share_one_representation() -> None:
    results = measure(PROBLEMS["rotated"], ["RotateOnly", "RotoGrad"], claims.SEEDS)
    for name in ("RotateOnly", "RotoGrad"):
        row = results[name]
        assert (row.first.verdict, row.second.verdict) == ("better", "better"), name
        assert verdicts("rotated", name)[:2] == ("better", "better"), name
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
        assert {PLAIN, *problem.methods, *problem.variants} <= recorded.keys() <= {*claims.METHODS, *problem.variants}
        assert all(len(row["errors"]) == len(SEEDS) for row in recorded.values())


def test_every_method_is_measured_on_the_problems_that_it_is_for() -> None:
    assert CLAIMS.keys() == claims.METHODS.keys()
    assert {name: tuple(problems) for name, problems in RECORD["claims"].items()} == CLAIMS
    for name, problems in CLAIMS.items():
        for problem in problems:
            measured = RECORD["pareto"]["methods"] if problem == "pareto" else RESULTS[problem]["methods"]
            assert name in measured, (name, problem)
    assert all(len(row["distances"]) == len(SEEDS) for row in RECORD["pareto"]["methods"].values())


def test_what_is_on_record_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[claims_problems.Method] = []

    def noted(_: claims_problems.Problem, method: claims_problems.Method, seed: int) -> claims.Outcome:
        trained.append(method)
        return claims.Outcome((seed + len(trained), 2.0), (0.5, -0.5))

    def methods(problem: claims_problems.Problem) -> dict[str, Any]:
        monkeypatch.setattr(claims, "PROBLEMS", {"opposed": problem})
        claims.main()
        recorded: dict[str, Any] = json.loads(file.read_text())["results"]["opposed"]["methods"]
        return recorded

    file = tmp_path / "claims.json"
    monkeypatch.setattr(claims, "train", noted)
    monkeypatch.setattr(claims, "measure_pareto", lambda names: {name: {} for name in names})
    monkeypatch.setattr("sys.argv", ["claims", "--json", str(file)])
    before = dataclasses.replace(PROBLEMS["opposed"], methods=("PCGrad",), variants={})
    first = methods(before)
    second = methods(dataclasses.replace(before, methods=("PCGrad", "MGDA")))
    assert trained == [claims.METHODS[name] for name in (PLAIN, "PCGrad", "MGDA") for _ in SEEDS]
    assert list(second) == [PLAIN, "PCGrad", "MGDA"]
    assert {name: second[name] for name in first} == first
    assert second["MGDA"]["first"]["mean"] == 20.0  # two times ten trainings after `Sum`
    with pytest.raises(ValueError, match="`steps` of problem 'opposed' is 3, but 400 on record"):
        methods(dataclasses.replace(before, steps=3))


def test_one_task_wants_the_opposite_of_all_others() -> None:
    torch.manual_seed(0)
    labels = opposed(torch.randn(50, 16, dtype=torch.float64), others=4).squeeze(2)  # [B, 5]
    assert labels.shape == (50, 5)
    torch.testing.assert_close(labels[:, 1:], labels[:, 1:2].expand(-1, 4))
    agreed, disputed = (labels[:, 0] + labels[:, 1]) / 2, (labels[:, 0] - labels[:, 1]) / 2
    assert 0.5 < agreed.var() / disputed.var() < 2


def test_the_two_losses_are_those_of_the_paper() -> None:
    def by_hand(x: float, y: float) -> tuple[float, float]:
        c1, c2 = max(math.tanh(0.5 * y), 0), max(math.tanh(-0.5 * y), 0)
        f1 = math.log(max(abs(0.5 * (-x - 7) - math.tanh(-y)), 5e-6)) + 6
        f2 = math.log(max(abs(0.5 * (-x + 3) + math.tanh(-y) + 2), 5e-6)) + 6
        g1, g2 = (((-x + 7 * s) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20 for s in (1, -1))
        return c1 * f1 + c2 * g1 + 21, c1 * f2 + c2 * g2 + 21

    for point in ((3.0, 5.0), (-3.0, -5.0), (-8.5, 7.5), (9.0, -1.0)):
        found = claims_pareto.two_losses(torch.tensor(point, dtype=torch.float64))
        assert [loss.item() for loss in found] == pytest.approx(by_hand(*point), rel=1e-12)


def test_no_step_improves_both_losses_at_a_pareto_optimum() -> None:
    for share, point in zip(torch.linspace(0, 1, 11), claims_pareto.pareto_set()[::20], strict=True):
        theta = point.clone().requires_grad_()
        first, second = claims_pareto.two_losses(theta)
        (gradient,) = torch.autograd.grad(share * first + (1 - share) * second, theta)
        assert gradient.norm() < 1e-4
    assert claims_pareto.distance(point + torch.tensor([3.0, 0.0])) == pytest.approx(3.0)


def test_the_table_to_choose_by_says_what_is_on_record() -> None:
    lines = claims_tables.choice().splitlines()[2:]
    assert len(lines) == len(CLAIMS)
    found = {re.search(r"`(\w+)`", line)[1]: line for line in lines}  # type: ignore[index]
    row = RESULTS["minority"]["methods"]["MGDA"]["first"]
    assert f"one against four, the one: **yes**, −{-row['mean']:.3f} ± {row['half']:.3f}" in found["MGDA"]
    assert "one against four, the one: **no**, +" in found["PPCGrad"]
    assert "1 backward, 1 more forward" in found["FAMO"]
    assert [name for name in found if "keeps K more copies" in found[name]] == ["DBMTL", "ExcessMTL"]
    assert claims_tables.verdict({"mean": -0.1, "half": 0.2}) == "not shown"


def test_the_page_has_its_figures_from_the_record() -> None:
    """The tables are generated when the site is built: no figure is typed into the page."""
    page = (ROOT / "docs" / "when_balancing_helps.md").read_text()
    for name in ("claims", "pareto", "choice of a balancer"):
        assert f"<!-- generated: {name} -->" in page
    assert not re.search(r"[−+]?\d\.\d{3}", page)
