"""The top of a report: what was trained, how good it is, and what to look at, in a few sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recmtl.errors import counted
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import metric_title
from recmtl.io.display import decimal, signed
from recmtl.io.untrusted import from_yaml
from recmtl.report.elements import Section, Verdict, VerdictLine
from recmtl.report.findings import Finding
from recmtl.report.runs import ReportedRun
from recmtl.schema.features import KIND_NAMES

MOST_SENTENCES = 6  # of a line
LEVEL = 0.95  # of tests
SECTION, TITLE = "verdict", "In short"


def verdict_section(
    runs: Sequence[ReportedRun], metrics: pd.DataFrame, differences: pd.DataFrame, findings: Sequence[Finding]
) -> Section:
    """Build the verdict.

    Args:
        runs: The runs.
        metrics: Their `metric_frame`.
        differences: Their `difference_frame`; empty for a single run.
        findings: What stands out.
    """
    results = [*_results(metrics, differences)]
    more = len(results) - MOST_SENTENCES
    shown = results if more <= 1 else [*results[:MOST_SENTENCES], f"{more} more tasks are in the table."]
    lines = [
        VerdictLine("Trained", [f"{_trained(run, len(runs) > 1)}." for run in runs]),
        VerdictLine("Result", [*shown, *_untested(runs, differences)]),
    ]
    if findings:
        known, rest = findings[:MOST_SENTENCES], findings[MOST_SENTENCES:]
        texts = [finding.text for finding in known]
        if rest:
            texts[-1] += f" {len(rest)} more below."
        lines.append(VerdictLine("Look at", texts, [finding.section for finding in known], warning=True))
    else:
        lines.append(VerdictLine("Look at", ["Nothing stands out."]))
    return Section(SECTION, TITLE, [Verdict(lines)])


def _trained(run: ReportedRun, named: bool) -> str:
    """Return what was trained, on what, and what it was measured on."""
    content = _settings(run.recipe)
    model, balancer = (_class_name(content.get(key)) for key in ("model", "balancer"))
    last = max((record.get("step", 0), record.get("epoch", 0)) for record in run.records) if run.records else (0, 0)
    kinds = [KIND_NAMES[type(feature)] for feature in run.fitted.schema.features]
    tasks = len(run.fitted.schema.reported_tasks)
    learnt = f" in {counted(last[1], 'epoch')} ({counted(last[0], 'step')})" if last[0] else ""
    rows = run.fitted.history.rows
    seen = f" on {counted(rows, 'row')}" if rows else ""
    measured = counted(len(next(iter(run.predictions.labels.values()))), f"{run.split} row")
    method = f"{model} with {balancer}" if balancer else model
    return (
        f"{f'{run.name}: ' if named else ''}{method} for {counted(tasks, 'task')}"
        f"{learnt}{seen} with {counted(len(kinds), 'feature')}; "
        f"measured on {measured}"
    )


def _settings(recipe: str) -> Mapping[str, Any]:
    try:
        content = from_yaml(recipe)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _class_name(part: Any) -> str:
    path = part.get("class_path") if isinstance(part, dict) else part
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def _results(metrics: pd.DataFrame, differences: pd.DataFrame) -> Iterator[str]:
    """Yield how good each task is, beside a constant prediction; of several runs, whether they differ."""
    for task, of_task in metrics.groupby("task", sort=False):
        by_run = {str(run): rows.set_index("metric") for run, rows in of_task.groupby("run", sort=False)}
        first, found = next(iter(by_run.items()))
        said = f"{task}: {_score(found)}{_beside_constant(found)}"
        if len(by_run) > 1:
            said = f"{task}: {first} {_score(found)}{_beside_constant(found)}"
            others = differences[differences["task"] == task].set_index("run").to_dict("index")
            said += "".join(f"; {run} {_other(rows, others.get(run))}" for run, rows in [*by_run.items()][1:])
        yield f"{said}."


def _score(found: pd.DataFrame) -> str:
    """Return the main metric with its interval."""
    name, main = str(found.index[0]), found.iloc[0]
    if np.isnan(main["value"]):
        return f"{metric_title(name)} is undefined ({main['reason']})"
    ends = "" if np.isnan(main["low"]) else f" ({decimal(main['low'])} to {decimal(main['high'])})"
    return f"{metric_title(name)} {decimal(main['value'])}{ends}"


def _beside_constant(found: pd.DataFrame) -> str:
    """Return how the predictions compare with the same one for every row."""
    first = found.iloc[0]
    chance = ", where 0.5 is chance" if found.index[0] in ("auc", "macro_auc") and not np.isnan(first["value"]) else ""
    loss = MEASURES[first["kind"]].fallback
    ratio = found["value"].get(loss, np.nan) / first["constant"] if first["constant"] else np.nan
    if np.isnan(ratio):
        return chance
    mean = decimal(first["mean"]) if np.isnan(first["positives"]) else f"{first['mean']:.2%}"
    constant = "the shares of the classes" if np.isnan(first["mean"]) else mean
    return f"{chance}; {metric_title(loss)} {_gain(1 - ratio)} that of predicting {constant} for every row"


def _gain(gain: float) -> str:
    return f"{abs(gain):.1%} {'below' if gain >= 0 else 'above'}"


def _other(found: pd.DataFrame, difference: Mapping[Any, Any] | None) -> str:
    """Return how another run differs from the first."""
    if difference is None:
        return _score(found)
    size, *ends = signed(difference["difference"], difference["low"], difference["high"])
    real = "a real difference" if difference["p_holm"] < 1 - LEVEL else "which may be chance"
    way = "higher" if difference["difference"] > 0 else "lower"
    return f"is {way} by {size[1:]} ({' to '.join(ends)}), {real} (p = {difference['p_holm']:.2g})"


def _untested(runs: Sequence[ReportedRun], differences: pd.DataFrame) -> Iterator[str]:
    if len(runs) > 1 and len(differences):
        yield "Other seeds may give other results: `recmtl compare` trains several."
