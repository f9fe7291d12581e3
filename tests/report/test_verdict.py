"""What a report says on top."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from recmtl.report import difference_frame, metric_frame, open_runs
from recmtl.report.findings import Finding, findings, of_curve, of_task
from recmtl.report.verdict import verdict_section

GOOD = {"kind": "binary", "reason": None, "positives": 500.0, "mean": 0.2, "constant": 0.5}
CLASSES = {"kind": "multiclass", "positives": np.nan, "mean": np.nan}
NUMBERS = {"positives": np.nan}


def task(
    given: Mapping[str, object] = MappingProxyType({}), **values: tuple[float, float, float]
) -> dict[str, dict[str, object]]:
    """The metrics of a task, each with its interval."""
    ends = ("value", "low", "high")
    return {name: {**GOOD, **given, **dict(zip(ends, found, strict=True))} for name, found in values.items()}


def test_the_verdict_of_one_run(first: Path) -> None:
    runs = open_runs([first])
    metrics = metric_frame(runs, draws=20)
    (verdict,) = verdict_section(runs, metrics, difference_frame(runs), findings(runs, metrics)).parts
    trained, result, look = verdict.lines
    assert trained.sentences == [
        "MMOE with Sum for 3 tasks in 2 epochs (12 steps) on 1,200 rows with 4 features; measured on 600 test rows."
    ]
    ctr = metrics[metrics["task"] == "ctr"].set_index("metric")
    auc = "AUC {value:.4f} ({low:.4f} to {high:.4f}), where 0.5 is chance".format(**ctr.loc["auc"])
    loss = (
        f"log-loss {ctr.loc['ne', 'value'] - 1:.1%} above that of predicting {ctr.loc['ne', 'mean']:.2%} for every row"
    )
    assert result.sentences[0] == f"ctr: {auc}; {loss}."
    assert result.sentences[2].startswith("stay: MAE ")
    assert look.warning == bool(look.sentences != ["Nothing stands out."])


def test_the_verdict_of_two_runs_says_whether_they_differ(folder: Path, first: Path) -> None:
    runs = open_runs([first, folder / "second"])
    metrics = metric_frame(runs, draws=0)
    differences = difference_frame(runs)
    for p, real in ((0.001, "a real difference"), (0.2, "which may be chance")):
        told = differences.assign(difference=-0.01, low=-0.02, high=-0.001, p_holm=p)
        (verdict,) = verdict_section(runs, metrics, told, []).parts
        assert (
            f"; second is lower by 0.0100 (−0.0200 to −0.0010), {real} (p = {p:.2g})." in verdict.lines[1].sentences[0]
        )
        assert verdict.lines[2].sentences == ["Nothing stands out."]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (task(auc=(0.7, 0.65, 0.75), logloss=(0.45, 0.4, 0.49), calibration=(1.04, 1.01, 1.07)), []),
        (task(auc=(0.52, 0.48, 0.56)), ["not better than chance, as far as these rows can tell"]),
        (task(auc=(0.4, 0.3, 0.45)), ["worse than chance: negatives are ranked above positives"]),
        (task(logloss=(0.6, 0.5, 0.7)), ["worse than predicting the mean label for every row"]),
        (task({"constant": 0.0}, logloss=(0.6, 0.5, 0.7)), []),  # of labels that are all the same
        (
            task(NUMBERS | {"kind": "regression"}, rmse=(0.6, 0.5, 0.7)),
            ["worse than predicting the mean label for every row"],
        ),
        (
            task(NUMBERS | {"kind": "amount"}, gini=(-0.1, -0.2, 0.1), poisson_deviance=(0.6, 0.5, 0.7)),
            [
                "not better than chance, as far as these rows can tell",
                "worse than predicting the mean label for every row",
            ],
        ),
        (
            task(NUMBERS | {"kind": "amount"}, gini=(-0.1, -0.2, -0.05)),
            ["worse than chance: lower labels are ranked above higher ones"],
        ),
        (
            task(CLASSES, macro_auc=(0.4, 0.3, 0.45), logloss=(0.6, 0.5, 0.7)),
            [
                "worse than chance: rows of other classes are ranked above those of a class",
                "worse than predicting the shares of the classes for every row",
            ],
        ),
        (
            task(calibration=(1.2, 1.1, 1.3)),
            ["predictions are 20% too high in the mean, which `recmtl calibrate` mends"],
        ),
        (task(calibration=(0.8, 0.6, 1.05)), []),  # which may be chance
    ],
)
def test_what_stands_out_of_a_task(found: dict[str, dict[str, object]], says: list[str]) -> None:
    assert [finding.says for finding in of_task("ctr", found)] == says


def test_few_positives_and_undefined_metrics_stand_out() -> None:
    found = task(auc=(np.nan, np.nan, np.nan))
    found["auc"] |= {"positives": 0.0, "reason": "every one of the 9 labels is 0"}
    assert [finding.text for finding in of_task("ctr", found)] == [
        "ctr: AUC undefined, as every one of the 9 labels is 0.",
    ]
    few = task({"positives": 1.0}, auc=(0.7, 0.6, 0.8))
    assert [finding.says for finding in of_task("ctr", few)] == ["only 1 positive, so the intervals are wide"]


def test_the_reason_of_an_undefined_metric_is_its_own() -> None:
    found = task(auc=(0.7, 0.6, 0.8), gauc=(np.nan,) * 3, own=(np.nan,) * 3)
    found["gauc"]["reason"] = found["own"]["reason"] = "no group has both classes"
    assert [finding.says for finding in of_task("ctr", found)] == [
        "grouped AUC, own undefined, as no group has both classes"
    ]


@pytest.mark.parametrize(
    ("metric", "values", "says"),
    [
        (
            "auc",
            [0.7, 0.75, 0.72],
            "overfitting, as AUC on validation rows was 0.7500 at step 20 and 0.7200 at the end",
        ),
        ("auc", [0.7, 0.75, 0.76], "AUC on validation rows was still improving at the end: train longer"),
        ("auc", [0.7, 0.75, 0.7501], None),
        (
            "rmse",
            [2.0, 1.0, 1.5],
            "overfitting, as RMSE on validation rows was 1.0000 at step 20 and 1.5000 at the end",
        ),
        ("rmse", [2.0], None),
    ],
)
def test_what_stands_out_of_a_validation_metric(metric: str, values: list[float], says: str | None) -> None:
    found = of_curve("ctr", metric, [10, 20, 30][: len(values)], values)
    assert [finding.says for finding in found] == ([says] if says else [])


def test_findings_that_say_the_same_are_one_and_the_worst_come_first(first: Path) -> None:
    runs = open_runs([first])
    metrics = metric_frame(runs, draws=0).assign(low=0.4, high=0.6)
    found = findings(runs, metrics[metrics["metric"] == "auc"])
    assert found[0] == Finding("ctr, cvr", "not better than chance, as far as these rows can tell", "metrics")


def test_an_amount_whose_mean_is_off_stands_out(first: Path) -> None:
    runs = open_runs([first])
    metrics = metric_frame(runs, draws=0)
    off = metrics[metrics["task"] == "stay"].head(1).assign(metric="calibration", value=2.0, low=1.9, high=2.1)
    says = "predictions are 100% too high in the mean"
    assert Finding("stay", says, "curves") in findings(runs, pd.concat([metrics, off]))


def test_a_calibrated_run_is_not_told_to_be_calibrated() -> None:
    off = task(calibration=(1.2, 1.1, 1.3))
    assert [finding.says for finding in of_task("ctr", off, calibrated=True)] == [
        "predictions are 20% too high in the mean"
    ]
