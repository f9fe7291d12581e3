"""Means, marks and tests of a comparison of planted runs."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import Plant
from scipy.stats import ttest_ind, ttest_rel

import recmtl
from recmtl.comparison import Comparison
from recmtl.comparison.differences import correct_p_values, possible_pairs, seeds_difference
from recmtl.comparison.grid import GridRun, Variant
from recmtl.evaluate import Predictions, auc_difference
from recmtl.train import RunError, RunFolder

BEST, EQUAL, WORSE = Variant("MMOE", "Sum"), Variant("MMOE", "PCGrad"), Variant("ESMM", "Sum")
SIGNALS = {WORSE: {"a": 0.5, "b": 1.0}, BEST: {"a": 2.0, "b": 1.0}, EQUAL: {"a": 1.99, "b": 1.0}}


def lines(frame: pd.DataFrame, task: str) -> dict[Variant, pd.Series]:
    found = frame[frame["task"] == task]
    return {Variant(line.model, line.balancer): line for _, line in found.iterrows()}


def test_the_table_marks_the_best_and_what_does_not_differ_from_it(plant: Plant) -> None:
    found = lines(plant(SIGNALS).table(), "a")
    assert list(found) == list(SIGNALS)
    best, equal = sorted((BEST, EQUAL), key=lambda row: -found[row]["mean"])
    assert {row: (line.best, line.tied) for row, line in found.items()} == {
        best: (True, False),
        equal: (False, True),
        WORSE: (False, False),
    }


def test_mean_and_sd_are_those_of_the_runs(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    metrics = comparison.metrics
    assert len(metrics) == 3 * 4 * 2
    of_row = metrics[(metrics["model"] == "ESMM") & (metrics["task"] == "b")]
    line = lines(comparison.table("logloss"), "b")[WORSE]
    assert (line.runs, line.metric) == (4, "logloss")
    assert line["mean"] == pytest.approx(sum(of_row["logloss"]) / 4, abs=1e-15)
    assert line["sd"] == pytest.approx(np.std(of_row["logloss"], ddof=1), abs=1e-15)


def test_auc_is_tested_over_rows_and_seeds_on_the_predictions(plant: Plant, planted_rows: recmtl.PreparedData) -> None:
    comparison = plant(SIGNALS)
    found = lines(comparison.differences(reference="ESMM"), "a")
    assert set(found) == {BEST, EQUAL}
    paths = {run.variant: [] for run in comparison.grid}
    for run in comparison.grid:
        paths[run.variant].append(comparison.path(run) / "predictions" / "test.parquet")
    schema = planted_rows.schema.schema
    first, second = ([Predictions.read(schema, p).scores()["a"] for p in paths[row]] for row in (BEST, WORSE))
    expected = auc_difference(first, second)
    line = found[BEST]
    assert (line.estimate, line.low, line.high, line.p) == (
        expected.estimate,
        expected.low,
        expected.high,
        expected.p,
    )
    assert line.reference == "ESMM with Sum"


def test_other_metrics_are_tested_over_seeds(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    metrics = comparison.metrics
    values = {
        row: metrics[
            (metrics["model"] == row.model) & (metrics["balancer"] == row.balancer) & (metrics["task"] == "a")
        ]["logloss"]
        for row in SIGNALS
    }
    line = lines(comparison.differences("logloss", "ESMM"), "a")[BEST]
    expected = ttest_rel(values[BEST], values[WORSE])
    interval = expected.confidence_interval(0.95)
    assert (line.p, line.low, line.high) == pytest.approx((expected.pvalue, *interval), rel=1e-9)


def test_seeds_that_differ_are_not_paired() -> None:
    first, second = [0.5, 0.7, 0.6], [0.4, 0.1, 0.35, 0.2]
    found, expected = seeds_difference(first, second, paired=False), ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, *interval), rel=1e-12)
    assert seeds_difference([0.5], [0.4], paired=True) is None
    assert seeds_difference([0.1, 0.1, 0.1], [0.3, 0.3, 0.3], paired=False) is None  # no variance over the seeds


def test_a_lower_loss_is_better(plant: Plant) -> None:
    found = lines(
        plant({row: {"c": signal} for row, signal in zip(SIGNALS, (0.1, 1.0, 0.9), strict=True)}).table(), "c"
    )
    assert found[BEST].metric == "mae"
    assert {row: (line.best, line.tied) for row, line in found.items()} == {
        WORSE: (False, False),
        BEST: (True, False),
        EQUAL: (False, False),
    }


def test_each_learning_rate_has_its_own_reference(plant: Plant) -> None:
    rows = [Variant(model, "Sum", rate) for model in ("SingleTask", "MMOE") for rate in (0.1, 0.2)]
    comparison = plant({row: {"a": 1.0} for row in rows})
    frame = comparison.differences(reference="SingleTask")
    assert list(frame["learning_rate"]) == [0.1, 0.2]
    assert list(frame["reference"]) == ["SingleTask with Sum at 0.1", "SingleTask with Sum at 0.2"]
    assert comparison.single == "SingleTask"


def test_one_seed_tests_auc_by_its_rows_and_leaves_other_metrics_untested(plant: Plant) -> None:
    comparison = plant(SIGNALS, seeds=1)
    assert not lines(comparison.table(), "a")[WORSE].tied
    frame = comparison.table("logloss")
    assert math.isnan(frame["sd"][0])
    assert (frame["tied"] | frame["best"]).all()
    assert comparison.differences("logloss")["p"].isna().all()


def test_failed_runs_leave_the_others(plant: Plant) -> None:
    comparison = plant(SIGNALS, failed=((BEST, 0), *((EQUAL, seed) for seed in range(4))))
    assert list(comparison.runs["state"]).count("failed") == 5
    assert list(comparison.runs["error"].dropna()) == ["no memory | left"] * 5
    found = lines(comparison.table(), "a")
    assert {row: line.runs for row, line in found.items()} == {WORSE: 4, BEST: 3}
    assert not found[WORSE].tied  # a Welch test, as their seeds differ


def test_unknown_names_are_errors(plant: Plant, tmp_path: Path) -> None:
    comparison = plant(SIGNALS)
    with pytest.raises(ValueError, match=r"`metric` must be one of auc, logloss, .* got 'aux'"):
        comparison.table("aux")
    with pytest.raises(ValueError, match="got 'calibration'"):
        comparison.table("calibration")
    with pytest.raises(ValueError, match=r"`reference` must be one of ESMM, MMOE, .*got 'GBDT'"):
        comparison.differences(reference="GBDT")
    with pytest.raises(RunError, match="is not a comparison"):
        recmtl.Comparison.open(tmp_path)
    (comparison.folder / "comparison.json").write_text('{"split": 1}')
    with pytest.raises(RunError, match="is damaged"):
        recmtl.Comparison.open(comparison.folder)


@pytest.mark.parametrize(("over", "most"), [("all pairs", 0.05), ("the comparisons made", 1.0)])
def test_the_error_rate_holds_although_the_data_choose_the_best_variant(over: str, most: float) -> None:
    """10 equal variants, 8 seeds; correcting for the comparisons with the best alone is not enough."""
    rng, draws, count = np.random.default_rng(0), 400, 10
    wrong = 0
    for _ in range(draws):
        values = rng.normal(size=(count, 8))
        best = int(values.mean(1).argmax())
        p = [seeds_difference(values[i], values[best], paired=False).p for i in range(count) if i != best]
        pairs = len(list(combinations(range(count), 2))) if over == "all pairs" else 0
        wrong += bool(correct_p_values(pd.DataFrame({"p": p}), pairs)["apart"].any())
    share = wrong / draws
    assert share <= most
    assert (share > 0.08) == (over != "all pairs")


def test_pairs_are_counted_over_the_tasks() -> None:
    means = pd.DataFrame({"task": list("aaaabbb"), "mean": [1, 2, 3, np.nan, 1, 2, 3]})
    assert possible_pairs(means) == 3 + 3


def test_amounts_are_compared_within_a_key_by_which_the_runs_are_measured(tmp_path: Path) -> None:
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("spent", "spent", kind="amount")], keys=["user"])
    frame = pd.DataFrame({"x": range(40), "user": np.arange(40) % 4, "spent": np.arange(40.0)})
    data = recmtl.prepare(schema, frame, test=frame)
    grid = [GridRun(variant, seed, {}) for variant in (BEST, WORSE) for seed in range(2)]
    comparison = Comparison(tmp_path, "test", grid)
    for number, run in enumerate(grid):
        folder = RunFolder(comparison.path(run))
        folder.create(data.schema)
        folder.finish({"test": {"spent": {"gini": 0.1 * number, "ndcg@10": 0.2 * number}}, "seconds": 1.0})
    comparison.save("planted")
    found = comparison.table("ndcg@10")
    assert (found["metric"].unique().tolist(), found["mean"].tolist()) == (["ndcg@10"], pytest.approx([0.1, 0.5]))
