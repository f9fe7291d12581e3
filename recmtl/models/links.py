"""Links: how the outputs of a head become the prediction of a task, one per kind of task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.layers.ensemble import mean_probability_logit
from recmtl.schema import FittedSchema, LabelRate, Moments, Task

MIN_CLASS_COUNT = 0.5  # assumed of a class without training rows, so that its log-odds are finite


Standardize = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From logits and labels to those that a loss takes."""
SPREAD = math.log(math.e - 1)  # whose soft-plus is 1


def _unchanged(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits, labels


def _standardized(mean: float, deviation: float, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return (logits - mean) / deviation, (labels - mean) / deviation


def _over_mean(mean: float, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits - math.log(mean), labels / mean


def _with_standardized_logs(mean: float, deviation: float, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    a, own, spread = logits.unbind(-1)
    logs = (torch.where(labels > 0, labels, 1.0).log() - mean) / deviation
    return torch.stack([a, (own - mean) / deviation, spread], -1), torch.where(labels > 0, logs.exp(), 0.0)


class Link(ABC):
    """From the logits of a task to its prediction, and what follows from that for heads and losses.

    Shape:
        - logits: ``[B]`` for a task with one output, ``[B, C]`` with C; of members of an ensemble ``[B, k]`` or
          ``[B, k, C]``
    """

    squares = False  # whether losses are squares, of which a likelihood takes half
    meaning: str  # of the prediction, in words

    @abstractmethod
    def predictions(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the predictions in float64: one per row, or a probability per class ``[B, C]``."""

    @abstractmethod
    def mean_of_members(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return logits whose prediction is the mean of the members' predictions."""

    @abstractmethod
    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the best constant logits for the training rows, ``[]`` or ``[C]``.

        Args:
            task: The task.
            rate: Its training rows, and the mean of its label among them or, of a thinned file, among all rows.
            schema: The fitted schema.
        """

    def constant_loss(self, task: Task, rate: LabelRate, schema: FittedSchema) -> float:
        """Return the loss of the best constant prediction; 0 if a loss of that size says nothing."""
        return 0.0

    def scale(self, task: Task, schema: FittedSchema) -> Moments | None:
        """Return the mean and deviation of the label, if tower and bias are to predict the standardized label."""
        return None

    def unit(self, task: Task, schema: FittedSchema) -> float | None:
        """Return the unit of the prediction; ``None`` for probabilities."""
        return None

    def standardize(self, task: Task, schema: FittedSchema) -> Standardize:
        """Return what makes logits and labels those that the loss takes, the same whatever the unit of the label."""
        return _unchanged

    def ranking_scores(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the scores by which a ranking loss orders rows, ``[B]`` or ``[B, k]``, free of the label's unit."""
        return logits


class Sigmoid(Link):
    """Of binary tasks: logits are the log-odds of a probability."""

    meaning = "the probability that {label} is 1"

    def predictions(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the probabilities."""
        return logits.double().sigmoid()

    def mean_of_members(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the log-odds of the mean probability."""
        return mean_probability_logit(logits)

    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the log-odds of the label rate; 0 without labelled rows."""
        if rate.rows == 0:
            return torch.tensor(0.0)
        positives = min(max(rate.mean * rate.rows, MIN_CLASS_COUNT), rate.rows - MIN_CLASS_COUNT)
        return torch.tensor(math.log(positives / (rate.rows - positives)))

    def constant_loss(self, task: Task, rate: LabelRate, schema: FittedSchema) -> float:
        """Return the cross-entropy of the label rate."""
        if not 0 < rate.mean < 1:
            return 0.0
        return -(rate.mean * math.log(rate.mean) + (1 - rate.mean) * math.log1p(-rate.mean))


class Identity(Link):
    """Of regressions: logits are values in the unit of the label."""

    squares = True
    meaning = "the expected value of {label}"

    def predictions(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the values."""
        return logits.double()

    def mean_of_members(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
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

    def standardize(self, task: Task, schema: FittedSchema) -> Standardize:
        """Return what takes the mean from both, and divides them by the deviation, of the training rows' labels."""
        mean, deviation = schema.label_moments(task)
        return partial(_standardized, mean, deviation)

    def ranking_scores(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the values in deviations of the label."""
        return logits / self.unit(task, schema)


class Softmax(Link):
    """Of multi-class tasks: logits are the logarithms of the probabilities of the classes, up to a constant."""

    meaning = "the probability of each class of {label}"

    def predictions(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the probabilities of the classes."""
        return logits.double().softmax(-1)

    def mean_of_members(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the logarithms of the mean probabilities."""
        return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])

    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the logarithms of the classes' shares; equal ones without labelled rows."""
        counts = torch.tensor(schema.class_shares[task.name], dtype=torch.float64) * rate.rows + MIN_CLASS_COUNT
        return (counts / counts.sum()).log()

    def constant_loss(self, task: Task, rate: LabelRate, schema: FittedSchema) -> float:
        """Return the entropy of the classes' shares."""
        return -sum(share * math.log(share) for share in schema.class_shares[task.name] if share)


class LogMean(Link):
    """Of amounts: logits are the logarithms of expected values, in the unit of the label."""

    meaning = "the expected amount of {label}"

    def predictions(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the expected values."""
        return logits.double().exp()

    def mean_of_members(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the logarithms of the mean expected values."""
        return logits.logsumexp(1) - math.log(logits.shape[1])

    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the logarithm of the mean label; 0 if there is none above 0."""
        return torch.tensor(math.log(rate.mean) if rate.mean > 0 else 0.0)

    def unit(self, task: Task, schema: FittedSchema) -> float:
        """Return the mean label."""
        return schema.rate(task).mean or 1.0

    def standardize(self, task: Task, schema: FittedSchema) -> Standardize:
        """Return what divides labels and expected values by the mean of the training rows' labels."""
        mean = self.unit(task, schema)
        return partial(_over_mean, mean)


class ZeroInflatedLogNormal(LogMean):
    r"""Of amounts whose logarithm is normal, if they are not 0: three logits a, μ and s.

    Wang, Liu and Miao, "A Deep Probabilistic Model for Customer Lifetime Value Prediction", 2019, arXiv:1912.07753,
    section 3. A label is above 0 with probability σ(a), and its logarithm then has mean μ and deviation
    ς = d·softplus(s), where d is the deviation in the training rows. The prediction is the expected value

    $$
    \sigma(a) \, e^{\mu + \varsigma^2 / 2}
    $$

    Note:
        The paper has d = 1, with which a loss below 0 is usual where amounts are small.
    """

    def predictions(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the expected values ``[B]``, or ``[B, k]`` of members."""
        a, mean, spread = logits.double().unbind(-1)
        return a.sigmoid() * (mean + self._half_variance(spread, task, schema)).exp()

    def _half_variance(self, spread: Tensor, task: Task, schema: FittedSchema) -> Tensor:
        return (schema.log_moments[task.name].deviation * F.softplus(spread)).square() / 2

    def mean_of_members(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return logits of the mean probability and the mean expected value, with the mean s."""
        whole = logits.double()
        a, spread = mean_probability_logit(whole[..., 0]), whole[..., 2].mean(1)
        log_mean = self.ranking_scores(task, whole, schema).logsumexp(1) - math.log(logits.shape[1])
        mean = log_mean - F.logsigmoid(a) - self._half_variance(spread, task, schema)
        return torch.stack([a, mean, spread], -1).to(logits.dtype)

    def constant(self, task: Task, rate: LabelRate, schema: FittedSchema) -> Tensor:
        """Return the log-odds of the share of amounts above 0, the mean of their logarithms, and s of deviation d."""
        positive, mean, _ = schema.log_moments[task.name]
        share = LINKS["binary"].constant(task, rate._replace(mean=positive), schema)
        return torch.tensor([share.item(), mean, SPREAD])

    def standardize(self, task: Task, schema: FittedSchema) -> Standardize:
        """Return what standardizes μ and the logarithms of labels above 0 by those of the training rows."""
        _, mean, deviation = schema.log_moments[task.name]
        return partial(_with_standardized_logs, mean, deviation)

    def ranking_scores(self, task: Task, logits: Tensor, schema: FittedSchema) -> Tensor:
        """Return the logarithms of the expected values."""
        a, mean, spread = logits.unbind(-1)
        return F.logsigmoid(a) + mean + self._half_variance(spread, task, schema)


LINKS: Mapping[str, Link] = {
    "binary": Sigmoid(),
    "regression": Identity(),
    "multiclass": Softmax(),
    "amount": LogMean(),
    "ziln": ZeroInflatedLogNormal(),
}
"""The link of each kind of task, and of losses that have one of their own."""


def link_of(task: Task) -> Link:
    """Return the link of a task."""
    return LINKS.get(task.loss_name) or LINKS[task.kind]


def predictions_of(
    schema: FittedSchema, objectives: tuple[Task, ...], logits: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the float64 predictions of all tasks from the logits of a model in evaluation mode."""
    tasks = {task.name: task for task in (*schema.schema.reported_tasks, *objectives)}
    return {name: link_of(tasks[name]).predictions(tasks[name], logit, schema) for name, logit in logits.items()}
