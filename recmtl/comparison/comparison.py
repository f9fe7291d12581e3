"""What the runs of a comparison say, as DataFrames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from recmtl.comparison.differences import ROW, Tester, best_rows, corrected, possible
from recmtl.comparison.grid import SINGLE, GridRun, Row
from recmtl.comparison.jobs import CELLS, error_of, state_of
from recmtl.evaluate import monitors
from recmtl.io.files import new_file
from recmtl.schema import Schema
from recmtl.train import RunError, RunFolder

CONTENT = "comparison.json"


class Comparison:
    """The runs of a comparison, and what can be said of their differences.

    Args:
        folder: The comparison's folder.
        split: The rows that are reported: `test`, or else `valid`.
        grid: Its runs, row by row.
    """

    def __init__(self, folder: str | Path, split: str, grid: Sequence[GridRun]) -> None:
        self.folder, self.split, self.grid = Path(folder), split, tuple(grid)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open the comparison of a folder, also one whose runs are not all finished.

        Raises:
            RunError: The folder holds no comparison.
        """
        path = Path(folder) / CONTENT
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            cells = [GridRun(Row(*cell["row"]), cell["seed"], {}) for cell in content["cells"]]
            return cls(folder, content["split"], cells)
        except OSError as error:
            raise RunError(f"{str(folder)!r} is not a comparison: there is no {CONTENT}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error

    def save(self, data: str) -> None:
        """Write down which runs belong to the comparison.

        Args:
            data: What identifies the rows that they are trained and measured on.
        """
        cells = [{"row": list(cell.row), "seed": cell.seed, "folder": f"{CELLS}/{cell.name}"} for cell in self.grid]
        with new_file(self.folder / CONTENT) as file:
            text = json.dumps({"split": self.split, "data": data, "cells": cells}, indent=1, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")

    def path(self, cell: GridRun) -> Path:
        """Give the run folder of a cell."""
        return self.folder / CELLS / cell.name

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The runs: model, balancer, learning rate, seed, state, seconds, peak memory, error, folder."""
        records = []
        for cell in self.grid:
            path, result = self.path(cell), self._result(cell)
            records.append(
                {
                    **cell.row._asdict(),
                    "seed": cell.seed,
                    "state": state_of(path),
                    "seconds": result.get("seconds"),
                    "peak_memory_bytes": result.get("peak_memory_bytes"),
                    "error": error_of(path),
                    "folder": str(path),
                }
            )
        floats = dict.fromkeys(("learning_rate", "seconds", "peak_memory_bytes"), float)
        return pd.DataFrame(records).astype(floats)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """What the finished runs measured, a line for each run and task: row, seed and metrics."""
        records = [
            {**cell.row._asdict(), "seed": cell.seed, "task": task, **metrics}
            for cell in self.grid
            for task, metrics in self._result(cell).get(self.split, {}).items()
        ]
        frame = pd.DataFrame(records, columns=None if records else [*ROW, "seed", "task"])
        numbers = [name for name in frame.columns if name not in ("model", "balancer", "seed", "task", "reason")]
        return frame.astype(dict.fromkeys(numbers, float))

    def table(self, metric: str | None = None) -> pd.DataFrame:
        """Give mean and sd over the seeds for each row and task, and what can be told apart from the best.

        Args:
            metric: What to show of the tasks that have it; ``None`` takes each task's main one, AUC first.

        Returns:
            Beside the row and the task: `metric`, `runs` (finished ones that have it), `mean`, `sd`, `best`, and
            `tied`: not the best, but not told apart from it by `differences`.

        Raises:
            ValueError: No task has the metric.
        """
        frame = summarize(self.runs, self._metrics(metric))
        frame["best"] = best_rows(frame)
        frame = frame.merge(self.differences(metric)[[*ROW, "task", "apart"]], "left", [*ROW, "task"])
        apart = frame.pop("apart").eq(True)
        return frame.assign(tied=~apart & ~frame["best"] & frame["mean"].notna())

    def differences(self, metric: str | None = None, reference: str | None = None) -> pd.DataFrame:
        """Test the rows against a reference, task by task, on the same rows of data.

        AUC is tested over rows and seeds, other metrics over seeds alone by a t test, paired where both rows have the
        same seeds. With a reference that is named Holm's correction is over all comparisons that are given.

        Note:
            The best row is chosen by the data that it is tested on, so that its lead is overstated: were the correction
            over the 12 comparisons with it, one of 13 equal rows would be told apart from it 17 times in 100. Any two
            rows could have been such a comparison, so it is over all pairs of rows, which holds however one is chosen.
            The estimates and their intervals stay as they are.

        Args:
            metric: As in `table`.
            reference: The name of a model, whose row of the same learning rate is taken; ``None`` takes the best row of
                each task.

        Returns:
            For each other row and task: `reference`, `estimate` (the row's mean less that of the reference), its 95 %
            interval `low` to `high` and `p`, each taken alone, `p_holm`, and whether they can be told `apart` at 95 %.
            Where there is too little to test, there are no numbers.

        Raises:
            ValueError: No task has the metric, or there is no such model.
        """
        metrics = self._metrics(metric)
        if reference is not None and reference not in {cell.row.model for cell in self.grid}:
            known = ", ".join(dict.fromkeys(cell.row.model for cell in self.grid))
            raise ValueError(f"`reference` must be one of the models {known}, got {reference!r}")
        key = (tuple(metrics.items()), reference)
        if key not in self._tested:
            means = summarize(self.runs, metrics)
            tester = Tester(self.runs, {(c.row, c.seed): self.path(c) for c in self.grid}, self.split)
            self._tested[key] = corrected(tester.against(means, reference), 0 if reference else possible(means))
        return self._tested[key].copy()

    @cached_property
    def _tested(self) -> dict[Any, pd.DataFrame]:
        return {}

    @property
    def single(self) -> str | None:
        """The name of single-task training in the table, where it is among the models beside others."""
        models = dict.fromkeys(cell.row.model for cell in self.grid)
        named = [model for model in models if model.partition("(")[0] == SINGLE]
        return named[0] if named and len(models) > 1 else None

    def _metrics(self, metric: str | None) -> dict[str, str]:
        measured = set(self.runs["task"])
        if not measured:
            return {}
        finished = next(path for path in map(self.path, self.grid) if state_of(path) == "finished")
        chosen = metrics_by_task(RunFolder(finished).schema().schema, metric)
        return {task: name for task, name in chosen.items() if task in measured}

    def _result(self, cell: GridRun) -> Mapping[str, Any]:
        return RunFolder(self.path(cell)).result()


def metrics_by_task(schema: Schema, metric: str | None = None) -> dict[str, str]:
    """Say which metric is shown of each task: the one that is asked for where it has it, or its main one.

    Raises:
        ValueError: No task has it, or no value of it is the best, as of `calibration`.
    """
    known = {task.name: monitors(task.kind, schema.group is not None) for task in schema.reported_tasks}
    chosen = {task: metric or names[0] for task, names in known.items() if metric in (None, *names)}
    if not chosen:
        listed = ", ".join(dict.fromkeys(name for names in known.values() for name in names))
        raise ValueError(f"`metric` must be one of {listed}, got {metric!r}")
    return chosen


def summarize(runs: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Give mean and sd over the seeds, a line for each task and row in the order of the runs."""
    parts = []
    for task, metric in metrics.items():
        of_task = runs[runs["task"] == task].rename(columns={metric: "value"})
        grouped = of_task.groupby([*ROW, "task"], sort=False, dropna=False)["value"]
        parts.append(grouped.agg(runs="count", mean="mean", sd="std").reset_index().assign(metric=metric))
    columns = [*ROW, "task", "metric", "runs", "mean", "sd"]
    frame = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    return frame.astype(dict.fromkeys(("learning_rate", "mean", "sd"), float))
