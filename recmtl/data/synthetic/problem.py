"""Planted problems: small tables whose true probabilities are known, each built to show one property of a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from recmtl.data.synthetic.bayes import TaskTruth, task_truth
from recmtl.data.synthetic.streams import stream
from recmtl.data.synthetic.truth import Array, Columns, intercept, sigmoid
from recmtl.schema import Schema, Task

CALIBRATION_ROWS = 20_000
CLICK, LIKE = "click", "like"
TASKS = (Task("ctr", CLICK), Task("like", LIKE))
RATES = (0.3, 0.3)  # expected shares of rows with a click and with a like
WITHOUT = "_without"  # of a task: its probability by all effects but the planted ones


@dataclass(frozen=True)
class DrawnRows:
    """Rows and what is known of each.

    Args:
        columns: The features and labels by column `[n]`; others than those of the schema are not written.
        truth: The true probabilities by task, and other numbers of `test_truth.csv` `[n]`.
    """

    columns: Columns
    truth: Mapping[str, Array]


class Problem(ABC):
    """A planted problem: one truth, from which any number of rows is drawn.

    Args:
        seed: The seed of the truth.
        strength: How strong the planted property is; 0 plants none.
    """

    schema: ClassVar[Schema]

    def __init__(self, seed: int, strength: float) -> None:
        self.seed, self.strength = seed, strength

    @abstractmethod
    def draw(self, rng: np.random.Generator, rows: int) -> DrawnRows:
        """Draw rows with their labels."""

    @abstractmethod
    def tasks(self, drawn: DrawnRows) -> dict[str, TaskTruth]:
        """Return the Bayes AUC of each task on drawn rows."""

    @abstractmethod
    def planted(self, drawn: DrawnRows) -> dict[str, Any]:
        """Return figures of drawn rows that show what is planted."""


class TwoLabels(Problem):
    """A problem with two labels on all rows, whose log-odds are sums of effects of which some are planted.

    The planted ones are multiplied by `strength`. The true probabilities without them, `ctr_without` and
    `like_without`, show what a model reaches that cannot see what is planted.

    Args:
        seed: The seed of the truth.
        strength: The factor of the planted effects.
    """

    def __init__(self, seed: int, strength: float) -> None:
        super().__init__(seed, strength)
        self.build(stream(seed, "effects"))
        plain, planted = self.effects(self.features(stream(seed, "calibration"), CALIBRATION_ROWS))
        self._intercepts = _intercepts(plain + strength * planted), _intercepts(plain)

    @abstractmethod
    def build(self, rng: np.random.Generator) -> None:
        """Draw the effects."""

    @abstractmethod
    def features(self, rng: np.random.Generator, rows: int) -> dict[str, npt.NDArray[np.generic]]:
        """Draw the features, and hidden values that effects need."""

    @abstractmethod
    def effects(self, columns: Columns) -> tuple[Array, Array]:
        """Return the log-odds of both labels `[n, 2]`: of the plain effects, and of the planted ones."""

    def draw(self, rng: np.random.Generator, rows: int) -> DrawnRows:
        """Draw rows with their labels."""
        columns = self.features(rng, rows)
        plain, planted = self.effects(columns)
        whole, without = self._intercepts
        p, p_without = sigmoid(plain + self.strength * planted + whole), sigmoid(plain + without)  # [n, 2]
        truth = {task.name: p[:, i] for i, task in enumerate(TASKS)}
        truth |= {f"{task.name}{WITHOUT}": p_without[:, i] for i, task in enumerate(TASKS)}
        labels = (rng.random(p.shape) < p).astype(np.int64)  # [n, 2]
        return DrawnRows(columns | {task.label: labels[:, i] for i, task in enumerate(TASKS)}, truth)

    def tasks(self, drawn: DrawnRows) -> dict[str, TaskTruth]:
        """Return the Bayes AUC of each task on drawn rows."""
        return {task.name: task_truth(drawn.truth[task.name], drawn.columns[task.label] == 1) for task in TASKS}

    def planted(self, drawn: DrawnRows) -> dict[str, Any]:
        """Return the AUC of the true probabilities without the planted effects."""
        scores = {task: drawn.truth[f"{task.name}{WITHOUT}"] for task in TASKS}
        aucs = {task.name: task_truth(p, drawn.columns[task.label] == 1).auc for task, p in scores.items()}
        return {"auc_without": aucs}


def _intercepts(logits: Array) -> Array:
    """Return the intercept of each label `[2]` at which the mean probability is its rate."""
    ones = np.ones(len(logits))
    return np.array([intercept(scores, ones, rate) for scores, rate in zip(logits.T, RATES, strict=True)])


def category_effects(rng: np.random.Generator, *shape: int) -> Array:
    """Draw effects whose mean over the categories, the last dimension, is 0 and whose variance is 1."""
    values = rng.standard_normal(shape)
    values = values - values.mean(axis=-1, keepdims=True)
    found: Array = values / values.std(axis=-1, keepdims=True)
    return found


def draw_categories(
    rng: np.random.Generator, rows: int, sizes: Mapping[str, int]
) -> dict[str, npt.NDArray[np.generic]]:
    """Draw columns of categories `[n]`, all equally likely and independent."""
    return {name: rng.integers(size, size=rows) for name, size in sizes.items()}


def draw_numbers(rng: np.random.Generator, rows: int, names: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    """Draw columns of numbers `[n]`: uniform with mean 0 and variance 1, of six decimals."""
    return {name: np.round((2 * rng.random(rows) - 1) * 3**0.5, 6) for name in names}
