"""MGDA against hand-worked numbers and the conditions of its minimum; its twin is in `test_gram`."""

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import MGDA

DOUBLE = {"dtype": torch.float64}


def weights(slopes, **options):
    balancer = MGDA(**options)
    combined(balancer, slopes)
    return balancer.weights


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [
        ([[1.0, 0.0], [0.0, 2.0]], [0.8, 0.2]),  # (M_22 − M_12)/(M_11 + M_22 − 2·M_12)
        ([[1.0, 0.0], [3.0, 1.0]], [1.0, 0.0]),  # the second is no nearer to 0 than the first
        ([[3.0, 1.0], [1.0, 0.0]], [0.0, 1.0]),
        ([[1.0, 0.0], [-2.0, 0.0]], [2 / 3, 1 / 3]),  # Pareto-stationary
        ([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]], [0.5, 0.5, 0.0]),
        ([[2.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_weights_by_hand(slopes, expected):
    assert weights(torch.tensor(slopes, **DOUBLE)).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
def test_no_task_gets_worse_and_those_with_weight_gain_the_same(normalization):
    slopes = random_slopes(6, 8)  # losses are 1, 2, ...
    divisors = torch.ones(6, **DOUBLE)
    if normalization in ("l2", "loss+"):
        divisors *= slopes.norm(dim=1)
    if normalization in ("loss", "loss+"):
        divisors *= torch.arange(1, 7)
    scaled = slopes / divisors[:, None]
    step = combined(MGDA(normalization), slopes)
    w, gains = weights(slopes, normalization=normalization) * divisors, scaled @ step
    assert w.sum().item() == pytest.approx(1.0)
    assert gains.min().item() == pytest.approx(step.square().sum().item(), rel=1e-9)
    assert gains[w > 1e-6].tolist() == pytest.approx([gains.min().item()] * int((w > 1e-6).sum()), rel=1e-9)


def test_a_loss_that_is_not_positive_counts_as_1():
    x = torch.zeros(2, **DOUBLE, requires_grad=True)
    balancer = MGDA("loss")
    balancer.backward([x[0] - 5.0, 2 * x[1] + 2.0], shared=[x])
    assert balancer.weights.tolist() == pytest.approx([0.5, 0.25])  # (1, 0) and (0, 2)/2


def test_a_normalization_that_is_no_choice():
    with pytest.raises(ValueError, match=r"`normalization` must be 'none', 'l2', 'loss' or 'loss\+', got 'l1'"):
        MGDA("l1")
