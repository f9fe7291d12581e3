"""Figures of predictions and trainings, drawn into matplotlib axes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recmtl.evaluate.binary import CALIBRATION_BINS, score_histogram
from recmtl.evaluate.curves import precision_recall_points, reliability_bins, roc_points
from recmtl.evaluate.history import Curves, Records, diagnosis_curves, loss_curves, metric_curves, weight_curves
from recmtl.evaluate.scores import Scores

MAX_COSINE_LINES = 6  # more pairs of tasks are drawn as a heat map
MAX_COSINE_LABELS = 12  # tasks of a heat map with numbers
MAX_NAME = 24  # characters
HISTOGRAM_BINS = 40
DECADE = 10.0
MAX_MARKED = 30  # points of a curve with markers
MANY_TIMES = 30  # the lowest amount from which on the axes are logarithmic
MAX_DAYS = 8  # with a name on the axis
MARKERS = "osD^vPX*"
DEAD_SHARE = 0.1  # of an even share of gate weight
LEGEND_CORNER = 0.7, 0.6  # recall and precision above which a curve takes the place of the legend
NEUTRAL = {"difference": 0.0, "calibration": 1.0}  # values that say that nothing is off
FEW_GRAY = "#8a8a8e"

ScoresByName = Scores | Mapping[str, Scores | pd.DataFrame]  # by the name of the line


def unused_experts(shares: Sequence[float]) -> list[int]:
    """Return the experts whose mean weight in one gate is below a tenth of an even share."""
    return [expert for expert, share in enumerate(shares) if share < DEAD_SHARE / len(shares)]


def dead_experts(usage: Mapping[str, Sequence[float]]) -> list[int]:
    """Return the dead experts, which are unused by every gate.

    Args:
        usage: The mean gate weight of each expert by task.
    """
    unused = [set(unused_experts(shares)) for shares in usage.values()]
    return sorted(set.intersection(*unused)) if unused else []


def roc(scores: ScoresByName, axes: Axes | None = None) -> Axes:
    """Draw ROC curves, with the area under each in the legend.

    Args:
        scores: The scores of a binary task, or several (or points of `roc_points`) by the name of the line.
        axes: The axes to draw into; ``None`` makes a figure.
    """
    axes = _axes(axes)
    axes.plot([0, 1], [0, 1], color=_ink(), linewidth=0.8, linestyle=":")
    for name, given in _by_name(scores).items():
        points = given if isinstance(given, pd.DataFrame) else roc_points(given)
        x, y = points["false_positive_rate"], points["true_positive_rate"]
        area = np.trapezoid(y, x) if isinstance(given, pd.DataFrame) else score_histogram(given).auc()
        axes.plot(x, y, label=f"{short(name)}: AUC {area:.4f}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    return _finish(axes, fewest=1, loc="lower right")


def precision_recall(scores: ScoresByName, axes: Axes | None = None) -> Axes:
    """Draw precision-recall curves and the share of positives, which is the precision of guessing.

    Between two points, precision is that of the larger recall.

    Args:
        scores: The scores of a binary task, or several (or points of `precision_recall_points`) by the name of the
            line.
        axes: The axes to draw into; ``None`` makes a figure.
    """
    axes = _axes(axes)
    rates = dict[str, float]()
    loc = "upper right"
    for name, given in _by_name(scores).items():
        points = given if isinstance(given, pd.DataFrame) else precision_recall_points(given)
        axes.plot(points["recall"], points["precision"], label=short(name), drawstyle="steps-pre")
        rates.setdefault(f"base rate {points['precision'].iloc[-1]:.2%}", points["precision"].iloc[-1])
        if np.interp(LEGEND_CORNER[0], points["recall"], points["precision"]) > LEGEND_CORNER[1]:
            loc = "lower left"
    for text, rate in rates.items():
        axes.axhline(rate, color=_ink(), linewidth=0.8, linestyle=":", label=text)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    return _finish(axes, loc=loc)


def reliability(scores: Scores | Mapping[str, Scores], axes: Axes | None = None, bins: int = CALIBRATION_BINS) -> Axes:
    """Draw reliability diagrams: mean label over mean prediction by bin, above a histogram of the predictions.

    Args:
        scores: The scores of a binary task, or several by the name of the line.
        axes: The axes to draw into; ``None`` makes a figure.
        bins: The maximum number of bins.
    """
    axes = _axes(axes)
    named = {name: given for name, given in _by_name(scores).items() if isinstance(given, Scores)}
    tables = {name: reliability_bins(given, bins) for name, given in named.items()}
    lines = [
        axes.plot(table["predicted"], table["observed"], marker="o", markersize=3.5, label=short(name))[0]
        for name, table in tables.items()
    ]
    top = max((float(t[["predicted", "observed"]].max().max()) for t in tables.values()), default=1.0) * 1.08 or 1.0
    axes.plot([0, top], [0, top], color=_ink(), linewidth=0.8, linestyle=":")
    axes.set(xlabel="mean prediction", ylabel="mean label", xlim=(0, top), ylim=(0, top))
    counts = axes.twinx()
    for line, given in zip(lines, named.values(), strict=True):
        rows, edges = np.histogram(given.predictions, HISTOGRAM_BINS, (0, top))
        counts.stairs(rows, edges, color=line.get_color(), alpha=0.6)
    counts.set_ylim(0, max(counts.get_ylim()[1], 1) * 4)
    counts.set_ylabel("rows")
    return _finish(axes, loc="upper left")


def deciles(tables: Mapping[str, pd.DataFrame], axes: Axes | None = None) -> Axes:
    """Draw mean labels over mean predictions.

    Args:
        tables: What `decile_table` returns, by the name of the line.
        axes: The axes to draw into; ``None`` makes a figure.
    """
    axes = _axes(axes)
    for name, table in tables.items():
        axes.plot(table["predicted"], table["observed"], marker="o", markersize=3.5, label=short(name))
    values = np.concatenate([table[["predicted", "observed"]].to_numpy().ravel() for table in tables.values()])
    low, high = float(values.min()), float(values.max())
    axes.plot([low, high], [low, high], color=_ink(), linewidth=0.8, linestyle=":")
    if low > 0 and high > MANY_TIMES * low:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel="mean prediction", ylabel="mean label")
    return _finish(axes, loc="upper left")


def learning_curves(records: Records, what: str = "loss", axes: Axes | None = None) -> Axes:
    """Draw the learning curves of a training.

    Args:
        records: The lines of `metrics.jsonl`.
        what: ``loss`` for the training loss of each objective, ``valid`` for the main validation metric of each task.
        axes: The axes to draw into; ``None`` makes a figure.

    Raises:
        ValueError: `what` is neither.
    """
    if what not in ("loss", "valid"):
        raise ValueError(f"`what` must be 'loss' or 'valid', got {what!r}")
    label = "training loss" if what == "loss" else "on the validation rows"
    return over_steps((loss_curves if what == "loss" else metric_curves)(records), label, axes)


def task_weights(records: Records, axes: Axes | None = None) -> Axes:
    """Draw the task weights over a training."""
    return over_steps(weight_curves(records), "task weight", axes, logarithmic=True)


def gradient_norms(records: Records, axes: Axes | None = None) -> Axes:
    """Draw the norms of the tasks' gradients over a training."""
    return over_steps(diagnosis_curves(records, "gradient_norm"), "gradient norm", axes, logarithmic=True)


def cosines(records: Records, axes: Axes | None = None) -> Axes:
    """Draw the cosines between the tasks' gradients over a training; for many pairs, a heat map of the means."""
    records = list(records)
    curves = diagnosis_curves(records, "cosine")
    if len(curves) > MAX_COSINE_LINES:
        return _cosine_map(list(diagnosis_curves(records, "gradient_norm")), curves, _axes(axes))
    axes = over_steps(curves, "cosine of two gradients", axes)
    axes.axhline(0, color=_ink(), linewidth=0.8)
    return axes


def over_steps(curves: Curves, label: str, axes: Axes | None = None, logarithmic: bool = False) -> Axes:
    """Draw any curves over the steps of a training.

    Args:
        curves: Steps and values by the name of the line.
        label: The label of the y axis.
        axes: The axes to draw into; ``None`` makes a figure.
        logarithmic: Whether to use a logarithmic scale if all values are positive and span more than a decade.
    """
    axes = _axes(axes)
    marker = "o" if all(len(steps) <= MAX_MARKED for steps, _ in curves.values()) else None
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=short(name), marker=marker, markersize=3)
    found = [value for _, values in curves.values() for value in values]
    if logarithmic and found and 0 < min(found) < max(found) / DECADE:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="step", ylabel=label)
    return _finish(axes)


def expert_usage(usage: Mapping[str, Sequence[float]], axes: Axes | None = None) -> Axes:
    """Draw the mean gate weight of each expert for each task, and mark dead experts.

    Args:
        usage: The mean gate weight of each expert by task.
        axes: The axes to draw into; ``None`` makes a figure.
    """
    axes = _axes(axes)
    experts = max((len(shares) for shares in usage.values()), default=0)
    dead, places = dead_experts(usage), np.arange(experts)
    for i, (name, shares) in enumerate(usage.items()):
        width = 0.8 / len(usage)
        axes.bar(places[: len(shares)] + (i - (len(usage) - 1) / 2) * width, shares, width, label=short(name))
    if experts:
        axes.axhline(1 / experts, color=_ink(), linewidth=0.8, linestyle=":")
    axes.set(xlabel="expert", ylabel="mean gate weight")
    axes.set_xticks(places, [f"{e}\ndead" if e in dead else str(e) for e in places])
    return _finish(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def slices(tables: pd.DataFrame | Mapping[str, pd.DataFrame], axes: Axes | None = None) -> Axes:
    """Draw the AUC of each slice with its interval, in the order of the first table; those of few positives in grey.

    Args:
        tables: The slices of one task, from `recmtl.evaluate.slices.slice_table`, or several tables of the same slices
            by the name of the series.
        axes: The axes to draw into; ``None`` makes a figure.
    """
    axes = _axes(axes)
    named = {"": tables} if isinstance(tables, pd.DataFrame) else tables
    values = list(dict.fromkeys(v for table in named.values() for v in table.loc[table["auc"].notna(), "value"]))
    for i, (name, table) in enumerate(named.items()):
        shown = table.set_index("value").reindex(values)
        places = np.arange(len(values)) + (i - (len(named) - 1) / 2) * 0.6 / len(named)
        reach = np.vstack([shown["auc"] - shown["low"], shown["high"] - shown["auc"]])
        reach = np.maximum(np.nan_to_num(reach), 0)  # [2, slices]
        few = shown["few"].eq(True).to_numpy() if "few" in shown else np.zeros(len(shown), bool)
        for rows, color in ((few, FEW_GRAY), (~few, f"C{i}")):
            bars = axes.errorbar(
                shown["auc"][rows],
                places[rows],
                xerr=reach[:, rows],
                fmt=MARKERS[i % len(MARKERS)],
                markersize=4,
                color=color,
            )
        bars.set_label(short(name) if name else None)
    axes.axvline(0.5, color=_ink(), linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(values)), [short(value) for value in values])
    axes.set(xlabel="AUC", ylim=(len(values) - 0.5, -0.5))
    return _finish(axes, loc="lower left", bbox_to_anchor=(0, 1))


def by_day(tables: Mapping[str, pd.DataFrame], column: str, label: str, axes: Axes | None = None) -> Axes:
    """Draw a number by day, with the interval from `low` to `high` where a table has these columns.

    Args:
        tables: Tables with the column `day`, in order, by the name of the line.
        column: The column of the number.
        label: What it is, for the axis.
        axes: The axes to draw into; ``None`` makes a figure.
    """
    axes = _axes(axes)
    days = sorted({day for table in tables.values() for day in table["day"]})
    for i, (name, table) in enumerate(tables.items()):
        places = [days.index(day) + (i - (len(tables) - 1) / 2) * 0.12 for day in table["day"]]
        reach = None
        if {"low", "high"} <= {*table.columns}:
            ends = [table[column] - table["low"], table["high"] - table[column]]
            reach = np.maximum(np.nan_to_num(np.vstack(ends).astype(float)), 0)
        marker = MARKERS[i % len(MARKERS)]
        lines = axes.errorbar(places, table[column], yerr=reach, marker=marker, markersize=4, elinewidth=1)
        lines.set_label(short(name))
    if column in NEUTRAL:
        axes.axhline(NEUTRAL[column], color=_ink(), linewidth=0.8, linestyle=":")
    shown = [*range(0, len(days), 1 + (len(days) - 1) // MAX_DAYS)]
    axes.set_xticks(shown, [days[place] for place in shown], rotation=30, ha="right")
    axes.set(ylabel=label)
    return _finish(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def short(name: object) -> str:
    """Escape a name so that matplotlib shows it verbatim, and cut the middle of a long one."""
    text = str(name)
    if len(text) > MAX_NAME:
        text = f"{text[: MAX_NAME // 2]}…{text[-MAX_NAME // 2 + 1 :]}"
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _cosine_map(names: list[str], curves: Curves, axes: Axes) -> Axes:
    """Draw a heat map of the mean cosine of each pair of tasks."""
    ticks = range(len(names))
    means = {name: fmean(values) for name, (_, values) in curves.items()}
    table = [[1.0 if a == b else means.get(f"{a}·{b}", means.get(f"{b}·{a}", 0.0)) for b in names] for a in names]
    axes.pcolormesh(table, vmin=-1, vmax=1, cmap="coolwarm")
    for row, column in itertools.product(ticks, ticks) if len(names) <= MAX_COSINE_LABELS else ():
        text = f"{table[row][column]:.2f}"
        axes.text(column + 0.5, row + 0.5, text, color="black", ha="center", va="center", fontsize="x-small")
    axes.invert_yaxis()
    axes.set_xticks([])  # as the rows
    axes.set_yticks([tick + 0.5 for tick in ticks], [short(name) for name in names])
    axes.set(xlabel="mean cosine of two gradients")
    return axes


def _by_name(scores: ScoresByName) -> Mapping[str, Scores | pd.DataFrame]:
    return {scores.task.name: scores} if isinstance(scores, Scores) else scores


def _axes(axes: Axes | None) -> Axes:
    return Figure(layout="constrained").add_subplot() if axes is None else axes


def _ink() -> str:
    """Return the colour of text, also used for reference lines."""
    return str(mpl.rcParams["text.color"])


def _finish(axes: Axes, fewest: int = 2, **legend: Any) -> Axes:
    """Add a grid and, from a minimum number of lines on, a legend."""
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) >= fewest:
        axes.legend(handles, labels, fontsize="small", **legend)
    return axes
