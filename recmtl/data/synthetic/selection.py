"""Planted selection: what makes a click makes a conversion, so that clicked rows are not like all rows."""

from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from recmtl.data.synthetic.bayes import TaskTruth, bayes_auc
from recmtl.data.synthetic.problem import (
    CALIBRATION_ROWS,
    CLICK,
    DrawnRows,
    Problem,
    category_effects,
    draw_categories,
    draw_numbers,
)
from recmtl.data.synthetic.streams import stream
from recmtl.data.synthetic.truth import Array, Columns, intercept, sigmoid
from recmtl.schema import Categorical, Funnel, Numeric, Schema, Task

CONVERSION = "conversion"
CLICK_RATE, CONVERSION_RATE = 0.15, 0.15  # of all rows: a conversion that would follow a click
SHARED = {"user": 200, "item": 200, "context": 10}  # their effects add up to the affinity
SHARED_NUMBER = "price"
CLICK_ALONE, CONVERSION_ALONE = {"hour": 24, "slot": 6}, {"device": 6, "payment": 8}
CONVERSION_NUMBER = "quality"
CLICK_SLOPE, CONVERSION_SLOPE = 1.5, 4.0  # log-odds for each standard deviation of the affinity
SCALE = 0.4  # the standard deviation, in log-odds, of the effect of another column
NODES = 24  # of the Gauss-Hermite rule


class Selection(Problem):
    r"""Rows with a click and, if clicked, a conversion, whose probability is known for all rows.

    User, item, context and price add up to an affinity $s$ with mean 0 and variance 1. With effects $f$ and $g$ of
    other columns and a hidden factor $z \sim \mathcal{N}(0, 1)$ of each row, which no column shows,

    $$
    \begin{aligned}
    \operatorname{logit} P(\text{click} \mid x, z) &= a + 1.5 \, \text{strength} \cdot s + f(x)
    + \text{hidden} \cdot z \\
    \operatorname{logit} P(\text{conversion} \mid x, z) &= b + 4.0 \, \text{strength} \cdot \min(s, 0) + g(x)
    + \text{hidden} \cdot z
    \end{aligned}
    $$

    `cvr` is the probability over $z$ of a conversion if the row is clicked by an intervention: the share of all such
    rows that would convert. The label is seen in clicked rows alone.

    What can be corrected: with `hidden=0` a click depends on columns alone and every row has some chance of one. The
    conversions of clicked rows, each weighted by 1 / P(click | x), then have the mean of all rows, whatever the class
    of the model; without weights a model that is fitted to clicked rows, where $s$ is mostly positive and the curve
    flat, is too high on the others as far as it cannot bend with the curve. A model that can, and has enough clicks at
    low affinities, needs no weights.
    What cannot: with `hidden` above 0 P(conversion | x, click) differs from `cvr`, and nothing in the rows tells by how
    much. Weights of propensities by the columns leave that part of the bias.

    Args:
        seed: The seed of the truth.
        strength: The factor of the affinity in both log-odds.
        hidden: The log-odds of one standard deviation of the hidden factor.
    """

    schema = Schema(
        [
            *map(Categorical, (*SHARED, *CLICK_ALONE, *CONVERSION_ALONE)),
            *map(Numeric, (SHARED_NUMBER, CONVERSION_NUMBER)),
        ],
        [Task("ctr", CLICK), Task("cvr", CONVERSION, given=CLICK)],
        funnel=Funnel(CLICK, CONVERSION),
        description="Generated rows with clicks and conversions, which one affinity makes likely.",
    )

    def __init__(self, seed: int, strength: float, hidden: float = 0.0) -> None:
        super().__init__(seed, strength)
        self.hidden = hidden
        rng = stream(seed, "effects")
        sizes = SHARED | CLICK_ALONE | CONVERSION_ALONE
        self._effects = {name: category_effects(rng, size) for name, size in sizes.items()}
        rng = stream(seed, "calibration")
        click, conversion = self._scores(self._features(rng, CALIBRATION_ROWS))
        z, ones = hidden * rng.standard_normal(CALIBRATION_ROWS), np.ones(CALIBRATION_ROWS)
        self._click, self._conversion = (
            intercept(click + z, ones, CLICK_RATE),
            intercept(conversion + z, ones, CONVERSION_RATE),
        )

    def draw(self, rng: np.random.Generator, rows: int) -> DrawnRows:
        """Draw rows with their labels, and their probabilities over the hidden factor."""
        columns = self._features(rng, rows)
        click, conversion = self._scores(columns)
        click, conversion = click + self._click, conversion + self._conversion
        z = self.hidden * rng.standard_normal(rows)
        clicked = rng.random(rows) < sigmoid(click + z)
        converted = clicked & (rng.random(rows) < sigmoid(conversion + z))
        labels = {CLICK: clicked.astype(np.int64), CONVERSION: converted.astype(np.int64)}
        return DrawnRows(columns | labels, self._probabilities(click, conversion))

    def tasks(self, drawn: DrawnRows) -> dict[str, TaskTruth]:
        """Return the Bayes AUC of CTR, of CVR over clicked rows, and of CTCVR."""
        p = drawn.truth
        clicked, converted = (drawn.columns[name] == 1 for name in (CLICK, CONVERSION))
        return bayes_auc(p["ctr"], p["ctcvr"] / p["ctr"], clicked, converted)

    def planted(self, drawn: DrawnRows) -> dict[str, Any]:
        """Return the mean of the true CVR over all rows, and over clicked rows."""
        cvr, clicked = drawn.truth["cvr"], drawn.columns[CLICK] == 1
        return {
            "mean_cvr": float(cvr.mean()),
            "mean_cvr_clicked": float(cvr[clicked].mean()) if clicked.any() else None,
        }

    def _features(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        sizes = SHARED | CLICK_ALONE | CONVERSION_ALONE
        return draw_categories(rng, rows, sizes) | draw_numbers(rng, rows, (SHARED_NUMBER, CONVERSION_NUMBER))

    def _scores(self, columns: Columns) -> tuple[Array, Array]:
        """Return the log-odds of click and conversion `[n]` without intercept and hidden factor."""
        effects = {name: values[columns[name].astype(np.int64)] for name, values in self._effects.items()}
        affinity = sum((effects[name] for name in SHARED), -columns[SHARED_NUMBER].astype(np.float64))
        affinity = affinity / (len(SHARED) + 1) ** 0.5
        click = CLICK_SLOPE * self.strength * affinity + SCALE * sum(effects[name] for name in CLICK_ALONE)
        own = columns[CONVERSION_NUMBER].astype(np.float64) + sum(effects[name] for name in CONVERSION_ALONE)
        return click, CONVERSION_SLOPE * self.strength * np.minimum(affinity, 0) + SCALE * own

    def _probabilities(self, click: Array, conversion: Array) -> dict[str, Array]:
        """Return CTR, CVR and CTCVR `[n]` of log-odds, integrated over the hidden factor."""
        nodes, weights = hermegauss(NODES) if self.hidden else (np.zeros(1), np.ones(1))
        found = {name: np.zeros(len(click)) for name in ("ctr", "cvr", "ctcvr")}
        for z, weight in zip(self.hidden * nodes, weights / weights.sum(), strict=True):
            p, q = sigmoid(click + z), sigmoid(conversion + z)
            for name, value in (("ctr", p), ("cvr", q), ("ctcvr", p * q)):
                found[name] += weight * value
        return found
