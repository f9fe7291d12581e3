"""Significance tests between the variants of a comparison."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recmtl.comparison.grid import Variant
from recmtl.errors import RunError
from recmtl.evaluate import LOWER_IS_BETTER, Difference, Predictions, Scores, auc_difference, holm
from recmtl.evaluate.significance import t_test
from recmtl.runs.folder import PREDICTIONS, RunFolder
from recmtl.schema import Schema

VARIANT = list(Variant._fields)
LEVEL = 0.95
ESTIMATES = ["estimate", "low", "high", "p"]


def variants_of(frame: pd.DataFrame) -> list[Variant]:
    """Return the variant of each row of a DataFrame."""
    rates = [None if math.isnan(rate) else rate for rate in frame["learning_rate"]]
    return [Variant(*values) for values in zip(frame["model"], frame["balancer"], rates, strict=True)]


def best_variants(means: pd.DataFrame, lower: Collection[str] = LOWER_IS_BETTER) -> pd.Series:
    """Mark the best variant of each task, the first of equal ones; none if the metric is undefined.

    Args:
        means: The means of the variants.
        lower: The metrics of which lower values are better.
    """
    score = means["mean"].where(~means["metric"].isin([*lower]), -means["mean"])
    best = score.dropna().groupby(means["task"], sort=False).idxmax()
    return pd.Series(means.index.isin(best), means.index)


class Pair(NamedTuple):
    """A variant to test against a reference variant on one task."""

    task: str
    metric: str
    variant: Variant
    reference: Variant


def reference_pairs(
    means: pd.DataFrame, reference: str | None, lower: Collection[str] = LOWER_IS_BETTER
) -> Iterator[Pair]:
    """Pair each variant with the model or balancer `reference`, or with the best variant of the task."""
    means = means.assign(best=best_variants(means, lower)).dropna(subset="mean")
    for task, of_task in means.groupby("task", sort=False):
        variants, metric = variants_of(of_task), of_task["metric"].iloc[0]
        if reference is None:
            references = dict.fromkeys(variants, variants[of_task["best"].argmax()])
        else:
            by_model = {(v.model, v.learning_rate): v for v in variants if v.balancer == reference}
            by_rate = {v.learning_rate: v for v in reversed(variants) if v.model == reference}
            found = {v: by_rate.get(v.learning_rate, by_rate.get(None)) for v in variants}  # a baseline has no rate
            found = {v: other or by_model.get((v.model, v.learning_rate)) for v, other in found.items()}
            references = {v: other for v, other in found.items() if other is not None}
        yield from (Pair(str(task), metric, v, other) for v, other in references.items() if v != other)


class Tester:
    """Significance tests on the metrics of finished runs (a row for each run and task) and on their predictions."""

    def __init__(self, metrics: pd.DataFrame, folders: Mapping[tuple[Variant, int], Path], split: str) -> None:
        self._folders, self._split = folders, split
        self._metrics = list(zip(variants_of(metrics), metrics.to_dict("records"), strict=True))
        self._schema: Schema | None = None  # the same in all runs
        self._reference: tuple[tuple[str, Variant], list[Scores]] | None = None  # kept, as most pairs share it

    def test(self, means: pd.DataFrame, reference: str | None, lower: Collection[str]) -> pd.DataFrame:
        """Test each variant against its reference; of the metrics in `lower`, lower values are better."""
        rows = []
        for pair in reference_pairs(means, reference, lower):
            found = self._difference(pair)
            row = {**pair.variant._asdict(), "task": pair.task, "metric": pair.metric, "reference": str(pair.reference)}
            rows.append(row | ({name: getattr(found, name) for name in ESTIMATES} if found else {}))
        frame = pd.DataFrame(rows, columns=[*VARIANT, "task", "metric", "reference", *ESTIMATES])
        return frame.astype(dict.fromkeys(["learning_rate", *ESTIMATES], float))

    def _difference(self, pair: Pair) -> Difference | None:
        first, second = (self._by_seed(pair.task, v, pair.metric) for v in (pair.variant, pair.reference))
        paired = list(first) == list(second)
        if pair.metric != "auc":
            return seeds_difference([*first.values()], [*second.values()], paired)
        key = (pair.task, pair.reference)
        if self._reference is None or self._reference[0] != key:
            self._reference = (key, self._scores(pair.task, pair.reference, second))
        return auc_difference(self._scores(pair.task, pair.variant, first), self._reference[1], LEVEL, paired)

    def _by_seed(self, task: str, variant: Variant, metric: str) -> dict[int, float]:
        """Return the defined values of a metric by seed."""
        rows = [row for other, row in self._metrics if (other, row["task"]) == (variant, task)]
        return {row["seed"]: row[metric] for row in rows if not math.isnan(row[metric])}

    def _scores(self, task: str, variant: Variant, seeds: Iterable[int]) -> list[Scores]:
        scores = []
        for seed in seeds:
            folder = RunFolder(self._folders[variant, seed])
            path = folder.predictions(self._split)
            if not path.is_file():
                raise RunError(
                    f"{str(folder.path)!r} has no predictions to test: remove it and compare again, with "
                    "`--trainer.run.predictions true`"
                )
            folder.check(PREDICTIONS.format(split=self._split))
            self._schema = self._schema or folder.schema().schema
            scores.append(Predictions.read(self._schema, path).scores()[task])
        return scores


def seeds_difference(first: Sequence[float], second: Sequence[float], paired: bool) -> Difference | None:
    """Test the difference of two means over seeds by a t test, paired (by seed) or Welch's.

    ``None`` if one side has a single seed, or the values do not vary over the seeds.
    """
    if min(len(first), len(second)) < 2:
        return None
    one, other = np.asarray(first, float), np.asarray(second, float)
    samples = [one - other] if paired else [one, other]
    parts = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    uncertain = sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, samples, strict=True))
    sd = sum(sample.var(ddof=1) for sample in samples) ** 0.5
    return t_test(float(one.mean() - other.mean()), sum(parts), uncertain, LEVEL, 0.0, float(sd))


def correct_p_values(frame: pd.DataFrame, comparisons: int) -> pd.DataFrame:
    """Apply Holm's correction for a number of possible comparisons; mark significant differences.

    Comparisons that were not tested count as p = 1.
    """
    defined = frame["p"].notna()
    others = max(0, comparisons - int(defined.sum()))
    values = holm([*frame.loc[defined, "p"], *[1.0] * others])[: int(defined.sum())]
    p_holm = pd.Series(values, frame.index[defined], float).reindex(frame.index)
    return frame.assign(p_holm=p_holm, apart=p_holm < 1 - LEVEL)


def possible_pairs(means: pd.DataFrame) -> int:
    """Count the pairs of variants over all tasks; any of them could be tested, as the data choose the best variant."""
    return int(means.dropna(subset="mean").groupby("task").size().map(lambda count: math.comb(count, 2)).sum())
