"""The verdict on a published figure, given the same measure of runs with other seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recmtl.evaluate.confidence import t_quantile

Verdict = Literal["consistent", "apart", "cannot say"]
LEVEL = 0.95
MARGIN = 0.01  # of AUC: single runs of one setting spread by as much
ROUNDING = 0.0001 / math.sqrt(12)  # the standard deviation of a figure with four decimals


@dataclass(frozen=True)
class TaskFinding:
    """What the runs say of one published figure.

    Attributes:
        published: The published AUC.
        values: The AUC of each run.
        mean: Their mean.
        sd: Their standard deviation; NaN of fewer than two.
        low: The lower end of the 95 % interval of the mean over seeds.
        high: The upper end.
        difference: The mean minus the published figure.
        difference_low: The lower end of its interval, at 95 % for all tasks together.
        difference_high: The upper end.
    """

    published: float
    values: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float

    @property
    def verdict(self) -> Verdict:
        """Whether the figure is consistent with the runs."""
        half = (self.difference_high - self.difference_low) / 2
        if not math.isfinite(half):
            return "cannot say"
        if not self.difference_low <= 0 <= self.difference_high:
            return "apart"
        return "consistent" if half <= MARGIN else "cannot say"


def find_task(published: float, values: Sequence[float], runs: int, tasks: int = 1) -> TaskFinding:
    r"""Compare runs with the published mean of others.

    The published figure is the mean of m runs whose spread is not known: it is taken for that of the n runs here, so
    that the difference of the means has the variance $s^2 (1/n + 1/m)$ beyond rounding, and Student's t has n − 1
    degrees of freedom. The rows are the same on both sides and add nothing. The interval of the difference has
    Bonferroni's level for all tasks.

    Args:
        published: The published figure.
        values: The same measure of each run here.
        runs: How many runs the published figure is the mean of.
        tasks: How many figures are compared at once.
    """
    found = np.asarray(values, float)
    mean, count = float(found.mean()) if len(found) else math.nan, len(found)
    sd = float(found.std(ddof=1)) if count > 1 else math.nan
    own = t_quantile(LEVEL, count - 1) * sd / count**0.5 if count > 1 else math.nan
    spread = math.sqrt(sd**2 * (1 / count + 1 / runs) + ROUNDING**2) if count > 1 else math.nan
    half = t_quantile(1 - (1 - LEVEL) / tasks, count - 1) * spread if count > 1 else math.nan
    gap = mean - published
    return TaskFinding(published, tuple(found.tolist()), mean, sd, mean - own, mean + own, gap, gap - half, gap + half)


def judge(findings: Mapping[str, TaskFinding], doubts: Sequence[str] = ()) -> Verdict:
    """Return one verdict on all tasks: apart if one is, consistent if all are, and neither if there are doubts."""
    verdicts = {finding.verdict for finding in findings.values()}
    if doubts or not verdicts:
        return "cannot say"
    if "apart" in verdicts:
        return "apart"
    return "cannot say" if "cannot say" in verdicts else "consistent"
