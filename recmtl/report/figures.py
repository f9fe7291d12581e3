"""The figures of a report, each with a description in words and a table of its numbers."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from recmtl.evaluate import figures
from recmtl.evaluate.binary import score_histogram
from recmtl.evaluate.curves import precision_recall_points, reliability_bins, roc_points
from recmtl.evaluate.figures import dead_experts, unused_experts
from recmtl.evaluate.history import Curves
from recmtl.evaluate.scores import Scores
from recmtl.report.elements import Picture, Table

INK, EDGE, GRID = "#1b1b1c", "#6b6b6d", "#b4b4b6"
SERIES = ("#0b5fa5", "#b34700", "#00704a", "#8a2d8f", "#7a5c00", "#b3123d", "#00697a", "#55555a")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 1)))
STYLE: Any = {  # a transparent background: the page inverts the figures in a dark colour scheme
    "svg.fonttype": "none",
    "svg.hashsalt": "recmtl",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=SERIES) + cycler(linestyle=DASHES),
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "font.size": 12,
}
WIDTH, HEIGHT = 5.0, 3.7  # inches
LABEL, CHARACTER = 20.0, 7.2  # points that the label of an axis takes, and a character of a tick
INVALID_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TENTHS = np.linspace(0, 1, 11)
TABLE_STEPS = 12  # rows in the table of a curve over steps


def image(draw: Callable[[Axes], object], height: float = HEIGHT) -> str:
    """Draw a figure as an SVG in a data URI, without metadata and the same each time."""
    file = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the text is set by the browser, which has more glyphs
        figure = Figure((WIDTH, height))
        draw(figure.add_subplot())
        _fit(figure)
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = INVALID_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue())
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def _fit(figure: Figure) -> None:
    """Make room for the labels of the axes, in half of the time that a layout engine of matplotlib takes."""
    first, twin = figure.axes[0], figure.axes[1:]
    legend = first.get_legend()
    lines = 0
    if legend is not None and legend.get_bbox_to_anchor().height == 0:  # anchored to a point above the plot
        lines = -(-len(legend.texts) // getattr(legend, "_ncols", 1))
    below = max((1 + text.count("\n") for text in _texts(first.xaxis)), default=0)
    named = isinstance(first.xaxis.get_major_locator(), FixedLocator)  # ticks that were set
    turned = named and any(label.get_rotation() for label in first.get_xticklabels())
    width, height = (72 * float(size) for size in figure.get_size_inches())  # points
    figure.subplots_adjust(
        left=max(_room(first.yaxis), 60 * turned) / width,
        right=1 - (_room(twin[0].yaxis) if twin else 16) / width,
        bottom=(14 * below + (30 if turned else 0) + LABEL + 4) / height,
        top=1 - (10 + 16 * lines) / height,
    )


def _room(axis: Axis) -> float:
    """Return how many points an axis takes beside the plot."""
    longest = max((len(text) for text in _texts(axis)), default=0)
    return 8 + CHARACTER * longest + (LABEL if axis.get_label_text() else 0)


def _texts(axis: Axis) -> list[str]:
    """Return the labels of the ticks, which are not made for it."""
    labels = axis.get_major_formatter().format_ticks(axis.get_majorticklocs().tolist())
    return ["10-1" if "$" in text else text for text in labels]


def picture(
    title: str, words: str, draw: Callable[[Axes], object], numbers: pd.DataFrame, height: float = HEIGHT
) -> Picture:
    """Draw a figure with its description and numbers."""
    return Picture(title, image(draw, height), words, Table.of(numbers, f"Numbers of: {title}", known=False))


def roc_picture(task: str, scores: Mapping[str, Scores]) -> Picture:
    """Draw the ROC curve of a task, a line for each run."""
    points = {name: roc_points(s) for name, s in scores.items()}
    rates = {name: np.interp(TENTHS, p["false_positive_rate"], p["true_positive_rate"]) for name, p in points.items()}
    areas = {name: score_histogram(s).auc() for name, s in scores.items()}
    values = "; ".join(f"{name}: AUC {areas[name]:.4f}, true positive rate {r[1]:.1%}" for name, r in rates.items())
    words = f"ROC curve of {task}: AUC, and true positive rate at a false positive rate of 10 %. {values}."
    numbers = pd.DataFrame({"false positive rate": TENTHS, **_by_run(rates, "true positive rate")})
    return picture(f"{task}: ROC", words, lambda axes: figures.roc(scores, axes), numbers)


def precision_recall_picture(task: str, scores: Mapping[str, Scores]) -> Picture:
    """Draw the precision-recall curve of a task, a line for each run."""
    points = {name: precision_recall_points(s) for name, s in scores.items()}
    at = {name: p["precision"].to_numpy()[np.searchsorted(p["recall"], TENTHS)] for name, p in points.items()}
    rates = {f"{np.average(s.labels, weights=s.weight):.2%}" for s in scores.values()}
    values = "; ".join(f"{name}: {p[5]:.2%}" for name, p in at.items())
    words = f"Precision-recall curve of {task}: precision at a recall of 50 %. {values}. "
    words += f"Share of positives: {', '.join(sorted(rates))}."
    numbers = pd.DataFrame({"recall": TENTHS, **_by_run(at, "precision")})
    draw = figures.precision_recall
    return picture(f"{task}: precision and recall", words, lambda axes: draw(points, axes), numbers)


def reliability_picture(task: str, scores: Mapping[str, Scores]) -> Picture:
    """Draw the reliability diagram of a task, a line for each run."""
    bins = {name: reliability_bins(s)[["predicted", "observed", "rows"]] for name, s in scores.items()}
    worst = {name: b.iloc[int((b["predicted"] - b["observed"]).abs().argmax())] for name, b in bins.items()}
    values = "; ".join(
        f"{name}: predicted {w['predicted']:.2%}, observed {w['observed']:.2%}" for name, w in worst.items()
    )
    words = f"Observed over predicted rate of {task}: the bin with the largest error. {values}."
    numbers = pd.concat(bins, names=["run"]).reset_index("run")
    numbers = numbers if len(bins) > 1 else numbers.drop(columns="run")
    return picture(f"{task}: reliability", words, lambda axes: figures.reliability(scores, axes), numbers)


def decile_picture(task: str, tables: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw mean labels over mean predictions of a task by decile of the prediction, a line for each run."""
    ends = {name: table.iloc[[0, -1]].to_dict("records") for name, table in tables.items()}
    values = "; ".join(
        f"{name}: lowest decile predicted {low['predicted']:.4g}, observed {low['observed']:.4g}; highest predicted "
        f"{high['predicted']:.4g}, observed {high['observed']:.4g}"
        for name, (low, high) in ends.items()
    )
    words = f"Mean label over mean prediction of {task} by decile of the prediction. {values}."
    numbers = pd.concat(tables, names=["run"]).reset_index("run")
    numbers = numbers[[*(["run"] if len(tables) > 1 else []), "predicted", "observed", "rows"]]
    return picture(f"{task}: mean label by prediction", words, lambda axes: figures.deciles(tables, axes), numbers)


def steps_picture(title: str, label: str, curves: Curves, logarithmic: bool = False) -> Picture:
    """Draw curves over the steps of a training."""
    values = "; ".join(
        f"{name}: from {values[0]:.4g} at step {steps[0]:,} to {values[-1]:.4g} at step {steps[-1]:,}, "
        f"between {min(values):.4g} and {max(values):.4g}"
        for name, (steps, values) in curves.items()
    )
    series = {name: pd.Series(values, steps, float) for name, (steps, values) in curves.items()}
    numbers = pd.DataFrame({name: values[~values.index.duplicated(keep="last")] for name, values in series.items()})
    shown = np.unique(np.linspace(0, len(numbers) - 1, min(TABLE_STEPS, len(numbers))).astype(int))
    numbers = numbers.iloc[shown].rename_axis("step").reset_index()
    draw = figures.over_steps
    return picture(title, f"{title}. {values}.", lambda axes: draw(curves, label, axes, logarithmic), numbers)


def cosine_picture(title: str, records: Sequence[Mapping[str, object]], curves: Curves) -> Picture:
    """Draw the cosines between the tasks' gradients over a training."""
    means = {name: float(np.mean(values)) for name, (_, values) in curves.items()}
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    words = f"{title}. Pairs of tasks: {len(means)}. Lowest mean: {low} at {means[low]:.3f}; highest: {high} at "
    words += f"{means[high]:.3f}. Below 0 the gradients conflict."
    numbers = pd.DataFrame({"pair": list(means), "mean cosine": list(means.values())})
    return picture(title, words, lambda axes: figures.cosines(records, axes), numbers)


def expert_picture(title: str, usage: Mapping[str, Sequence[float]]) -> Picture:
    """Draw the mean gate weight of each expert for each task."""
    numbers = pd.DataFrame({"expert": range(len(next(iter(usage.values())))), **usage})
    most = "; ".join(f"{task}: expert {int(np.argmax(s))} with {max(s):.1%}" for task, s in usage.items())
    words = f"{title}. Most used: {most}. {dead_experts_note(usage)}"
    return picture(title, words, lambda axes: figures.expert_usage(usage, axes), numbers)


def slice_picture(title: str, tables: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw the AUC of the slices of one task, a series for each run."""
    ends = {}
    for name, table in tables.items():
        defined = table[table["auc"].notna()]
        enough = defined[~defined["few"]]
        ends[name] = (enough if len(enough) else defined).iloc[[0, -1]].to_dict("records")
    values = "; ".join(
        f"{name}: lowest {low['value']} at {low['auc']:.4f} ({low['rows']:,} rows), highest {high['value']} at "
        f"{high['auc']:.4f} ({high['rows']:,} rows)"
        for name, (low, high) in ends.items()
    )
    numbers = pd.concat(tables, names=["run"]).reset_index("run")
    numbers = numbers[["value", *(["run"] if len(tables) > 1 else []), "auc", "low", "high", "rows", "positives"]]
    shown = tables if len(tables) > 1 else next(iter(tables.values()))
    height = max(HEIGHT, 1 + len(numbers) * (0.24 if len(tables) == 1 else 0.16) + 0.2 * len(tables))
    return picture(title, f"{title}. {values}.", lambda axes: figures.slices(shown, axes), numbers, height)


def dead_experts_note(usage: Mapping[str, Sequence[float]]) -> str:
    """Return which experts are dead, and which are unused by single tasks."""
    dead = dead_experts(usage)
    note = f"Dead experts (below a tenth of an even share for every task): {', '.join(map(str, dead)) or 'none'}."
    unused = {task: [e for e in unused_experts(shares) if e not in dead] for task, shares in usage.items()}
    return note + "".join(f" Unused by {task}: {', '.join(map(str, e))}." for task, e in unused.items() if e)


def _by_run(columns: Mapping[str, object], title: str) -> dict[str, object]:
    """Name a single column by its content, several by their runs."""
    return {title if len(columns) == 1 else name: column for name, column in columns.items()}
