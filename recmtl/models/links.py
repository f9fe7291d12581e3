"""Links: how the outputs of a head become the prediction of a task, one per kind of task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from recmtl.layers.ensemble import mean_probability_logit
from recmtl.schema import FittedSchema, LabelRate, Moments, Task

MIN_CLASS_COUNT = 0.5  # assumed of a class without training rows, so that its log-odds are finite


class Link(ABC):
    """From the logits of a task to its prediction, and what follows from that for heads and losses.

    Shape:
        - logits: ``[B]`` for a task with one output, ``[B, C]`` with C; of members of an ensemble ``[B, k]`` or
          ``[B, k, C]``
    """

    squares = False  # whether losses are squares, of which a likelihood takes half
    meaning: str  # of the prediction, in words

    @abstractmethod
    def predictions(self, task: Task, logits: Tensor) -> Tensor:
        """Return the predictions in float64: one per row, or a probability per class ``[B, C]``."""

    @abstractmethod
    def mean_of_members(self, task: Task, logits: Tensor) -> Tensor:
        """Return logits whose prediction is the mean of the members' predictions."""

    @abstractmethod
    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the best constant logits for the training rows, ``[]`` or ``[C]``.

        Args:
            task: The task.
            rate: Its training rows, and the mean of its label among them or, of a thinned file, among all rows.
            schema: The fitted schema.
        """

    def constant_loss(self, rate: LabelRate) -> float:
        """Return the loss of the best constant prediction; 0 if a loss of that size says nothing."""
        return 0.0

    def scale(self, task: Task, schema: FittedSchema) -> Moments | None:
        """Return the mean and deviation of the label, if tower and bias are to predict the standardized label."""
        return None

    def unit(self, task: Task, schema: FittedSchema) -> float | None:
        """Return the unit of the prediction; ``None`` for probabilities."""
        return None

    def standardized(self, logits: Tensor, labels: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
        """Return logits and labels as the loss takes them, the same whatever the unit of the label."""
        return logits, labels


class Sigmoid(Link):
    """Of binary tasks: logits are the log-odds of a probability."""

    meaning = "the probability that {label} is 1"

    def predictions(self, task: Task, logits: Tensor) -> Tensor:
        """Return the probabilities."""
        return logits.double().sigmoid()

    def mean_of_members(self, task: Task, logits: Tensor) -> Tensor:
        """Return the log-odds of the mean probability."""
        return mean_probability_logit(logits)

    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the log-odds of the label rate; 0 without labelled rows."""
        if rate.rows == 0:
            return torch.tensor(0.0)
        positives = min(max(rate.mean * rate.rows, MIN_CLASS_COUNT), rate.rows - MIN_CLASS_COUNT)
        return torch.tensor(math.log(positives / (rate.rows - positives)))

    def constant_loss(self, rate: LabelRate) -> float:
        """Return the cross-entropy of the label rate."""
        if not 0 < rate.mean < 1:
            return 0.0
        return -(rate.mean * math.log(rate.mean) + (1 - rate.mean) * math.log1p(-rate.mean))


class Identity(Link):
    """Of regressions: logits are values in the unit of the label."""

    squares = True
    meaning = "the expected value of {label}"

    def predictions(self, task: Task, logits: Tensor) -> Tensor:
        """Return the values."""
        return logits.double()

    def mean_of_members(self, task: Task, logits: Tensor) -> Tensor:
        """Return the mean value."""
        return logits.mean(1)

    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the mean of the label; 0 without labelled rows."""
        return torch.tensor(rate.mean if rate.rows else 0.0)

    def scale(self, task: Task, schema: FittedSchema) -> Moments:
        """Return the moments of the label."""
        return schema.label_moments(task)

    def unit(self, task: Task, schema: FittedSchema) -> float:
        """Return the deviation of the label."""
        return schema.label_moments(task).deviation

    def standardized(self, logits: Tensor, labels: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
        """Return both minus the mean, over the deviation, of the training rows' labels."""
        mean, deviation = moments
        return (logits - mean) / deviation, (labels - mean) / deviation


LINKS: Mapping[str, Link] = {"binary": Sigmoid(), "regression": Identity()}
"""The link of each kind of task."""


def link_of(task: Task) -> Link:
    """Return the link of a task."""
    return LINKS[task.kind]


def predictions_of(
    schema: FittedSchema, objectives: tuple[Task, ...], logits: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the float64 predictions of all tasks from the logits of a model in evaluation mode."""
    tasks = {task.name: task for task in (*schema.schema.reported_tasks, *objectives)}
    return {name: link_of(tasks[name]).predictions(tasks[name], logit) for name, logit in logits.items()}
