"""Each method does what it claims on a problem planted for it, over ten seeds; the record is complete."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from benchmarks import claims
from benchmarks.claims import PLAIN, PROBLEMS, SEEDS, measure, train

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "claims.json").read_text())["results"]


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


def test_the_page_has_its_figures_from_the_record() -> None:
    """The tables are generated when the site is built: no figure is typed into the page."""
    page = (ROOT / "docs" / "when_balancing_helps.md").read_text()
    assert "<!-- generated: claims -->" in page
    assert not re.search(r"[−+]?\d\.\d{3}", page)
