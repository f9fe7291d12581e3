"""Figures drawn into given or new axes."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from recmtl.evaluate import Scores, figures
from recmtl.evaluate.curves import roc_points
from recmtl.evaluate.figures import dead_experts, unused_experts
from recmtl.schema import Task

RNG = np.random.default_rng(0)
LABELS = (RNG.random(500) < 0.3).astype(float)
SCORES = Scores(Task("ctr", "click"), LABELS, np.clip(RNG.normal(0.3 + 0.2 * LABELS, 0.1), 0, 1))
USAGE = {"a": [0.5, 0.46, 0.02, 0.02], "b": [0.9, 0.03, 0.01, 0.06]}
RECORDS = [
    {
        "step": step,
        "loss": {"a": 1 / step},
        "weight": {"a": float(step), "b": 20.0 * step},
        "valid": {"a": {"auc": 0.7}},
    }
    | {"diagnosis": {"gradient_norm": {"a": 1.0, "b": 2.0}, "cosine": {"a·b": -0.5}}}
    for step in (1, 2, 3)
]
SLICES = pd.DataFrame(
    {"value": ["x", "y", "z"], "auc": [0.6, 0.7, np.nan], "low": [0.5, np.nan, np.nan], "high": [0.7, np.nan, np.nan]}
)
DRAWN = {
    "roc": lambda axes: figures.roc(SCORES, axes),
    "precision_recall": lambda axes: figures.precision_recall(SCORES, axes),
    "reliability": lambda axes: figures.reliability(SCORES, axes),
    "learning_curves": lambda axes: figures.learning_curves(RECORDS, axes=axes),
    "validation": lambda axes: figures.learning_curves(RECORDS, "valid", axes),
    "task_weights": lambda axes: figures.task_weights(RECORDS, axes),
    "gradient_norms": lambda axes: figures.gradient_norms(RECORDS, axes),
    "cosines": lambda axes: figures.cosines(RECORDS, axes),
    "expert_usage": lambda axes: figures.expert_usage(USAGE, axes),
    "slices": lambda axes: figures.slices(SLICES, axes),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_draw_into_given_or_new_axes(name: str) -> None:
    given = Figure().subplots(1, 2)[1]
    assert DRAWN[name](given) is given
    own = DRAWN[name](None)
    assert isinstance(own, Axes)
    assert own.get_xlabel()
    for axes in (given, own):
        assert axes.lines or axes.patches or axes.collections
        axes.figure.savefig(io.BytesIO(), format="png")


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines}


def test_roc_of_scores_equals_roc_of_points() -> None:
    axes = figures.roc({"one": SCORES, "other": roc_points(SCORES)})
    assert axes.lines[1].get_xydata().tolist() == axes.lines[2].get_xydata().tolist()
    assert axes.lines[1].get_xydata().tolist() == roc_points(SCORES).to_numpy().tolist()
    area = f"{roc_auc_score(SCORES.labels, SCORES.predictions):.4f}"
    assert [text.get_text() for text in axes.get_legend().texts] == [f"{name}: AUC {area}" for name in ("one", "other")]


def test_precision_recall_names_the_share_of_positives() -> None:
    axes = figures.precision_recall(SCORES)
    rate = SCORES.labels.mean()
    assert [text.get_text() for text in axes.get_legend().texts] == ["ctr", f"base rate {rate:.2%}"]
    assert lines(axes)[f"base rate {rate:.2%}"] == [[0, rate], [1, rate]]


def test_reliability_counts_every_row() -> None:
    axes = figures.reliability(SCORES)
    (twin,) = [other for other in axes.figure.axes if other is not axes]
    (stairs,) = twin.patches
    assert stairs.get_data().values.sum() == len(SCORES)
    assert len(lines(axes)["ctr"]) == 15


def test_names_are_shown_verbatim() -> None:
    axes = figures.over_steps({"$x^$": ([1], [1.0]), "_under": ([1], [2.0]), "long" * 20: ([1], [3.0])}, "y")
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[:2] == [r"\$x^\$", "\u200b_under"]
    assert len(texts[2]) == figures.MAX_NAME
    axes.figure.savefig(io.BytesIO(), format="png")


def test_weights_are_logarithmic_over_more_than_a_decade() -> None:
    assert figures.task_weights(RECORDS).get_yscale() == "log"
    assert figures.task_weights([{"step": 1, "weight": {"a": 1.0, "b": 9.0}}]).get_yscale() == "linear"
    assert figures.task_weights([{"step": 1, "weight": {"a": -1.0, "b": 90.0}}]).get_yscale() == "linear"


def test_experts_below_a_tenth_of_an_even_share_in_all_gates_are_dead() -> None:
    """An even share of four is 0.25."""
    assert unused_experts(USAGE["a"]) == [2, 3]
    assert unused_experts([0.025, 0.975, 0, 0]) == [2, 3]
    assert dead_experts(USAGE) == [2]
    assert dead_experts({}) == []
    axes = figures.expert_usage(USAGE)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2\ndead", "3"]
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights == list(USAGE.values())


def test_slices_keep_their_order_without_undefined_ones() -> None:
    axes = figures.slices({"one": SLICES, "other": SLICES[::-1]})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
    assert axes.yaxis_inverted()


def test_slices_with_few_positives_are_grey() -> None:
    axes = figures.slices(SLICES.assign(few=[False, True, True]))
    colors = {line.get_xdata()[0]: line.get_color() for line in axes.lines if len(line.get_xdata()) == 1}
    assert colors[0.7] == figures.FEW_GRAY != colors[0.6]


def test_unknown_learning_curves_are_an_error() -> None:
    with pytest.raises(ValueError, match="`what` must be 'loss' or 'valid', got 'test'"):
        figures.learning_curves(RECORDS, "test")
