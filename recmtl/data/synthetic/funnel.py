"""A planted funnel of four steps, of which one affinity makes the first likely and the last unlikely."""

import itertools
from typing import Any

import numpy as np

from recmtl.data.synthetic.bayes import TaskTruth, task_truth
from recmtl.data.synthetic.problem import (
    CALIBRATION_ROWS,
    DrawnRows,
    Problem,
    category_effects,
    draw_categories,
    draw_numbers,
)
from recmtl.data.synthetic.streams import stream
from recmtl.data.synthetic.truth import Array, Columns, intercept, sigmoid
from recmtl.schema import Categorical, Funnel, Numeric, Schema, Task

STEPS = ("click", "cart", "order", "pay")
RATES = (0.3, 0.5, 0.6, 0.6)  # expected share of each step among the rows where the one before happened
SHARED = {"user_type": 50, "category": 60}  # their effects add up to the affinity, with that of the price
SHARED_NUMBER = "price"
SLOPES = (1.2, 0.6, 0.4, -0.8)  # log-odds of each step for a standard deviation of the affinity
OWN = {"click": "position", "cart": "brand", "order": "delivery", "pay": "method"}  # of each step
OWN_CATEGORIES = 20
SCALE = 0.6  # the standard deviation, in log-odds, of the effect of a step's own column


class FunnelOfFour(Problem):
    r"""Rows of a funnel of four steps, click, cart, order and pay, all of whose rates are known.

    Type of user, category and price add up to an affinity $s$ with mean 0 and variance 1. With the effect $f_t$ of a
    column of its own, a step that the one before it has reached has

    $$
    \operatorname{logit} P(t \mid x, \text{step before}) = b_t + \text{strength} \cdot a_t \, s + f_t(x_t),
    \qquad a = (1.2, 0.6, 0.4, -0.8)
    $$

    So the rows that reach a late step are not like all rows, and what makes a click makes a payment unlikely.

    Args:
        seed: The seed of the truth.
        strength: The factor of the affinity.
    """

    schema = Schema(
        [*map(Categorical, (*SHARED, *OWN.values())), Numeric(SHARED_NUMBER)],
        [
            Task(STEPS[0], STEPS[0]),
            *(Task(f"{step}_given_{before}", step, given=before) for before, step in itertools.pairwise(STEPS)),
        ],
        funnel=Funnel(*STEPS),
        description="Generated rows of a funnel of four steps.",
    )

    def __init__(self, seed: int, strength: float) -> None:
        super().__init__(seed, strength)
        rng = stream(seed, "effects")
        sizes = SHARED | dict.fromkeys(OWN.values(), OWN_CATEGORIES)
        self._effects = {name: category_effects(rng, size) for name, size in sizes.items()}
        self._intercepts = [0.0] * len(STEPS)
        scores = self._scores(self._features(stream(seed, "calibration"), CALIBRATION_ROWS))
        reached = np.ones(CALIBRATION_ROWS)
        for step, rate in enumerate(RATES):
            self._intercepts[step] = intercept(scores[:, step], reached, rate)
            reached = reached * sigmoid(scores[:, step] + self._intercepts[step])

    def draw(self, rng: np.random.Generator, rows: int) -> DrawnRows:
        """Draw rows with their labels and all their rates."""
        columns = self._features(rng, rows)
        conditional = sigmoid(self._scores(columns))  # [n, 4]
        happened = np.cumprod(rng.random(conditional.shape) < conditional, axis=1)  # [n, 4], none after the first 0
        labels = {step: happened[:, place].astype(np.int64) for place, step in enumerate(STEPS)}
        joint = np.cumprod(conditional, axis=1, dtype=np.float64)
        truth: dict[str, Array] = {}
        for place, rates in enumerate(self.schema.funnel_rates):
            truth |= {rates.conditional.name: conditional[:, place], rates.joint.name: joint[:, place]}
        return DrawnRows(columns | labels, truth)

    def tasks(self, drawn: DrawnRows) -> dict[str, TaskTruth]:
        """Return the Bayes AUC of each rate: of conditional ones over the rows where the step before happened."""
        found = {}
        for task in self.schema.funnel_tasks:
            labels = drawn.columns[task.label] == 1
            counts = drawn.columns[task.given] == 1 if task.given else np.ones(len(labels), dtype=bool)
            found[task.name] = task_truth(drawn.truth[task.name][counts], labels[counts])
        return found

    def planted(self, drawn: DrawnRows) -> dict[str, Any]:
        """Return the mean of each conditional rate over all rows, and over the rows where the step before happened."""
        found: dict[str, Any] = {}
        for step in self.schema.funnel_rates[1:]:
            rate, counts = drawn.truth[step.conditional.name], drawn.columns[str(step.parent)] == 1
            found[f"mean_{step.conditional.name}"] = float(rate.mean())
            found[f"mean_{step.conditional.name}_counted"] = float(rate[counts].mean()) if counts.any() else None
        return found

    def _features(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        sizes = SHARED | dict.fromkeys(OWN.values(), OWN_CATEGORIES)
        return draw_categories(rng, rows, sizes) | draw_numbers(rng, rows, (SHARED_NUMBER,))

    def _scores(self, columns: Columns) -> Array:
        """Return the log-odds of each step given the one before it `[n, 4]`."""
        effects = {name: values[columns[name].astype(np.int64)] for name, values in self._effects.items()}
        affinity = sum((effects[name] for name in SHARED), -columns[SHARED_NUMBER].astype(np.float64))
        affinity = affinity / (len(SHARED) + 1) ** 0.5
        scores = [
            bias + self.strength * slope * affinity + SCALE * effects[OWN[step]]
            for bias, slope, step in zip(self._intercepts, SLOPES, STEPS, strict=True)
        ]
        return np.stack(scores, axis=1)
