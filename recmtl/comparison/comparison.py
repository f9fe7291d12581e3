"""The results of a comparison as DataFrames."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from recmtl.comparison.differences import VARIANT, Tester, best_variants, correct_p_values, possible_pairs
from recmtl.comparison.grid import SINGLE, GridRun, Variant
from recmtl.comparison.jobs import RUNS_FOLDER, error_of, state_of
from recmtl.comparison.tuned import TunedVariant
from recmtl.errors import RunError
from recmtl.evaluate import LOWER_IS_BETTER, monitors
from recmtl.evaluate.metrics import grouped_metrics
from recmtl.io.files import new_file
from recmtl.runs.folder import RunFolder
from recmtl.schema import Schema

CONTENT = "comparison.json"
COSTS = ("seconds", "peak_memory_bytes")  # of a run


class Comparison:
    """The runs of a comparison, their metrics, and tests of their differences.

    Args:
        folder: The comparison's folder.
        split: The split that is compared: `test`, or `valid` if there are no test rows.
        grid: The runs, grouped by variant (model, balancer and learning rate; or a baseline).
        tuned: The result of each variant's search, if their options were searched.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        grid: Sequence[GridRun],
        tuned: Mapping[Variant, TunedVariant] | None = None,
    ) -> None:
        self.folder, self.split, self.grid, self.tuned = Path(folder), split, tuple(grid), dict(tuned or {})
        self._differences: dict[Any, pd.DataFrame] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open the comparison in a folder, finished or not.

        Raises:
            RunError: The folder holds no comparison, or its record is damaged.
        """
        path = Path(folder) / CONTENT
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            runs = [GridRun(Variant(*run["row"]), run["seed"], {}) for run in content["cells"]]
            tuned = {Variant(*found.pop("row")): TunedVariant(**found) for found in content.get("tuned", [])}
            return cls(folder, content["split"], runs, tuned)
        except OSError as error:
            raise RunError(f"{str(folder)!r} is not a comparison: there is no {CONTENT}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error

    @staticmethod
    def is_record(path: Path) -> bool:
        """Return whether a file has the form of a comparison's record."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return isinstance(content["cells"], list) and {"split", "data"} <= content.keys()
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False

    def save(self, data: str) -> None:
        """Write the list of runs and the fingerprint of their data."""
        runs = [
            {"row": list(run.variant), "seed": run.seed, "folder": f"{RUNS_FOLDER}/{run.name}"} for run in self.grid
        ]
        tuned = [{"row": list(variant), **vars(found)} for variant, found in self.tuned.items()]
        content = {"split": self.split, "data": data, "cells": runs} | ({"tuned": tuned} if tuned else {})
        with new_file(self.folder / CONTENT) as file:
            file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def path(self, run: GridRun) -> Path:
        """Return the run folder of a run."""
        return self.folder / RUNS_FOLDER / run.name

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run: model, balancer, learning rate, seed, state, seconds, peak memory, error and folder."""
        records = []
        for run in self.grid:
            path, result = self.path(run), self._result(run)
            costs = {name: result.get(name) for name in COSTS}
            state = {"seed": run.seed, "state": state_of(path), **costs, "error": error_of(path), "folder": str(path)}
            records.append(run.variant._asdict() | state)
        return pd.DataFrame(records).astype(dict.fromkeys(("learning_rate", *COSTS), float))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The metrics of the finished runs, a row for each run and task."""
        records = [
            {**run.variant._asdict(), "seed": run.seed, "task": task, **metrics}
            for run in self.grid
            for task, metrics in self._result(run).get(self.split, {}).items()
        ]
        frame = pd.DataFrame(records, columns=None if records else [*VARIANT, "seed", "task"])
        numbers = [name for name in frame.columns if name not in ("model", "balancer", "seed", "task", "reason")]
        return frame.astype(dict.fromkeys(numbers, float))

    def table(self, metric: str | None = None) -> pd.DataFrame:
        """Return mean and standard deviation over the seeds for each variant and task, with the best marked.

        Args:
            metric: The metric, for the tasks that have it; ``None`` takes each task's main one (AUC if binary).

        Returns:
            Beside variant and task: `metric`, `runs` (finished runs with a value), `mean`, `sd`, `best`, and `tied`
            (not the best, but not significantly different from it either).

        Raises:
            ValueError: No task has the metric.
        """
        frame = seed_means(self.metrics, self._metrics(metric))
        frame["best"] = best_variants(frame, self.lower_is_better)
        frame = frame.merge(self.differences(metric)[[*VARIANT, "task", "apart"]], "left", [*VARIANT, "task"])
        apart = frame.pop("apart").eq(True)
        return frame.assign(tied=~apart & ~frame["best"] & frame["mean"].notna())

    def differences(self, metric: str | None = None, reference: str | None = None) -> pd.DataFrame:
        """Test the variants against a reference, task by task, on the same rows of data.

        AUC is tested over rows and seeds; other metrics over seeds alone, by a t test that is paired if both variants
        have the same seeds. With a named reference, Holm's correction counts the comparisons in the table.

        Note:
            The best variant is chosen by the same data that tests it, which overstates its lead: correcting for the 12
            comparisons with it, one of 13 equal variants would differ significantly 17 times in 100. The correction
            therefore counts all pairs of variants, which is valid however the best is chosen. Estimates and
            intervals are not corrected.

        Args:
            metric: As in `table`.
            reference: The name of a model; each variant is compared with this model's variant of the same learning
                rate, or with the baseline of this name. Or that of a balancer: each is compared with this balancer's
                variant of the same model and learning rate. ``None`` takes the best variant of each task.

        Returns:
            For each other variant and task: `reference`, `estimate` (mean minus the reference's mean), its uncorrected
            95 % interval `low` to `high` and `p`, the corrected `p_holm`, and `apart` (significant at 95 %). NaN if
            there are too few runs or rows to test.

        Raises:
            ValueError: No task has the metric, or there is no such model or balancer.
        """
        metrics, known = self._metrics(metric), [*self._models, *self._balancers]
        if reference is not None and reference not in known:
            raise ValueError(f"`reference` must be one of {', '.join(known)}, got {reference!r}")
        key = (tuple(metrics.items()), reference)
        if key not in self._differences:
            means = seed_means(self.metrics, metrics)
            tester = Tester(self.metrics, {(run.variant, run.seed): self.path(run) for run in self.grid}, self.split)
            tested = tester.test(means, reference, self.lower_is_better)
            self._differences[key] = correct_p_values(tested, 0 if reference else possible_pairs(means))
        return self._differences[key].copy()

    @property
    def single(self) -> str | None:
        """The name of the single-task model, if the grid has one and other models."""
        models = dict.fromkeys(run.variant.model for run in self.grid if not run.variant.is_baseline)
        single = next((model for model in models if model.partition("(")[0] == SINGLE), None)
        return single if len(models) > 1 else None

    @property
    def has_tuned_weights(self) -> bool:
        """Whether options were searched, of `FixedWeights` and of other balancers of the same model."""
        fixed = {variant.model for variant in self.tuned if variant.balancer == "FixedWeights"}
        return any(variant.model in fixed for variant in self.tuned if variant.balancer != "FixedWeights")

    @property
    def _balancers(self) -> list[str]:
        return list(dict.fromkeys(run.variant.balancer for run in self.grid if run.variant.balancer))

    @property
    def _models(self) -> list[str]:
        return list(dict.fromkeys(run.variant.model for run in self.grid))

    def _metrics(self, metric: str | None) -> dict[str, str]:
        measured = set(self.metrics["task"])
        if not measured:
            return {}
        finished = next(path for path in map(self.path, self.grid) if state_of(path) == "finished")
        schema = RunFolder(finished).schema().schema
        grouped = schema.group is not None or not grouped_metrics().isdisjoint(self.metrics)
        by_task = metrics_by_task(schema, metric, grouped, self._own)
        of_own = self.metrics.loc[self.metrics["task"].notna(), ["task", *self._own]] if self._own else self.metrics
        without = {(task, name) for name in self._own for task, v in of_own.groupby("task")[name] if v.isna().all()}
        return {task: name for task, name in by_task.items() if task in measured and (task, name) not in without}

    @cached_property
    def _own(self) -> dict[str, bool]:
        """The user's own metrics by name, and whether higher values are better."""
        described = (self._result(run).get("own_metrics", {}) for run in self.grid)
        return {name: found["higher_is_better"] for own in described for name, found in own.items()}

    @property
    def lower_is_better(self) -> frozenset[str]:
        """The metrics of which lower values are better."""
        return LOWER_IS_BETTER | {name for name, higher in self._own.items() if not higher}

    def _result(self, run: GridRun) -> Mapping[str, Any]:
        return RunFolder(self.path(run)).result()


def metrics_by_task(schema: Schema, metric: str | None, grouped: bool, own: Collection[str] = ()) -> dict[str, str]:
    """Return the metric to compare for each task: the requested one if the task has it, or its main one.

    `calibration` cannot be compared, as its best value is neither the highest nor the lowest.

    Args:
        schema: The schema of the runs.
        metric: The metric; ``None`` takes the main one of each task.
        grouped: Whether the runs measure metrics within groups.
        own: The user's own metrics.
    """
    known = {task.name: (*monitors(task.kind, grouped), *own) for task in schema.reported_tasks}
    by_task = {task: metric or names[0] for task, names in known.items() if metric in (None, *names)}
    if not by_task:
        allowed = ", ".join(dict.fromkeys(name for names in known.values() for name in names))
        has_group = any(metric in monitors(task.kind, True) for task in schema.reported_tasks)
        way = ": name the group by `--group COLUMN`, or a key by `--trainer.stopping.group KEY`" if has_group else ""
        raise ValueError(f"`metric` must be one of {allowed}, got {metric!r}{way}")
    return by_task


def seed_means(metrics: pd.DataFrame, by_task: Mapping[str, str]) -> pd.DataFrame:
    """Return mean and standard deviation over the seeds of each task's metric, a row for each task and variant."""
    parts = []
    for task, metric in by_task.items():
        of_task = metrics[metrics["task"] == task].rename(columns={metric: "value"})
        grouped = of_task.groupby([*VARIANT, "task"], sort=False, dropna=False)["value"]
        parts.append(grouped.agg(runs="count", mean="mean", sd="std").reset_index().assign(metric=metric))
    columns = [*VARIANT, "task", "metric", "runs", "mean", "sd"]
    frame = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    return frame.astype(dict.fromkeys(("learning_rate", "mean", "sd"), float))
