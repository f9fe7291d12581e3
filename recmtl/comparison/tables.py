"""The tables of a comparison as they are shown, with the sentences that they support."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from recmtl.comparison.comparison import Comparison
from recmtl.comparison.differences import ROW, possible, rows_of
from recmtl.comparison.grid import Row
from recmtl.evaluate import LOWER_IS_BETTER

TIED = "‡"
MISSING = "–"


@dataclass(frozen=True)
class Field:
    """A field of a table.

    Args:
        text: What it says.
        bold: Whether it stands out.
        tied: Whether it bears the mark of what cannot be told apart from the best.
    """

    text: str
    bold: bool = False
    tied: bool = False

    def __str__(self) -> str:
        return f"{self.text} {TIED}" if self.tied else self.text


@dataclass(frozen=True)
class ResultTable:
    """A table as it is shown.

    Args:
        title: What it is.
        header: The names of its columns.
        rows: Its fields, row by row; the first `named` of each name the row.
        named: How many columns name a row.
        notes: What stands below: what the marks mean, what can be said, what failed.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Field]]
    named: int
    notes: Sequence[str]


def sheets(comparison: Comparison, metric: str | None = None) -> list[ResultTable]:
    """Give the table of a comparison, and where single-task training is among its models, the table of transfer."""
    shown = [main_sheet(comparison, metric)]
    if comparison.single:
        shown.append(transfer_sheet(comparison, comparison.single, metric))
    return shown


def main_sheet(comparison: Comparison, metric: str | None = None) -> ResultTable:
    """Give mean and sd of each row and task, wall time and memory."""
    means, tested = comparison.table(metric), comparison.differences(metric)
    fields = {
        (row, line.task): Field(_mean(line), bool(line.best), bool(line.tied))
        for row, line in zip(rows_of(means), means.itertuples(), strict=True)
    }
    titles = dict(zip(means["task"], means["metric"], strict=True))
    cells, rows = comparison.cells, []
    for row in dict.fromkeys(rows_of(cells)):
        runs = cells[[other == row for other in rows_of(cells)]]
        finished = f"{(runs['state'] == 'finished').sum()}"
        counted = finished if finished == f"{len(runs)}" else f"{finished} of {len(runs)}"
        spent = [
            Field(counted),
            Field(_seconds(runs["seconds"].mean())),
            Field(_bytes(runs["peak_memory_bytes"].max())),
        ]
        rows.append([*_names(row, cells), *(fields.get((row, task), Field(MISSING)) for task in titles), *spent])
    claim = f"at 95 % (Holm, {_counted(possible(means), 'pair')} of rows)"
    notes = [
        f"Mean ± sd over the seeds, on the {comparison.split} rows; bold: the best of a column; {TIED}: cannot be told "
        f"apart from it at 95 % ({_test(titles)}; Holm's correction over all pairs of rows, as data choose it). "
        "Time is the mean of a run, memory the most that one took.",
        *(_sentence(task, means[means["task"] == task], tested[tested["task"] == task], claim) for task in titles),
        *_single(means, tested),
        *_failures(cells),
    ]
    header = [*_header(cells), *(f"{task} {name}" for task, name in titles.items()), "runs", "time", "memory"]
    return ResultTable("comparison", header, rows, len(_header(cells)), notes)


def transfer_sheet(comparison: Comparison, single: str, metric: str | None = None) -> ResultTable:
    """Give each row's difference to single-task training, task by task."""
    tested = comparison.differences(metric, single)
    titles = dict(zip(tested["task"], tested["metric"], strict=True))
    fields = {
        (row, line.task): Field(_difference(line), bool(line.apart))
        for row, line in zip(rows_of(tested), tested.itertuples(), strict=True)
    }
    rows = [
        [*_names(row, tested), *(fields.get((row, task), Field(MISSING)) for task in titles)]
        for row in dict.fromkeys(rows_of(tested))
    ]
    claim = f"at 95 % (Holm, {_counted(int(tested['p'].notna().sum()), 'comparison')})"
    notes = [
        f"Difference to {single}, on the {comparison.split} rows, with its 95 % interval taken alone; bold: told apart "
        f"from 0 at 95 % ({_test(titles)}; Holm's correction over all comparisons).",
        *(_transfer(task, tested[tested["task"] == task], claim) for task in titles),
        *_single(comparison.table(metric), tested),
    ]
    header = [*_header(tested), *(f"{task} {name}" for task, name in titles.items())]
    return ResultTable("transfer", header, rows, len(_header(tested)), notes)


def flat(comparison: Comparison, metric: str | None = None) -> pd.DataFrame:
    """Give all of the table as plain numbers, a line for each row and task."""
    tested = comparison.differences(metric).drop(columns=["metric", "apart"])
    spent = comparison.cells.groupby(ROW, sort=False, dropna=False).agg(
        seconds=("seconds", "mean"), peak_memory_bytes=("peak_memory_bytes", "max")
    )
    return comparison.table(metric).merge(tested, "left", [*ROW, "task"]).merge(spent.reset_index(), "left", ROW)


def _sentence(task: str, means: pd.DataFrame, tested: pd.DataFrame, claim: str) -> str:
    """Say what can be said of the best row of a task, and no more."""
    best = [str(row) for row in rows_of(means[means["best"]])]
    apart, rest = int(tested["apart"].sum()), int((~tested["apart"]).sum())
    if not best:
        return f"On {task}, {means['metric'].iloc[0]} is undefined."
    if tested.empty:
        return f"On {task}, there is nothing to hold {best[0]} against."
    if tested["p"].isna().all():
        return f"On {task}, nothing can be told: {_untested(means)}."
    if not apart:
        return f"On {task}, no row can be told apart from the best, {best[0]}, {claim}."
    if not rest:
        return f"On {task}, {best[0]} is better than {_counted(apart, 'other row')}, {claim}."
    return (
        f"On {task}, {_counted(rest, 'row')} cannot be told apart from the best, {best[0]}; "
        f"{_counted(apart, 'row')} {'is' if apart == 1 else 'are'} worse, {claim}."
    )


def _untested(means: pd.DataFrame) -> str:
    """Say why no row could be tested."""
    metric = means["metric"].iloc[0]
    if metric != "auc" and (means["runs"] < 2).any():
        return f"a single seed leaves {metric} untested"
    return f"the rows and seeds at hand do not show how far {metric} varies"


def _single(means: pd.DataFrame, tested: pd.DataFrame) -> list[str]:
    """Say what a test of a row with a single run is about."""
    once = (means["metric"] == "auc") & (means["runs"] == 1)
    said = once.any() and tested["p"].notna().any()
    return ["A row with a single run is tested as that run: other seeds might give another."] if said else []


def _transfer(task: str, tested: pd.DataFrame, claim: str) -> str:
    """Name the rows of negative and of positive transfer."""
    lower = tested["metric"].isin(LOWER_IS_BETTER)
    gain = tested["estimate"].where(~lower, -tested["estimate"])
    said = []
    for word, chosen in (("negative", tested["apart"] & (gain < 0)), ("positive", tested["apart"] & (gain > 0))):
        if chosen.any():
            said.append(f"{word} for {', '.join(map(str, rows_of(tested[chosen])))}")
    rest = int((~tested["apart"]).sum())
    if not said:
        return f"On {task}, no row can be told apart from single-task training, {claim}."
    left = f"; {_counted(rest, 'row')} cannot be told apart from single-task training" if rest else ""
    return f"On {task}, transfer is {' and '.join(said)}{left}, {claim}."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def _test(titles: Mapping[str, str]) -> str:
    """Name the tests of the metrics that are shown."""
    others = [name for name in dict.fromkeys(titles.values()) if name != "auc"]
    parts = ["auc: DeLong's variance over rows and that over seeds"] if "auc" in titles.values() else []
    return "; ".join([*parts, *([f"{', '.join(others)}: t test over seeds"] if others else [])])


def _failures(cells: pd.DataFrame) -> Iterator[str]:
    failed = cells[cells["state"] == "failed"]
    for row, run in zip(rows_of(failed), failed.itertuples(), strict=True):
        yield f"Failed: {row}, seed {run.seed}: {run.error}"
    unfinished = int((cells["state"] == "unfinished").sum())
    if unfinished:
        yield f"{_counted(unfinished, 'run')} not finished."


def _header(frame: pd.DataFrame) -> list[str]:
    return ["model", "balancer", *(["learning rate"] if frame["learning_rate"].notna().any() else [])]


def _names(row: Row, frame: pd.DataFrame) -> list[Field]:
    names = [row.model, row.balancer, MISSING if row.learning_rate is None else f"{row.learning_rate:g}"]
    return [Field(name) for name, _ in zip(names, _header(frame), strict=False)]


def _mean(line: Any) -> str:
    if math.isnan(line.mean):
        return MISSING
    return f"{line.mean:.4f}" if math.isnan(line.sd) else f"{line.mean:.4f} ± {line.sd:.4f}"


def _difference(line: Any) -> str:
    if math.isnan(line.estimate):
        return MISSING
    return f"{line.estimate:+.4f} [{line.low:+.4f}, {line.high:+.4f}]".replace("-", "−")


def _seconds(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:,.1f} s"


def _bytes(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value / 1e6:,.0f} MB"
