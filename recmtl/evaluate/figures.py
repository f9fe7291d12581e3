"""Figures of predictions and of a training: each is drawn into matplotlib axes, its own or given ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recmtl.evaluate.curves import precision_recall_points, roc_points
from recmtl.evaluate.curves import reliability as reliability_bins
from recmtl.evaluate.history import Curves, diagnosis_curves, loss_curves, metric_curves, weight_curves
from recmtl.evaluate.scores import Scores

MOST_PAIRS = 6  # of tasks, whose cosines can be told apart as lines
MOST_NUMBERS = 12  # of tasks, between which cosines are written out
LONGEST_NAME = 24  # letters
HISTOGRAM_BINS = 40
DECADE = 10.0
FEW = 30  # points of a curve, each of which has a sign
MARKERS = "osD^vPX*"

Records = Iterable[Mapping[str, Any]]  # the lines of `metrics.jsonl`
Named = Scores | Mapping[str, Scores | pd.DataFrame]  # by the name of their line


def roc(scores: Named, axes: Axes | None = None) -> Axes:
    """Draw ROC curves.

    Args:
        scores: Those of a binary task, or several by the name of their line; points as `roc_points` gives them will do.
        axes: Where to draw; ``None`` makes a figure.
    """
    axes = _axes(axes)
    axes.plot([0, 1], [0, 1], color=_ink(), linewidth=0.8, linestyle=":")
    for name, given in _by_name(scores).items():
        points = given if isinstance(given, pd.DataFrame) else roc_points(given)
        axes.plot(points["false_positive_rate"], points["true_positive_rate"], label=short(name))
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    return _finished(axes)


def precision_recall(scores: Named, axes: Axes | None = None) -> Axes:
    """Draw precision-recall curves; between two points precision is that of the larger recall.

    Args:
        scores: Those of a binary task, or several by the name of their line; points as `precision_recall_points` gives
            them will do.
        axes: Where to draw; ``None`` makes a figure.
    """
    axes = _axes(axes)
    for name, given in _by_name(scores).items():
        points = given if isinstance(given, pd.DataFrame) else precision_recall_points(given)
        axes.plot(points["recall"], points["precision"], label=short(name), drawstyle="steps-pre")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    return _finished(axes)


def reliability(scores: Scores | Mapping[str, Scores], axes: Axes | None = None, bins: int = 15) -> Axes:
    """Draw reliability diagrams: mean label over mean prediction, bin by bin, and below how many rows are predicted so.

    Args:
        scores: Those of a binary task, or several by the name of their line.
        axes: Where to draw; ``None`` makes a figure.
        bins: As `recmtl.evaluate.curves.reliability` takes it.
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
    counts.set_ylabel("rows predicted so")
    return _finished(axes)


def learning_curves(records: Records, what: str = "loss", axes: Axes | None = None) -> Axes:
    """Draw what a training logged.

    Args:
        records: The lines of `metrics.jsonl`.
        what: ``loss``, the training loss of each objective, or ``valid``, the main validation metric of each task.
        axes: Where to draw; ``None`` makes a figure.

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
    """Draw the norms of the tasks' gradients over a training, as far as it was diagnosed."""
    return over_steps(diagnosis_curves(records, "gradient_norm"), "gradient norm", axes, logarithmic=True)


def cosines(records: Records, axes: Axes | None = None) -> Axes:
    """Draw the cosines between the tasks' gradients over a training; of many pairs a map of the means."""
    records = list(records)
    curves = diagnosis_curves(records, "cosine")
    if len(curves) > MOST_PAIRS:
        return _map_of_means(list(diagnosis_curves(records, "gradient_norm")), curves, _axes(axes))
    axes = over_steps(curves, "cosine of two gradients", axes)
    axes.axhline(0, color=_ink(), linewidth=0.8)
    return axes


def over_steps(curves: Curves, label: str, axes: Axes | None = None, logarithmic: bool = False) -> Axes:
    """Draw any curves over the steps of a training.

    Args:
        curves: Steps and values by the name of their line.
        label: What the values are.
        axes: Where to draw; ``None`` makes a figure.
        logarithmic: Whether the scale is, where all values are above 0 and reach over more than a decade.
    """
    axes = _axes(axes)
    marker = "o" if all(len(steps) <= FEW for steps, _ in curves.values()) else None
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=short(name), marker=marker, markersize=3)
    found = [value for _, values in curves.values() for value in values]
    if logarithmic and found and 0 < min(found) < max(found) / DECADE:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="step", ylabel=label)
    return _finished(axes)


def expert_usage(usage: Mapping[str, Sequence[float]], axes: Axes | None = None) -> Axes:
    """Draw how much of each expert each task's gate takes; a dead expert is named so.

    Args:
        usage: By task the mean gate weight of each expert.
        axes: Where to draw; ``None`` makes a figure.
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
    return _finished(axes)


def slices(tables: pd.DataFrame | Mapping[str, pd.DataFrame], axes: Axes | None = None) -> Axes:
    """Draw the AUC of each slice with its interval, the smallest of the first line on top.

    Args:
        tables: The slices of one task, as `recmtl.evaluate.slices.slice_table` gives them, or several such tables of
            the same slices by the name of their line.
        axes: Where to draw; ``None`` makes a figure.
    """
    axes = _axes(axes)
    named = {"": tables} if isinstance(tables, pd.DataFrame) else tables
    values = list(dict.fromkeys(v for table in named.values() for v in table.loc[table["auc"].notna(), "value"]))
    for i, (name, table) in enumerate(named.items()):
        shown = table.set_index("value").reindex(values)
        places = np.arange(len(values)) + (i - (len(named) - 1) / 2) * 0.6 / len(named)
        reach = np.vstack([shown["auc"] - shown["low"], shown["high"] - shown["auc"]])
        bars = axes.errorbar(
            shown["auc"], places, xerr=np.maximum(np.nan_to_num(reach), 0), fmt=MARKERS[i % len(MARKERS)], markersize=4
        )
        bars.set_label(short(name) if name else None)
    axes.axvline(0.5, color=_ink(), linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(values)), [short(value) for value in values])
    axes.set(xlabel="AUC", ylim=(len(values) - 0.5, -0.5))
    return _finished(axes, loc="lower left", bbox_to_anchor=(0, 1))


def short(name: object) -> str:
    """Give a name that matplotlib shows as it is, never as a formula or not at all; a long one lacks its middle."""
    text = str(name)
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME // 2]}…{text[-LONGEST_NAME // 2 + 1 :]}"
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _map_of_means(names: list[str], curves: Curves, axes: Axes) -> Axes:
    """Draw a map of the mean cosine of each pair."""
    ticks = range(len(names))
    means = {name: fmean(values) for name, (_, values) in curves.items()}
    table = [[1.0 if a == b else means.get(f"{a}·{b}", means.get(f"{b}·{a}", 0.0)) for b in names] for a in names]
    axes.pcolormesh(table, vmin=-1, vmax=1, cmap="coolwarm")
    for row, column in itertools.product(ticks, ticks) if len(names) <= MOST_NUMBERS else ():
        text = f"{table[row][column]:.2f}"
        axes.text(column + 0.5, row + 0.5, text, color="black", ha="center", va="center", fontsize="x-small")
    axes.invert_yaxis()
    axes.set_xticks([])  # as the rows
    axes.set_yticks([tick + 0.5 for tick in ticks], [short(name) for name in names])
    axes.set(xlabel="mean cosine of two gradients")
    return axes


def _by_name(scores: Named) -> Mapping[str, Scores | pd.DataFrame]:
    return {scores.task.name: scores} if isinstance(scores, Scores) else scores


def _axes(axes: Axes | None) -> Axes:
    return Figure(layout="constrained").add_subplot() if axes is None else axes


def _ink() -> str:
    """The colour of text: what is no data has it, too."""
    return str(mpl.rcParams["text.color"])


def _finished(axes: Axes, **legend: Any) -> Axes:
    """Set grid and, for several lines, a legend."""
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(handles, labels, fontsize="small", **legend)
    return axes


DEAD = 0.1  # of an even share


def unused_experts(shares: Sequence[float]) -> list[int]:
    """Give the experts that one gate hardly takes: those whose mean weight is below a tenth of an even share."""
    return [expert for expert, share in enumerate(shares) if share < DEAD / len(shares)]


def dead_experts(usage: Mapping[str, Sequence[float]]) -> list[int]:
    """Give the dead experts: those that no gate takes.

    Args:
        usage: By task the mean gate weight of each expert.
    """
    unused = [set(unused_experts(shares)) for shares in usage.values()]
    return sorted(set.intersection(*unused)) if unused else []
