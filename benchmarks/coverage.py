"""Do the intervals hold what they promise? python -m benchmarks.coverage [--json FILE]

Rows are drawn 1,000 times from a population whose true metrics are known, and every interval is asked whether it holds
the true value: a nominal 95 % interval should in 93 to 97 % of the draws. In one population rows are independent; in
one, labels and scores of a search are correlated, and the plain forms, which take its rows for independent, are shown
beside; one has some 25 positives. True values are those of one sample so large that its error is below a fiftieth of
an interval.

Two models predict the same rows. *Seeds that matter*: each has five runs, whose quality varies by seed; *seeds alike*:
runs err on different rows, but are equally good, the hardest case: a variance of the seeds that is 0 cannot be
estimated below 0. The true difference is that over all seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import expit

from recmtl.evaluate import Interval, Scores, auc_difference, auc_interval, bootstrap_intervals, metrics_of
from recmtl.evaluate.scores import Floats, Integers
from recmtl.evaluate.significance import Difference
from recmtl.recipe.environment import environment
from recmtl.schema import Task

METRICS = ("auc", "logloss", "gauc")
TASK = Task("click", "click")
SEEDS = 5
GAIN, LEAD = 1.0, 0.15  # how far a model sets positives apart, and how much farther the first does
SPREAD = {"seeds that matter": 0.1, "seeds alike": 0.0}  # of the gain over the seeds of a model
LARGE = 400_000  # searches that give the true values


@dataclass(frozen=True)
class Population:
    """Searches of one to so many rows.

    Args:
        searches: How many are drawn.
        largest: The most rows of one; all sizes are as frequent.
        base: The log-odds of a positive in a usual search.
        labels: The standard deviation of these log-odds over searches.
        scores: That of what a search adds to all of its scores.
        along: The correlation of what it adds to its log-odds and to its scores.
    """

    searches: int
    largest: int
    base: float
    labels: float = 0.0
    scores: float = 0.0
    along: float = 0.3


POPULATIONS = {
    "independent rows": Population(300, 20, -2.0),
    "rows clustered by search": Population(200, 40, -2.0, labels=1.2, scores=1.2),
    "few positives": Population(100, 10, -3.0),
}


@dataclass(frozen=True)
class Rows:
    """Rows of some searches, before any model scores them.

    Shape:
        - groups, labels, common: ``[rows]``
    """

    groups: Integers
    labels: Floats
    common: Floats

    @classmethod
    def draw(cls, population: Population, rng: np.random.Generator, searches: int) -> Rows:
        sizes = rng.integers(1, population.largest + 1, searches)
        groups = np.repeat(np.arange(searches), sizes)
        odd, liked = rng.multivariate_normal([0, 0], [[1, population.along], [population.along, 1]], searches).T
        odds = population.base + population.labels * odd
        labels = (rng.random(len(groups)) < expit(odds)[groups]).astype(float)
        common = population.scores * liked[groups] + 0.6 * rng.normal(size=len(groups))
        return cls(groups, labels, common)

    def scored(self, gain: float | Floats, rng: np.random.Generator) -> Scores:
        """The probabilities of a model."""
        score = gain * self.labels + self.common + 0.8 * rng.normal(size=len(self.labels))
        return Scores(TASK, self.labels, expit(score - 2.5), groups=self.groups)

    def runs(self, gain: float, spread: float, rng: np.random.Generator) -> list[Scores]:
        """A run for each seed of a model."""
        return [self.scored(rng.normal(gain, spread), rng) for _ in range(SEEDS)]


Found = dict[str, Interval | Difference | None]


def intervals(population: Population, rng: np.random.Generator, draws: int) -> Found:
    """All intervals of one draw of the rows."""
    rows = Rows.draw(population, rng, population.searches)
    one, other = rows.scored(GAIN + LEAD, rng), rows.scored(GAIN, rng)
    plain = replace(one, groups=None)
    found: Found = {"auc, DeLong plain": auc_interval(plain), "auc, DeLong clustered": auc_interval(one)}
    found["difference, DeLong plain"] = auc_difference([plain], [replace(other, groups=None)])
    found["difference, DeLong clustered"] = auc_difference([one], [other])
    bootstrapped = bootstrap_intervals(one, METRICS, draws, seed=int(rng.integers(1 << 32)))
    found |= {f"{name}, bootstrap": bootstrapped.get(name) for name in METRICS}
    for title, spread in SPREAD.items():
        runs = [rows.runs(gain, spread, rng) for gain in (GAIN + LEAD, GAIN)]
        found[f"difference over paired runs, {title}"] = auc_difference(runs[0], runs[1])
        found[f"difference over runs of their own, {title}"] = auc_difference(runs[0], runs[1], paired=False)
    return found


def true_values(population: Population, searches: int) -> dict[str, float]:
    """What the intervals should hold, by what stands before the comma in their names."""
    rng = np.random.default_rng(0)
    rows = Rows.draw(population, rng, searches)
    measured = metrics_of(rows.scored(GAIN + LEAD, rng), names=METRICS).values
    found = {name: value or 0.0 for name, value in measured.items()}
    found["difference"] = found["auc"] - auc(rows.scored(GAIN, rng))
    for title, spread in SPREAD.items():
        # A pair has one positive: the mean AUC over seeds is that of rows which have a seed each.
        means = [auc(rows.scored(rng.normal(gain, spread, len(rows.labels)), rng)) for gain in (GAIN + LEAD, GAIN)]
        found[title] = means[0] - means[1]
    return found


def auc(scores: Scores) -> float:
    return metrics_of(scores, names=["auc"]).values["auc"] or 0.0


def coverage(population: Population, repeats: int, draws: int, large: int) -> dict[str, dict[str, float]]:
    """By interval: the percentage of draws in which it held the true value, its mean width, and how often none was."""
    true = true_values(population, large)
    held: Counter[str] = Counter()
    widths: dict[str, list[float]] = {}
    for seed in range(repeats):
        found = intervals(population, np.random.default_rng([1, seed]), draws)
        for name, interval in found.items():
            wide = widths.setdefault(name, [])
            if interval is not None:
                what, _, title = name.partition(", ")
                held[name] += interval.low <= true[title if title in true else what] <= interval.high
                wide.append(interval.high - interval.low)
    return {
        name: {
            "covered_percent": 100 * held[name] / max(len(wide), 1),
            "mean_width": float(np.mean(wide)) if wide else 0.0,
            "undefined": repeats - len(wide),
        }
        for name, wide in widths.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000, help="of each bootstrap")
    parser.add_argument("--large", type=int, default=LARGE, help="searches that give the true values")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results, start = {}, time.perf_counter()
    for title, population in POPULATIONS.items():
        found = coverage(population, arguments.repeats, arguments.draws, arguments.large)
        table = Table("nominal 95 % interval", "covered", "mean width", "undefined", title=title)
        for name, row in found.items():
            table.add_row(name, f"{row['covered_percent']:.1f} %", f"{row['mean_width']:.4f}", f"{row['undefined']}")
        Console(width=120).print(table)
        results[title] = {"population": asdict(population), "intervals": found}
    if arguments.json:
        content = {
            "command": "python -m benchmarks.coverage",
            "machine": environment(),
            "repeats": arguments.repeats,
            "draws": arguments.draws,
            "seconds": round(time.perf_counter() - start),
            "results": results,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
