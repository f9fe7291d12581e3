"""The figures of a report, each with what it shows in words and its numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.metrics import auc

from recmtl.evaluate import figures
from recmtl.evaluate.curves import precision_recall_points, reliability, roc_points
from recmtl.evaluate.figures import dead_experts, unused_experts
from recmtl.evaluate.history import Curves
from recmtl.evaluate.scores import Scores
from recmtl.report.elements import Picture, Table
from recmtl.report.svg import HEIGHT, drawn

TENTHS = np.linspace(0, 1, 11)
STEPS = 12  # that the table of a curve shows


class Album:
    """Draws the figures of one page and tells them apart."""

    def __init__(self) -> None:
        self._count = 0

    def _picture(
        self, title: str, words: str, draw: Callable[[Axes], object], table: pd.DataFrame, height: float = HEIGHT
    ) -> Picture:
        self._count += 1
        numbers = Table.of(table, f"Numbers of: {title}", known=False)
        return Picture(title, drawn(draw, words, self._count, height), words, numbers)

    def roc(self, task: str, scores: Mapping[str, Scores]) -> Picture:
        """Draw the ROC curve of a task, a line for each run."""
        points = {name: roc_points(s) for name, s in scores.items()}
        rates = {
            name: np.interp(TENTHS, p["false_positive_rate"], p["true_positive_rate"]) for name, p in points.items()
        }
        areas = {name: auc(p["false_positive_rate"], p["true_positive_rate"]) for name, p in points.items()}
        found = "; ".join(f"{name}: AUC {areas[name]:.3f}, {r[1]:.1%} of the positives" for name, r in rates.items())
        words = f"ROC of {task}: area below the curve, and what is found at a false positive rate of 10 %. {found}."
        table = pd.DataFrame({"false positive rate": TENTHS, **_titled(rates, "true positive rate")})
        return self._picture(f"{task}: ROC", words, lambda axes: figures.roc(points, axes), table)

    def precision_recall(self, task: str, scores: Mapping[str, Scores]) -> Picture:
        """Draw the precision-recall curve of a task, a line for each run."""
        points = {name: precision_recall_points(s) for name, s in scores.items()}
        at = {name: p["precision"].to_numpy()[np.searchsorted(p["recall"], TENTHS)] for name, p in points.items()}
        base = ", ".join(sorted({f"{_rate(s):.2%}" for s in scores.values()}))
        found = "; ".join(f"{name}: {p[5]:.2%}" for name, p in at.items())
        words = f"Precision over recall of {task}: precision where half of the positives are found; all rows have "
        words += f"{base} positives. {found}."
        table = pd.DataFrame({"recall": TENTHS, **_titled(at, "precision")})
        draw = figures.precision_recall
        return self._picture(f"{task}: precision and recall", words, lambda axes: draw(points, axes), table)

    def reliability(self, task: str, scores: Mapping[str, Scores]) -> Picture:
        """Draw the reliability diagram of a task, a line for each run."""
        tables = {name: reliability(s).reset_index(drop=True) for name, s in scores.items()}
        worst = {
            name: t.iloc[int((t["predicted"] - t["observed"]).abs().to_numpy().argmax())] for name, t in tables.items()
        }
        found = "; ".join(
            f"{name}: {w['observed']:.2%} where {w['predicted']:.2%} is predicted" for name, w in worst.items()
        )
        words = f"Observed over predicted rate of {task}: the bin that is furthest off. {found}."
        parts = [t[["predicted", "observed", "rows"]] for t in tables.values()]
        table = pd.concat(parts, keys=list(tables), names=["run"]).reset_index("run")
        table = table[["run", *parts[0].columns]] if len(tables) > 1 else table.drop(columns="run")
        draw = figures.reliability
        return self._picture(f"{task}: reliability", words, lambda axes: draw(scores, axes), table)

    def over_steps(self, title: str, label: str, curves: Curves, logarithmic: bool = False) -> Picture:
        """Draw curves over the steps of a training."""
        words = f"{title}. {_courses(curves)}"
        draw = figures.over_steps
        return self._picture(title, words, lambda axes: draw(curves, label, axes, logarithmic), _steps_table(curves))

    def cosines(self, title: str, records: Sequence[Mapping[str, object]], curves: Curves) -> Picture:
        """Draw the cosines of a training's gradients."""
        means = {name: float(np.mean(values)) for name, (_, values) in curves.items()}
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        words = f"{title}. Pairs of tasks: {len(means)}. Lowest mean: {low} at {means[low]:.3f}; highest: {high} at "
        words += f"{means[high]:.3f}. Below 0 the tasks pull apart."
        table = pd.DataFrame({"pair": list(means), "mean cosine": list(means.values())})
        return self._picture(title, words, lambda axes: figures.cosines(records, axes), table)

    def usage(self, title: str, usage: Mapping[str, Sequence[float]]) -> Picture:
        """Draw what gates take of the experts."""
        table = pd.DataFrame({"expert": range(len(next(iter(usage.values())))), **usage})
        most = "; ".join(f"{task}: expert {int(np.argmax(s))} with {max(s):.1%}" for task, s in usage.items())
        words = f"{title}. Most used. {most}. {dead_sentence(usage)}"
        return self._picture(title, words, lambda axes: figures.expert_usage(usage, axes), table)

    def slices(self, title: str, tables: Mapping[str, pd.DataFrame]) -> Picture:
        """Draw the AUC of the slices of one task, a line for each run."""
        ends = {name: table[table["auc"].notna()].iloc[[0, -1]].to_dict("records") for name, table in tables.items()}
        found = "; ".join(
            f"{name}: lowest {low['value']} at {low['auc']:.4f} ({low['rows']:,} rows), highest {high['value']} at "
            f"{high['auc']:.4f} ({high['rows']:,} rows)"
            for name, (low, high) in ends.items()
        )
        parts = pd.concat(tables, names=["run"]).reset_index("run")
        table = parts[["value", *(["run"] if len(tables) > 1 else []), "auc", "low", "high", "rows", "positives"]]
        shown = tables if len(tables) > 1 else next(iter(tables.values()))
        height = max(HEIGHT, 1 + len(table) * (0.24 if len(tables) == 1 else 0.16) + 0.2 * len(tables))
        return self._picture(title, f"{title}. {found}.", lambda axes: figures.slices(shown, axes), table, height)


def dead_sentence(usage: Mapping[str, Sequence[float]]) -> str:
    """Name the dead experts, and those that one task alone does not use."""
    dead = dead_experts(usage)
    named = f"Dead (below a tenth of an even share for every task): {', '.join(map(str, dead)) or 'none'}."
    unused = {task: [e for e in unused_experts(shares) if e not in dead] for task, shares in usage.items()}
    alone = [f"{task} does not use {', '.join(map(str, experts))}" for task, experts in unused.items() if experts]
    return f"{named} Besides, {'; '.join(alone)}." if alone else named


def _titled(columns: Mapping[str, object], what: str) -> dict[str, object]:
    """Name the only column by what it holds, several by their runs."""
    return {what if len(columns) == 1 else name: column for name, column in columns.items()}


def _rate(scores: Scores) -> float:
    return float(np.average(scores.labels, weights=scores.weight))


def _courses(curves: Curves) -> str:
    return (
        "; ".join(
            f"{name}: from {values[0]:.4g} at step {steps[0]:,} to {values[-1]:.4g} at step {steps[-1]:,}, "
            f"between {min(values):.4g} and {max(values):.4g}"
            for name, (steps, values) in curves.items()
        )
        + "."
    )


def _steps_table(curves: Curves) -> pd.DataFrame:
    """Set curves side by side, at some of their steps."""
    series = {name: pd.Series(values, index=steps, dtype=float) for name, (steps, values) in curves.items()}
    table = pd.DataFrame({name: values[~values.index.duplicated(keep="last")] for name, values in series.items()})
    chosen = np.unique(np.linspace(0, len(table) - 1, min(STEPS, len(table))).astype(int))
    return table.iloc[chosen].rename_axis("step").reset_index()
