"""Statistics of all days: those of both days' rows as far as they can be, and models whose functions stay."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl import Extension
from recmtl.features.growth import model_origins
from recmtl.schema.statistics import MAX_KNOTS, merged_edges, weighted_quantiles

TRANSFORMS = ("knots", "standardize", "min_max", "log1p", "quantile", "none")
SCHEMA = recmtl.Schema(
    [*(recmtl.Numeric(name, name) for name in TRANSFORMS), recmtl.Binned("age", bins=5), recmtl.Numeric("fixed")],
    [recmtl.Task("ctr", "click"), recmtl.Task("spent", "spent", kind="regression")],
)


def day(seed: int, shift: float, rows: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    numbers = {name: random.normal(shift, 1 + shift, rows) for name in TRANSFORMS}
    numbers["standardize"][: rows // 4] = np.nan
    return pd.DataFrame(
        {
            **numbers,
            "age": random.integers(18, 60, rows) + int(10 * shift),
            "fixed": 3.0 + shift,
            "click": random.integers(0, 2, rows),
            "spent": random.normal(5 + shift, 2, rows),
        }
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[recmtl.FittedSchema, ...]:
    """The schemas of the first day, of both by `keep` and `update`, and of their rows at once."""
    days = [day(1, 0.0), day(2, 1.0, 200)]
    first = recmtl.prepare(SCHEMA, days[0], holdout=0)
    kept = recmtl.prepare(None, days[1], holdout=0, extend=first)
    updated = recmtl.prepare(None, days[1], holdout=0, extend=Extension(first.schema, "update"))
    return tuple(data.schema for data in (first, kept, updated, recmtl.prepare(SCHEMA, pd.concat(days), holdout=0)))


def test_kept_statistics_are_those_of_the_first_day(fitted: tuple[recmtl.FittedSchema, ...]) -> None:
    assert fitted[1].fingerprint == fitted[0].fingerprint


def test_updated_statistics_are_those_of_the_rows_of_both_days(fitted: tuple[recmtl.FittedSchema, ...]) -> None:
    _, _, updated, whole = fitted
    for name, (mean, deviation) in whole.moments.items():
        assert updated.moments[name] == pytest.approx((mean, deviation), rel=1e-12), name
    assert updated.ranges == whole.ranges
    assert updated.missing == pytest.approx(whole.missing)
    assert updated.rates["click", None] == pytest.approx(whole.rates["click", None])
    assert updated.rates["spent", None] == fitted[0].rates["spent", None]  # the units of the outputs
    for name in ("min_max", "quantile"):
        places = [np.searchsorted(np.sort(whole.quantiles[name]), updated.quantiles[name])]
        assert np.abs(places - np.arange(len(updated.quantiles[name]))).max() <= 4, name
    assert len(updated.quantiles["knots"]) <= MAX_KNOTS
    assert (min(updated.quantiles["knots"]), max(updated.quantiles["knots"])) == whole.ranges["knots"]
    assert updated.quantiles["fixed"] == (3.0, 4.0)


def test_bins_hold_about_equal_shares_of_both_days(fitted: tuple[recmtl.FittedSchema, ...]) -> None:
    rows = pd.concat([day(1, 0.0), day(2, 1.0, 200)])["age"]
    shares = np.diff([0, *(float((rows <= edge).mean()) for edge in fitted[2].quantiles["age"]), 1])
    assert len(shares) == 5
    assert np.abs(shares - 0.2).max() < 0.1


def test_quantiles_and_edges_by_hand() -> None:
    parts = [np.array([1.0, 2.0]), np.array([10.0])]
    assert weighted_quantiles(parts, [2.0, 2.0], np.array([0, 0.25, 0.5, 0.75, 1])).tolist() == [1, 1, 2, 10, 10]
    edges = merged_edges([np.array([2.0]), np.array([6.0])], [(1, 4), (5, 8)], [10.0, 10.0], recmtl.Binned("b", bins=2))
    assert edges.tolist() == [4.0]  # below it are the rows of the first day


def test_a_spline_stays_the_same_function_at_the_knots_that_stay() -> None:
    schema = recmtl.Schema([recmtl.Numeric("n"), recmtl.Binned("age", bins=4)], [recmtl.Task("ctr", "click")])
    days = [
        pd.DataFrame({"n": values, "age": values, "click": [0, 1] * 4})
        for values in ([1.0, 2, 4, 8, 1, 2, 4, 8], [3.0, 9, 2, 2, 1, 0, 5, 4])
    ]
    first = recmtl.prepare(schema, days[0], holdout=0)
    second = recmtl.prepare(None, days[1], holdout=0, extend=Extension(first.schema, "update"))
    assert second.schema.quantiles["n"] == (0, 1, 2, 3, 4, 5, 8, 9)
    old, new = (recmtl.SharedBottom(data.schema, [4]) for data in (first, second))
    origins = model_origins(new, first.schema, second.schema)["encoder.numeric.weight"]
    grown = origins.grown(old.encoder.numeric.weight, new.encoder.numeric.weight)
    assert torch.equal(grown[[1, 2, 4, 6]], old.encoder.numeric.weight.detach())  # 1, 2, 4 and 8
    torch.testing.assert_close(grown[3], grown[[2, 4]].mean(0))  # 3, between 2 and 4
    torch.testing.assert_close(grown[5], torch.lerp(grown[4], grown[6], 0.25))
    assert torch.equal(grown[[0, 7]], grown[[1, 6]])  # beyond the ends
    assert origins.kept.tolist() == [False, True, True, False, True, False, True, False]


def test_a_run_is_continued_with_updated_statistics(tmp_path: Path) -> None:
    first = recmtl.prepare(SCHEMA, day(1, 0.0), holdout=0)
    second = recmtl.prepare(None, day(2, 1.0, 200), holdout=0, extend=Extension(first.schema, "update"))
    run = recmtl.RunConfig(tmp_path / "run", progress=False, tensorboard=False, device="cpu")
    recmtl.Trainer(recmtl.SharedBottom(first.schema, [4]), epochs=1, run=run).fit(first.train).finish({})
    again = recmtl.Trainer(
        recmtl.SharedBottom(second.schema, [4]),
        epochs=1,
        run=recmtl.RunConfig(progress=False, device="cpu"),
        init_from=tmp_path / "run",
    )
    again.fit(second.train, note=pytest.fail)
    steps = again.history["step"]
    assert steps.iloc[-1] > 0
    assert again.history["loss/ctr"].notna().all()
