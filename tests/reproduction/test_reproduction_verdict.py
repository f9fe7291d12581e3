"""The verdict: by hand, on planted differences, and how often it is wrong where there is none."""

import math

import numpy as np
import pytest
from scipy import stats

from recmtl.reproduction.verdict import MARGIN, find_task, judge


def test_by_hand():
    values = [0.720, 0.724, 0.722, 0.726, 0.723]
    found = find_task(0.7234, values, runs=5, tasks=2)
    mean, sd = np.mean(values), np.std(values, ddof=1)
    own = stats.t.ppf(0.975, 4) * sd / math.sqrt(5)
    assert found.mean == pytest.approx(0.7230)
    assert (found.low, found.high) == pytest.approx((mean - own, mean + own))
    half = stats.t.ppf(1 - 0.05 / 2 / 2, 4) * math.sqrt(sd**2 * (1 / 5 + 1 / 5) + 0.0001**2 / 12)
    assert (found.difference_low, found.difference_high) == pytest.approx((-0.0004 - half, -0.0004 + half))
    assert found.verdict == "consistent"


@pytest.mark.parametrize(
    ("published", "sd", "expected"),
    [(0.72, 0.001, "consistent"), (0.75, 0.001, "apart"), (0.69, 0.001, "apart"), (0.72, 0.02, "cannot say")],
)
def test_planted(published, sd, expected):
    values = 0.72 + sd * np.array([-1.2, -0.5, 0.1, 0.6, 1.0])
    assert find_task(published, values, runs=5).verdict == expected


def test_one_run_or_none_says_nothing():
    for values in ([], [0.7]):
        found = find_task(0.7, values, runs=5)
        assert found.verdict == "cannot say"
        assert math.isnan(found.difference_low)


def test_figures_of_the_same_setting_are_rarely_apart():
    """5 times in 100 for both tasks together: drawn 1,000 times from one distribution."""
    rng, wrong, drawn = np.random.default_rng(0), 0, 1000
    for _ in range(drawn):
        tasks = {}
        for name, sd in (("ctr", 0.001), ("ctcvr", 0.003)):
            published = round(0.8 + rng.normal(0, sd, 5).mean(), 4)
            tasks[name] = find_task(published, 0.8 + rng.normal(0, sd, 5), runs=5, tasks=2)
        wrong += judge(tasks) == "apart"
    assert wrong / drawn < 0.05 + 3 * math.sqrt(0.05 * 0.95 / drawn)


def test_one_verdict_on_all_tasks():
    spread = 0.001 * np.arange(-2, 3)
    near, far = find_task(0.7, 0.7 + spread, 5), find_task(0.8, 0.7 + spread, 5)
    wide = find_task(0.7, 0.7 + 20 * spread, 5)
    assert wide.difference_high - wide.difference_low > 2 * MARGIN
    assert judge({"a": near, "b": near}) == "consistent"
    assert judge({"a": near, "b": far}) == "apart"
    assert judge({"a": near, "b": wide}) == "cannot say"
    assert judge({"a": near, "b": far}, ["other rows"]) == "cannot say"
    assert judge({}) == "cannot say"
