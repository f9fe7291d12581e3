"""Tests of the rows of a comparison against one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recmtl.comparison.grid import Row
from recmtl.evaluate import LOWER_IS_BETTER, Difference, Predictions, Scores, auc_difference, holm
from recmtl.evaluate.significance import tested
from recmtl.runs.folder import PREDICTIONS
from recmtl.schema import Schema
from recmtl.train import RunError, RunFolder

ROW = list(Row._fields)
LEVEL = 0.95
TESTED = ["reference", "estimate", "low", "high", "p", "p_holm", "apart"]


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """Give the row of the table that each line of a frame belongs to."""
    rates = [None if math.isnan(rate) else rate for rate in frame["learning_rate"]]
    return [Row(*values) for values in zip(frame["model"], frame["balancer"], rates, strict=True)]


def best_rows(means: pd.DataFrame) -> pd.Series:
    """Mark the best row of each task, the first of those that are equal; where nothing is defined, none."""
    worth = means["mean"].where(~means["metric"].isin(LOWER_IS_BETTER), -means["mean"])
    best = worth.dropna().groupby(means["task"], sort=False).idxmax()
    return pd.Series(means.index.isin(best), means.index)


class Pair(NamedTuple):
    """A comparison to be made."""

    task: str
    metric: str
    row: Row
    reference: Row


def pairs(means: pd.DataFrame, reference: str | None) -> Iterator[Pair]:
    """Pair each row with its reference, task by task.

    Args:
        means: Of the rows by task.
        reference: A model, whose row of the same learning rate is meant; ``None`` means the best row of each task.
    """
    means = means.assign(best=best_rows(means)).dropna(subset="mean")
    for task, lines in means.groupby("task", sort=False):
        rows, metric = rows_of(lines), lines["metric"].iloc[0]
        if reference is None:
            found = dict.fromkeys(rows, rows[lines["best"].argmax()])
        else:
            of_model = {row.learning_rate: row for row in reversed(rows) if row.model == reference}
            found = {row: of_model[row.learning_rate] for row in rows if row.learning_rate in of_model}
        yield from (Pair(str(task), metric, row, other) for row, other in found.items() if row != other)


class Tester:
    """Tests rows on what their runs measured and predicted.

    Args:
        runs: What the finished runs measured, a line for each run and task.
        folders: The run folder of each row and seed.
        split: The rows of data that are reported.
    """

    def __init__(self, runs: pd.DataFrame, folders: Mapping[tuple[Row, int], Path], split: str) -> None:
        self._folders, self._split = folders, split
        self._runs = list(zip(rows_of(runs), runs.to_dict("records"), strict=True))
        self._schema: Schema | None = None  # the same in all runs
        self._kept: tuple[tuple[str, Row], list[Scores]] | None = None  # the reference's: it is the same many times

    def against(self, means: pd.DataFrame, reference: str | None) -> pd.DataFrame:
        """Test each row against its reference."""
        lines = []
        for pair in pairs(means, reference):
            found = self._difference(pair)
            line = {**pair.row._asdict(), "task": pair.task, "metric": pair.metric, "reference": str(pair.reference)}
            lines.append(line | ({k: getattr(found, k) for k in ("estimate", "low", "high", "p")} if found else {}))
        columns = [*ROW, "task", "metric", *TESTED[:-2]]
        frame = pd.DataFrame(lines, columns=columns)
        return frame.astype(dict.fromkeys(["learning_rate", "estimate", "low", "high", "p"], float))

    def _difference(self, pair: Pair) -> Difference | None:
        first, second = (self._values(pair.task, row, pair.metric) for row in (pair.row, pair.reference))
        paired = list(first) == list(second)
        if pair.metric != "auc":
            return seeds_difference([*first.values()], [*second.values()], paired)
        key = (pair.task, pair.reference)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._scores(pair.task, pair.reference, second))
        return auc_difference(self._scores(pair.task, pair.row, first), self._kept[1], LEVEL, paired)

    def _values(self, task: str, row: Row, metric: str) -> dict[int, float]:
        """Give the defined values of a row by seed."""
        found = {line["seed"]: line[metric] for other, line in self._runs if (other, line["task"]) == (row, task)}
        return {seed: value for seed, value in found.items() if not math.isnan(value)}

    def _scores(self, task: str, row: Row, seeds: Iterable[int]) -> list[Scores]:
        found = []
        for seed in seeds:
            folder = RunFolder(self._folders[row, seed])
            path = folder.predictions(self._split)
            if not path.is_file():
                raise RunError(
                    f"{str(folder.path)!r} has no predictions to test: remove it and compare again, with "
                    "`--trainer.run.predictions true`"
                )
            folder.check(PREDICTIONS.format(split=self._split))
            self._schema = self._schema or folder.schema().schema
            found.append(Predictions.read(self._schema, path).scores()[task])
        return found


def seeds_difference(
    first: Sequence[float], second: Sequence[float], paired: bool, level: float = LEVEL
) -> Difference | None:
    """Test the difference of two means over seeds: a t test, paired or Welch's.

    ``None`` where one has a single seed, or the seeds make no difference that a variance could be taken from.

    Args:
        first: A value for each seed.
        second: Those of the other one.
        paired: Whether they belong to the same seeds, in the same order.
        level: Of the interval.
    """
    if min(len(first), len(second)) < 2:
        return None
    one, other = np.asarray(first, float), np.asarray(second, float)
    samples = [one - other] if paired else [one, other]
    parts = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    uncertain = sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, samples, strict=True))
    sd = sum(sample.var(ddof=1) for sample in samples) ** 0.5
    return tested(float(one.mean() - other.mean()), sum(parts), uncertain, level, 0.0, float(sd))


def corrected(frame: pd.DataFrame, comparisons: int) -> pd.DataFrame:
    """Correct the p values of all comparisons by Holm's method, and say which rows can be told apart.

    Args:
        frame: The comparisons that were made.
        comparisons: How many could have been: those that were not made count as without any difference.
    """
    defined = frame["p"].notna()
    others = max(0, comparisons - int(defined.sum()))
    values = holm([*frame.loc[defined, "p"], *[1.0] * others])[: int(defined.sum())]
    p_holm = pd.Series(values, frame.index[defined], float).reindex(frame.index)
    return frame.assign(p_holm=p_holm, apart=p_holm < 1 - LEVEL)


def possible(means: pd.DataFrame) -> int:
    """Count the pairs of rows, over all tasks: the data choose which row is the best, so any pair could be tested."""
    return int(means.dropna(subset="mean").groupby("task").size().map(lambda rows: math.comb(rows, 2)).sum())
