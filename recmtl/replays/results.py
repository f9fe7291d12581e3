"""The results of a replay: metrics by day, differences between modes, growth of the tables and seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from recmtl.errors import RunError
from recmtl.evaluate import Predictions, Scores
from recmtl.evaluate.metrics import metric_title
from recmtl.evaluate.significance import main_difference
from recmtl.io.display import decimal
from recmtl.io.files import new_file
from recmtl.io.untrusted import from_json, read_text
from recmtl.replays.steps import RUNS, Mode, ReplayStep, steps_of
from recmtl.runs.folder import RunFolder

CONTENT = "replay.json"
LAYOUT = 3
TABLES = ("metrics.csv", "differences.csv", "growth.csv", "tables.json", "tables.md")


@dataclass(frozen=True)
class Replay:
    """A replay in a folder, finished as far as days were measured.

    Args:
        folder: The folder.
        days: All days, in order.
        modes: The modes.
        empty: Those of the days that have no rows, which are neither trained on nor measured.
    """

    folder: Path
    days: tuple[str, ...]
    modes: tuple[Mode, ...]
    empty: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: str | Path) -> Replay:
        """Read the folder of a replay.

        Raises:
            RunError: It is none, or a damaged one.
        """
        found = read_content(Path(folder))
        if found is None:
            raise RunError(f"{str(folder)!r} is no replay: there is no {CONTENT}")
        return cls(Path(folder), tuple(found["days"]), tuple(found["modes"]), tuple(found["empty"]))

    @property
    def days_with_rows(self) -> list[str]:
        """The days that have rows, in order."""
        return [day for day in self.days if day not in self.empty]

    @property
    def steps(self) -> list[ReplayStep]:
        """The steps that are finished, day by day."""
        return [step for step in steps_of(self.days_with_rows, self.modes) if step.record(self.folder).is_file()]

    @cached_property
    def records(self) -> dict[ReplayStep, dict[str, Any]]:
        """What was measured in each finished step."""
        found = {}
        for step in self.steps:
            try:
                found[step] = from_json(read_text(step.record(self.folder)))
            except (OSError, ValueError) as error:
                raise RunError(f"{step.record(self.folder)} is damaged: {error}: remove it") from error
        return found

    @property
    def metrics(self) -> pd.DataFrame:
        """The main metric of each mode, task and day with its interval, if it is defined and there are rows.

        It is the AUC of binary tasks, with DeLong's interval, and what `recmtl evaluate` shows first of others, with
        one by 200 bootstrap draws.
        """
        rows = [
            {"mode": step.mode, "task": task, "day": step.day, **measured}
            for step, record in self.records.items()
            for task, measured in record["tasks"].items()
        ]
        for of_mode in dict.fromkeys((row["mode"], row["task"], row["metric"]) for row in rows):
            named = dict(zip(("mode", "task", "metric"), of_mode, strict=True))
            rows += [{**named, "day": day, "rows": 0, "positives": 0} for day in self.empty]
        rows.sort(key=lambda row: self.days.index(row["day"]))
        columns = ["mode", "task", "day", "metric", "value", "low", "high", "logloss", "rows", "positives"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def tasks(self) -> dict[str, str]:
        """The name of each task's main metric."""
        return {task: found["metric"] for record in self.records.values() for task, found in record["tasks"].items()}

    @property
    def growth(self) -> pd.DataFrame:
        """For each mode and day: the rows of all tables and of each vocabulary, training rows, and seconds."""
        rows = [
            {"mode": step.mode, "day": step.day, **record["run"], **record["vocabularies"]}
            for step, record in self.records.items()
        ]
        return pd.DataFrame(rows)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """The paired differences (`main_difference`) of the first mode to each other one, by task and day.

        There is none where a run knows other classes of a task than the first mode's.
        """
        rows = []
        done = {(step.mode, step.day): step for step in self.steps}
        scores: dict[ReplayStep, Mapping[str, Scores]] = {}
        for step in done.values():
            first = done.get((self.modes[0], step.day))
            if first is None or step.mode == self.modes[0]:
                continue
            for one in (first, step):
                if one not in scores:
                    scores[one] = self.predictions(one).scores()
            for task, ours in scores[first].items():
                other = scores[step][task]
                found = main_difference(ours, other) if ours.task.classes == other.task.classes else None
                if found is not None:
                    values = {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p}
                    named = {"mode": self.modes[0], "other": step.mode, "task": task, "metric": self.tasks[task]}
                    rows.append({**named, "day": step.day, **values, "sd_rows": found.sd_rows})
        columns = ["mode", "other", "task", "metric", "day", "difference", "low", "high", "p", "sd_rows"]
        return pd.DataFrame(rows, columns=columns)

    def predictions(self, step: ReplayStep) -> Predictions:
        """Return the predictions of a finished step."""
        schema = RunFolder(self.folder / RUNS / step.run).schema().schema
        return Predictions.read(schema, step.predictions(self.folder))

    def write_tables(self) -> None:
        """Write the tables as CSV, JSON and Markdown into the folder."""
        tables = {"metrics": self.metrics, "differences": self.differences, "growth": self.growth}
        texts = {f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()}
        plain = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        texts["tables.json"] = (
            json.dumps({"days": self.days, "empty": self.empty, "modes": self.modes, **plain}, indent=1) + "\n"
        )
        texts["tables.md"] = self.to_markdown()
        for name, text in texts.items():
            with new_file(self.folder / name) as file:
                file.write_text(text, encoding="utf-8")

    def by_day(self, task: str) -> pd.DataFrame:
        """Return the main metric of a task as text: a row for each measured day and their mean, a column by mode."""
        found = self.metrics[self.metrics["task"] == task]
        text = found.assign(text=[_with_interval(row) for row in found.to_dict("records")])
        table = text.pivot(index="day", columns="mode", values="text").reindex(columns=list(self.modes)).fillna("–")
        means = found.groupby("mode")["value"].mean().reindex(list(self.modes))
        table.loc["mean"] = ["–" if pd.isna(mean) else decimal(mean) for mean in means]
        return table.reset_index()

    def to_markdown(self) -> str:
        """Return the tables as Markdown: metrics by day, mean differences, and the growth of the tables."""
        parts = [
            f"## {metric_title(metric)} of {task} by day\n\n{_markdown(self.by_day(task))}"
            for task, metric in self.tasks.items()
        ]
        means = self.mean_differences()
        if len(means):
            parts.append(f"## Mean differences\n\n{_markdown(means)}")
        growth = self.growth
        if len(growth):
            parts.append(f"## Training rows, rows of the tables and seconds\n\n{_markdown(growth)}")
        return "\n".join(parts)

    def mean_differences(self) -> pd.DataFrame:
        """Return the mean over the days of each difference, with a 95 % interval that takes days for independent.

        The first measured day is left out: all modes begin with one run.
        """
        rows = []
        later = self.differences[self.differences["day"] != self.days_with_rows[1]]
        for (other, task, metric), found in later.groupby(["other", "task", "metric"], sort=False):
            mean = found["difference"].mean()
            half = 1.959964 * float((found["sd_rows"] ** 2).sum() ** 0.5) / len(found)
            values = {"difference": mean, "low": mean - half, "high": mean + half, "days": len(found)}
            rows.append({"mode": self.modes[0], "other": other, "task": task, "metric": metric, **values})
        return pd.DataFrame(rows, columns=["mode", "other", "task", "metric", "difference", "low", "high", "days"])


def _with_interval(row: Mapping[Any, Any]) -> str:
    if not row["rows"]:
        return "no rows"
    if row["value"] is None or pd.isna(row["value"]):
        return "–"
    ends = (
        "" if pd.isna(row["low"]) else f" [{decimal(row['low'], row['value'])}, {decimal(row['high'], row['value'])}]"
    )
    return f"{decimal(row['value'])}{ends}"


def _markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; numbers with up to four decimals, counts whole."""
    lines = [[str(name) for name in table.columns], ["---"] * len(table.columns)]
    for row in table.to_numpy(object):
        lines.append([_cell(value) for value in row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}" if abs(value) < 1 else f"{value:,.1f}"


def read_content(folder: Path) -> dict[str, Any] | None:
    """Read the record of a replay in a folder; ``None`` if there is none.

    Raises:
        RunError: It is damaged, or of another layout.
    """
    path = folder / CONTENT
    if not path.is_file():
        return None
    try:
        found = from_json(read_text(path))
        if found["layout"] != LAYOUT or not {"days", "empty", "modes", "recipe", "rows"} <= {*found}:
            raise ValueError(f"its layout is {found['layout']!r}, expected {LAYOUT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{str(path)!r} is no record of a replay, or a damaged one: replay into another folder"
        ) from error
    return dict(found)
