"""The loss of a row of a task, from its logit and its label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.models.links import Standardize, link_of
from recmtl.models.own_loss import OwnLoss
from recmtl.schema import FittedSchema, Task

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""From logits (of a regression: values) ``[B]`` or ``[B, C]`` and labels ``[B]`` to the loss of each row ``[B]``."""
LEAST_DEVIATION = 1e-3  # of the logarithm of an amount, in deviations of the training rows
FOCUS = 2.0  # the exponent of the focal loss


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the focal loss: cross-entropy times (1 − p)², p the label's probability (Lin et al., 2017, eq. 4).

    Shape:
        - inputs and output: ``[B]``
    """
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (1 - torch.exp(-entropy)) ** FOCUS * entropy


def poisson(logits: Tensor, labels: Tensor) -> Tensor:
    """Return half the Poisson deviance, y·log(y/m) − y + m, of expected values m = e^logit: at least 0.

    Shape:
        - inputs and output: ``[B]``
    """
    return logits.exp() - labels * logits + torch.xlogy(labels, labels) - labels


def tweedie(logits: Tensor, labels: Tensor) -> Tensor:
    """Return half the Tweedie deviance of power 1.5, 2·(√y − √m)²/√m, of expected values m = e^logit.

    Shape:
        - inputs and output: ``[B]``
    """
    return 2 * (labels.sqrt() * torch.exp(-logits / 4) - torch.exp(logits / 4)).square()


def ziln(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood of a zero-inflated log-normal label, of positive ones that of its logarithm.

    Wang, Liu and Miao, 2019, arXiv:1912.07753, equations 1 to 3: with logits a, μ and s the cross-entropy of "above 0"
    and, for labels above 0, log ς + log(2π)/2 + (log y − μ)²/2ς² with ς = softplus(s).

    Shape:
        - logits: ``[B, 3]``, labels and output: ``[B]``
    """
    a, mean, spread = logits.unbind(-1)
    above = labels > 0
    deviation = F.softplus(spread) + LEAST_DEVIATION
    scaled = (torch.where(above, labels, 1.0).log() - mean) / deviation
    density = deviation.log() + math.log(2 * math.pi) / 2 + scaled.square() / 2
    entropy = F.binary_cross_entropy_with_logits(a, above.to(a.dtype), reduction="none")
    return entropy + torch.where(above, density, 0.0)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the soft-max of logits ``[B, C]`` and the numbers of classes ``[B]``."""
    return F.cross_entropy(logits, labels.long(), reduction="none")


ROW_LOSSES: Mapping[str, RowLoss] = {
    "bce": partial(F.binary_cross_entropy_with_logits, reduction="none"),
    "focal": focal,
    "mse": partial(F.mse_loss, reduction="none"),
    "mae": partial(F.l1_loss, reduction="none"),
    "poisson": poisson,
    "tweedie": tweedie,
    "ziln": ziln,
    "ce": cross_entropy,
    "huber": partial(F.huber_loss, reduction="none"),
}


def row_loss(task: Task, schema: FittedSchema, rate: float) -> RowLoss:
    """Return the loss of a row of a task, which takes logit and label in the units of the model and of the data.

    Args:
        task: The task.
        schema: The fitted schema.
        rate: The mean of its label, to which `label_smoothing` smooths.
    """
    loss = OwnLoss(task) if task.own_loss else ROW_LOSSES[task.loss_name]
    standardize = link_of(task).standardize(task, schema)
    if task.pos_weight != 1:
        loss = with_pos_weight(loss, task.pos_weight)
    if task.label_smoothing:
        shares, share = schema.class_shares.get(task.name), task.label_smoothing
        loss = with_smoothing(loss, share, rate) if shares is None else with_class_smoothing(loss, share, shares)
    return partial(_of_standardized, loss, standardize)


def _of_standardized(loss: RowLoss, standardize: Standardize, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(*standardize(logits, labels))


def with_pos_weight(loss: RowLoss, weight: float) -> RowLoss:
    r"""Return the loss in which positives count times a weight $\alpha$, of predictions that stay probabilities.

    Weighted positives shift what the cross-entropy is lowest at: from the probability p to the log-odds
    $\log\frac{p}{1 - p} + \log\alpha$ (Elkan, "The foundations of cost-sensitive learning", IJCAI 2001, theorem 2). So
    the loss takes the logit z plus that shift, and z stays the log-odds of p:

    $$
    \ell(z, y) = \alpha y\, \ell_0(z + \log\alpha, 1) + (1 - y)\, \ell_0(z + \log\alpha, 0)
    $$

    That is the training with weighted positives and a bias that starts at their share, followed by the correction of
    all logits by $-\log\alpha$. A soft label has a positive and a negative part.
    """
    return partial(_positives_weighted, loss, weight)


def _positives_weighted(loss: RowLoss, weight: float, logits: Tensor, labels: Tensor) -> Tensor:
    shifted, ones = logits + math.log(weight), torch.ones_like(labels)
    return weight * labels * loss(shifted, ones) + (1 - labels) * loss(shifted, 1 - ones)


def with_smoothing(loss: RowLoss, smoothing: float, rate: float) -> RowLoss:
    r"""Return the loss of labels that are smoothed to their mean: $(1 - \varepsilon) y + \varepsilon \bar y$.

    Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, section 7, with the distribution of the labels
    as u.

    Note:
        With u = 1/2, which they took for balanced classes, the mean prediction of a label rate of 1 % and ε = 0.1 would
        be 5.9 %. With the label rate it stays 1 %.
    """
    return partial(_smoothed, loss, smoothing, rate)


def _smoothed(loss: RowLoss, smoothing: float, rate: float, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(logits, (1 - smoothing) * labels + smoothing * rate)


def with_class_smoothing(loss: RowLoss, smoothing: float, shares: Sequence[float]) -> RowLoss:
    r"""Return the cross-entropy of labels that are smoothed to the shares of the classes, as by `with_smoothing`."""
    return partial(_smoothed_to_shares, loss, smoothing, tuple(shares))


def _smoothed_to_shares(
    loss: RowLoss, smoothing: float, shares: Sequence[float], logits: Tensor, labels: Tensor
) -> Tensor:
    counted = [(float(c), share) for c, share in enumerate(shares) if share]
    to_shares = sum((share * loss(logits, torch.full_like(labels, c)) for c, share in counted), 0 * labels)
    return (1 - smoothing) * loss(logits, labels) + smoothing * to_shares
