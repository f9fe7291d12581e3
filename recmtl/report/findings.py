"""What stands out in runs: what a reader should look at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from recmtl.data import Description
from recmtl.errors import counted
from recmtl.evaluate.figures import dead_experts
from recmtl.evaluate.history import diagnosis_curves, metric_curves
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import LOWER_IS_BETTER, metric_title
from recmtl.io.display import decimal
from recmtl.report.runs import ReportedRun
from recmtl.schema.task_kinds import TASK_KINDS

SectionName = Literal["data", "metrics", "calibration", "curves", "experts", "learning", "balance"]
ORDER: tuple[SectionName, ...] = get_args(SectionName)  # the most serious first
CHANGE = 0.01  # of a validation metric, relative, that counts as overfitting or as still learning
CALIBRATION_ERROR = 0.05  # of the mean prediction, relative
FEW_POSITIVES = 50  # of a task: the intervals are wide
CHANCE = {
    "auc": (0.5, "negatives are ranked above positives"),
    "macro_auc": (0.5, "rows of other classes are ranked above those of a class"),
    "gini": (0.0, "lower labels are ranked above higher ones"),
}  # the value of a metric by chance, and what a lower one says
CONFLICT = -0.05  # the mean cosine of two gradients


@dataclass(frozen=True)
class Finding:
    """What stands out, of what, and the section of the page that shows it."""

    about: str  # tasks and runs; empty for a whole sentence
    says: str
    section: SectionName

    @property
    def text(self) -> str:
        """The sentence."""
        return f"{self.about}: {self.says}." if self.about else self.says + "." * (not self.says.endswith("?"))


def findings(
    runs: Sequence[ReportedRun],
    metrics: pd.DataFrame,
    data: Sequence[tuple[Sequence[ReportedRun], Description]] = (),
) -> list[Finding]:
    """Return what stands out in runs, the most serious first.

    Args:
        runs: The runs.
        metrics: Their `metric_frame`.
        data: What is known of their data, each with the runs that have it.
    """
    found = [Finding("", warning, "data") for _, description in data for warning in description.warnings]
    for run in runs:
        of_run = metrics[metrics["run"] == run.name]
        run_name = run.name if len(runs) > 1 else ""
        for task, rows in of_run.groupby("task", sort=False):
            name = f"{run_name}, {task}" if run_name else str(task)
            calibrated = bool(run.predictions.uncalibrated)
            found += of_task(name, rows.set_index("metric").to_dict("index"), calibrated)
        found += _of_training(run_name, run)
    found = [
        Finding(", ".join(finding.about for finding in same), says, section)
        for (says, section), same in _by_content(found).items()
    ]
    return sorted(found, key=lambda finding: ORDER.index(finding.section))


def _by_content(found: Sequence[Finding]) -> dict[tuple[str, SectionName], list[Finding]]:
    """Group findings that say the same of several tasks or runs."""
    groups: dict[tuple[str, SectionName], list[Finding]] = {}
    for finding in found:
        groups.setdefault((finding.says, finding.section), []).append(finding)
    return groups


def of_task(name: str, found: Mapping[Any, Mapping[Any, Any]], calibrated: bool = False) -> Iterator[Finding]:
    """Yield what stands out of a task of a run, given the rows of its `metric_frame` by metric."""
    first = next(iter(found.values()))
    missing = {metric_title(metric): row["reason"] for metric, row in found.items() if np.isnan(row["value"])}
    if missing:
        reasons = "; ".join(dict.fromkeys(missing.values()))
        yield Finding(name, f"{', '.join(missing)} undefined, as {reasons}", "metrics")
    for metric, (chance, wrong) in CHANCE.items():
        ranks = found.get(metric)
        if ranks and ranks["low"] <= chance <= ranks["high"]:
            yield Finding(name, "not better than chance, as far as these rows can tell", "metrics")
        elif ranks and ranks["high"] < chance:
            yield Finding(name, f"worse than chance: {wrong}", "metrics")
    loss = found.get(MEASURES[first["kind"]].fallback)
    if loss and 0 < first["constant"] < loss["value"]:
        constant = "the shares of the classes" if TASK_KINDS[first["kind"]].has_classes else "the mean label"
        yield Finding(name, f"worse than predicting {constant} for every row", "metrics")
    if 0 < first["positives"] < FEW_POSITIVES:
        few = counted(int(first["positives"]), "positive")
        yield Finding(name, f"only {few}, so the intervals are wide", "metrics")
    mean = found.get("calibration")
    if mean and abs(mean["value"] - 1) > CALIBRATION_ERROR and not mean["low"] <= 1 <= mean["high"]:
        side = "high" if mean["value"] > 1 else "low"
        binary = not np.isnan(first["positives"])
        advice = ", which `recmtl calibrate` mends" if binary and not calibrated else ""
        where: SectionName = "calibration" if binary else "curves"
        yield Finding(name, f"predictions are {abs(mean['value'] - 1):.0%} too {side} in the mean{advice}", where)


def _of_training(run_name: str, run: ReportedRun) -> Iterator[Finding]:
    if dead := dead_experts(run.usage):
        is_dead = "is dead: no task uses it" if len(dead) == 1 else "are dead: no task uses them"
        yield Finding(run_name or "experts", f"expert {', '.join(map(str, dead))} {is_dead}", "experts")
    where = f"{run_name}, " if run_name else ""
    for name, (steps, values) in metric_curves(run.records).items():
        task, _, metric = name.rpartition(" ")
        yield from of_curve(f"{where}{task}", metric, steps, values)
    for pair, (_, cosines) in diagnosis_curves(run.records, "cosine").items():
        if np.mean(cosines) < CONFLICT:
            says = f"gradients conflict, with a mean cosine of {np.mean(cosines):.2f}: other balancers may help"
            yield Finding(f"{where}{pair.replace('·', ' and ')}", says, "balance")


def of_curve(name: str, metric: str, steps: Sequence[int], values: Sequence[float]) -> Iterator[Finding]:
    """Yield whether a validation metric was better before the end, or was still improving."""
    gains = -np.array(values) if metric in LOWER_IS_BETTER else np.array(values)
    best, scale = int(gains.argmax()), CHANGE * abs(gains).max()
    title = f"{metric_title(metric)} on validation rows"
    if gains[best] - gains[-1] > scale:
        fell = f"was {decimal(values[best])} at step {steps[best]:,} and {decimal(values[-1])} at the end"
        yield Finding(name, f"overfitting, as {title} {fell}", "learning")
    elif len(gains) > 1 and best == len(gains) - 1 and gains[-1] - gains[-2] > scale / 2:
        yield Finding(name, f"{title} was still improving at the end: train longer", "learning")
