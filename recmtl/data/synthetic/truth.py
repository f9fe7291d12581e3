"""The planted truth of generated rows: effects of columns on the log-odds of a click and a conversion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class EffectInputs:
    """The columns as inputs of effects: numbers as they are, categories as pseudorandom values of the seed."""

    columns: Columns
    seed: int

    def number(self, index: int) -> Array:
        """Return `numerical_<index>` `[n]`."""
        return self.columns[f"numerical_{index}"].astype(np.float64)

    def planted(self, index: int) -> Array:
        """Return a value in [-1, 1) `[n]` for each `categorical_<index>`: a SplitMix64 hash instead of a table."""
        stride, *mixers = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
        salt = np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)
        bits = self.columns[f"categorical_{index}"].astype(np.uint64) * stride + salt
        for shift, mixer in zip((30, 27), mixers, strict=True):
            bits = (bits ^ (bits >> np.uint64(shift))) * mixer
        bits ^= bits >> np.uint64(31)
        return (bits >> np.uint64(11)) / 2.0**52 - 1.0  # the upper 53 bits


@dataclass(frozen=True)
class Effect:
    """A planted effect: one standard deviation of `value` adds these log-odds to each task."""

    name: str
    click: float
    conversion: float  # given a click
    value: Callable[[EffectInputs], Array]


def _step(x: Array) -> Array:
    return np.tanh(6 * (x - 0.5))  # a smooth step from -1 to 1


EFFECTS = (
    # Shared: raises both clicks and conversions.
    Effect("user", 0.30, 0.05, lambda v: v.planted(1)),
    Effect("item", 0.30, 0.05, lambda v: v.planted(10)),
    Effect("quality, more or less so by user segment", 0.55, 0.15, lambda v: v.number(52) * (1 + v.planted(9))),
    Effect("price, best when middling", 0.65, 0.10, lambda v: np.exp(-(((v.number(38) - 0.5) / 0.25) ** 2))),
    # Opposed: raises clicks, lowers conversions.
    Effect("novelty, past a threshold", 0.65, -0.50, lambda v: _step(v.number(47))),
    Effect("discount, to thrifty users", 0.50, -0.45, lambda v: _step(v.number(61)) * (1 - _step(v.number(9)))),
    # Of one task only.
    Effect("user's activity, as a logarithm", 0.40, 0.0, lambda v: np.log1p(v.number(4))),
    Effect("speed of delivery by distance", 0.0, 0.55, lambda v: v.number(28) * v.number(33)),
)
WEIGHTS = np.array([(effect.click, effect.conversion) for effect in EFFECTS])  # [E, 2]


@dataclass(frozen=True)
class PlantedTruth:
    """The true click and conversion probabilities of any row."""

    seed: int
    centre: Array  # mean of each effect [E]
    spread: Array  # standard deviation of each effect [E]
    intercepts: Array  # log-odds [2] of a click, and of a conversion given a click, if all effects are at their mean

    def probabilities(self, columns: Columns) -> tuple[Array, Array]:
        """Return P(click) and P(conversion | click), each `[n]`, of rows given as columns by name."""
        effects = (effects_of(columns, self.seed) - self.centre) / self.spread  # [n, E]
        p = sigmoid(effects @ WEIGHTS + self.intercepts)  # [n, 2]
        return p[:, 0], p[:, 1]


def effects_of(columns: Columns, seed: int) -> Array:
    """Return the value of each effect for each row `[n, E]`."""
    inputs = EffectInputs(columns, seed)
    return np.stack([effect.value(inputs) for effect in EFFECTS], axis=1)  # [n, E]


def sigmoid(logits: Array) -> Array:
    """Return the probabilities of log-odds of any shape."""
    return 1.0 / (1.0 + np.exp(-logits))


def intercept(scores: Array, weights: Array, rate: float) -> float:
    """Return the intercept at which the weighted mean of the probabilities is `rate`, by bisection."""
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        above = np.average(sigmoid(scores + middle), weights=weights) > rate
        low, high = (low, middle) if above else (middle, high)
    return (low + high) / 2
