"""The page of a replay: metrics by day, differences between the modes, growth of the tables and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recmtl.evaluate import figures
from recmtl.evaluate.intervals import Interval
from recmtl.evaluate.metrics import LOWER_IS_BETTER, metric_title
from recmtl.io.display import signed
from recmtl.io.output import new_output
from recmtl.io.untrusted import from_json, read_text
from recmtl.replays.results import CONTENT, Replay
from recmtl.report.elements import Code, Part, Picture, Section, Table, Verdict, VerdictLine
from recmtl.report.figures import picture
from recmtl.report.page import check_report, render_page

GROWTH = {"table_rows": "rows of the tables", "train_rows": "training rows", "seconds": "seconds of training"}
MODES_TEXT = (
    "Each day is measured by a run that saw only the days before it: warm goes on from the run of the day before, anew "
    "trains new weights on all days so far, frozen is the run of the first day."
)


def write_replay_report(replay: Replay, out: str | Path, title: str | None = None) -> None:
    """Write a report on a replay as one HTML file.

    Args:
        replay: The replay.
        out: The path or URI of the HTML file.
        title: The title of the page.

    Raises:
        ExistsError: The file exists and is no report.
    """
    check_report(out)
    with new_output(out) as file:
        file.write_text(replay_html(replay, title), encoding="utf-8")


def replay_html(replay: Replay, title: str | None = None) -> str:
    """Return the HTML of a report on a replay."""
    content = [
        _verdict_section(replay),
        _metric_section(replay),
        _difference_section(replay),
        _growth_section(replay),
        _recipe_section(replay),
    ]
    name = str(replay.folder)
    return render_page(title or f"Replay in {name}", name, [section for section in content if section.parts])


def _verdict_section(replay: Replay) -> Section:
    """Say what was measured, which mode is better and whether that may be chance, and which days have no rows."""
    days = replay.days_with_rows
    measured = f"{len(days) - 1} days, {days[1]} to {days[-1]}, are measured" if len(days) > 1 else "No day is measured"
    results = [*map(_mean_difference, replay.mean_differences().to_dict("records"))]
    lines = [
        VerdictLine("Replayed", [f"{measured}, by {', '.join(replay.modes)}. {MODES_TEXT}"]),
        VerdictLine("Result", results or ["There are no two modes on two days to compare."]),
    ]
    if replay.empty:
        lines.append(VerdictLine("Look at", [f"There are no rows on {', '.join(replay.empty)}."], warning=True))
    return Section("verdict", "In short", [Verdict(lines)])


def _mean_difference(row: Mapping[Any, Any]) -> str:
    """Return how two modes differ in the mean over the days."""
    real = "a real difference" if row["low"] > 0 or row["high"] < 0 else "which may be chance"
    way = "higher" if row["difference"] > 0 else "lower"
    difference, *ends = signed(row["difference"], row["low"], row["high"])
    than = f"{way} than that of {row['other']} by {difference[1:]}"
    days = "1 day" if row["days"] == 1 else f"the mean of {row['days']} days"
    better = ", where lower is better" if row["metric"] in LOWER_IS_BETTER else ""
    what = f"{row['task']}: the {metric_title(row['metric'])} of {row['mode']}"
    return f"{what} is {than} in {days} ({' to '.join(ends)}), {real}{better}."


def _metric_section(replay: Replay) -> Section:
    parts: list[Part] = []
    tables: list[Part] = []
    for (task, metric), found in replay.metrics.dropna(subset=["value"]).groupby(["task", "metric"], sort=False):
        title, how = metric_title(str(metric)), "DeLong" if metric == "auc" else "bootstrap"
        by_mode = {mode: found[found["mode"] == mode] for mode in replay.modes}
        shown = {mode: rows for mode, rows in by_mode.items() if len(rows)}
        parts.append(_day_picture(f"{task}: {title} by day", title, shown, "value"))
        table = _with_intervals(found, "value").pivot(index="day", columns="mode", values="value")
        table = table.reindex(columns=[mode for mode in replay.modes if mode in table]).reset_index()
        tables.append(Table.of(table, f"{title} of {task} on each day, with 95 % intervals ({how})", known=False))
    return Section("metrics", "Metrics by day", [*parts, *tables])


def _difference_section(replay: Replay) -> Section:
    parts: list[Part] = []
    means = replay.mean_differences()
    if len(means):
        caption = "Mean difference from the second measured day on, with 95 % intervals"
        parts.append(Table.of(_with_intervals(means, "difference"), caption, known=False))
    for (task, metric), found in replay.differences.groupby(["task", "metric"], sort=False):
        by_mode = {f"{replay.modes[0]} − {other}": rows for other, rows in found.groupby("other", sort=False)}
        label = f"difference of the {metric_title(str(metric))}"
        parts.append(_day_picture(f"{task}: {label}", label, by_mode, "difference"))
    return Section("differences", f"What {replay.modes[0]} gains", parts)


def _growth_section(replay: Replay) -> Section:
    growth = replay.growth
    if not len(growth):
        return Section("growth", "Growth of the tables")
    pictures: list[Part] = [
        _day_picture(
            f"{label} by day", label, {m: g for m, g in growth.groupby("mode", sort=False) if m != "frozen"}, column
        )
        for column, label in GROWTH.items()
    ]
    table = Table.of(growth, "The run that measures each day, and the rows of its tables by vocabulary", known=False)
    return Section("growth", "Growth of the tables, and seconds", [*pictures, table])


def _recipe_section(replay: Replay) -> Section:
    content = from_json(read_text(replay.folder / CONTENT))
    text = yaml.safe_dump(content["recipe"], sort_keys=False, allow_unicode=True)
    return Section("recipe", "Recipe", [Code("Recipe of the run of the first day", text)])


def _day_picture(title: str, label: str, tables: Mapping[Any, pd.DataFrame], column: str) -> Picture:
    """Draw a number by day, a line for each mode, with its interval if there is one."""
    named = {str(name): table for name, table in tables.items()}
    values = "; ".join(
        f"{name}: {table[column].iloc[0]:.4g} on {table['day'].iloc[0]}, {table[column].iloc[-1]:.4g} on "
        f"{table['day'].iloc[-1]}"
        for name, table in named.items()
    )
    numbers = pd.DataFrame({name: table.set_index("day")[column] for name, table in named.items()})
    numbers = numbers.rename_axis("day").reset_index()
    return picture(title, f"{title}. {values}.", lambda axes: figures.by_day(named, column, label, axes), numbers)


def _with_intervals(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a table with a column as intervals, in place of their ends."""
    values = table[[column, "low", "high"]].to_numpy(float)
    found = [Interval(estimate, low, high, 0.95) for estimate, low, high in values]
    return table.assign(**{column: pd.Series(found, table.index, dtype=object)}).drop(columns=["low", "high"])
