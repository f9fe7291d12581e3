"""Records and summaries of gradient norms and cosines."""

import math
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from recmtl.balance import GradientStats
from recmtl.evaluate.history import diagnosis_curves
from recmtl.train.artifacts import save_gradient_stats
from recmtl.train.gradient_stats import PairSummary, gradient_stats_record, summarize_pairs
from recmtl.train.monitor import named_values


def measured(norms: list[float], cosine: float) -> dict[str, object]:
    cosines = torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)
    diagnosis = GradientStats(torch.tensor(norms, dtype=torch.float64), cosines)
    return {"diagnosis": gradient_stats_record(["a", "b"], diagnosis)}


RECORDS = [
    {"step": 1, "loss": {"a": 1.0}},
    {"step": 2} | measured([4.0, 1.0], 0.5),
    {"step": 4} | measured([9.0, 0.0], 0.0),
    {"step": 6} | measured([6.0, 3.0], -0.25),
]


def test_a_measurement_by_name() -> None:
    assert RECORDS[1]["diagnosis"] == {"gradient_norm": {"a": 4.0, "b": 1.0}, "cosine": {"a·b": 0.5}}


def test_values_by_name() -> None:
    assert named_values(["a", "b"], torch.tensor([0.5, math.nan])) == {"a": 0.5, "b": None}
    assert named_values(["a"], None) == named_values(None, torch.ones(2)) == {}


def test_summary_worked_by_hand() -> None:
    """The second measurement, without a gradient of one task, does not count for the pair."""
    assert summarize_pairs(RECORDS) == [PairSummary(("a", "b"), 2, pytest.approx(0.125), 0.5, pytest.approx(3.0))]


def test_no_measurement_no_summary(tmp_path: Path) -> None:
    assert summarize_pairs(RECORDS[:1]) == []
    assert summarize_pairs([RECORDS[2]]) == []
    save_gradient_stats(RECORDS[:1], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("tasks", [2, 8])
def test_the_plot_has_a_panel_for_each_measure(tmp_path: Path, tasks: int) -> None:
    """Names may be long, and weights negative, as a projection's can be."""
    names = [f"a_task_with_a_long_name_{k}" for k in range(tasks)]
    cosines = torch.eye(tasks) * 0.5 + 0.5
    records = [
        {"step": step, "diagnosis": gradient_stats_record(names, GradientStats(torch.ones(tasks) * step, cosines))}
        for step in (1, 2)
    ]
    for record in records:
        record["diagnosis"]["weight"] = named_values(names, torch.arange(tasks) - 0.5)
    assert diagnosis_curves(records, "cosine")[f"{names[0]}·{names[1]}"] == ([1, 2], [0.5, 0.5])
    save_gradient_stats(records, tmp_path / "plots.png")
    height, width, _ = imread(tmp_path / "plots.png").shape
    assert (width, height) == (1728, 504)


@pytest.mark.usefixtures("drawn")
def test_many_objectives_fit_into_the_plot(tmp_path: Path) -> None:
    """A legend that leaves no room for the axes is a warning of matplotlib."""
    norms = {f"task_{task}@domain_{domain}": 1.0 for task in range(8) for domain in range(6)}
    save_gradient_stats([{"step": 1, "diagnosis": {"gradient_norm": norms, "weight": norms}}], tmp_path / "many.png")
