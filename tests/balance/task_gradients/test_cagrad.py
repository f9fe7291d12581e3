"""CAGrad against hand-worked numbers and its invariants; its twin is in `test_gram`."""

import math

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import CAGrad

DOUBLE = {"dtype": torch.float64}


def test_the_worst_task_alone_by_hand():
    # The mean (3, 6) has the norm √45; the first task gains 36, the second 144. With c = 0.4 the whole ball goes to it.
    slopes = torch.tensor([[6.0, 0.0], [0.0, 12.0]], **DOUBLE)
    assert combined(CAGrad(), slopes).tolist() == pytest.approx([3 + 0.4 * math.sqrt(45), 6.0], rel=1e-7)


def test_two_worst_tasks_by_hand():
    # Equal sizes at right angles: the mean (1, 1) is stretched by 1 + c.
    slopes = torch.tensor([[2.0, 0.0], [0.0, 2.0]], **DOUBLE)
    for rescale, factor in (("none", 1.4), ("linear", 1.0), ("square", 1.4 / 1.16)):
        assert combined(CAGrad(rescale=rescale), slopes).tolist() == pytest.approx([factor] * 2, rel=1e-7)


def test_opposed_tasks_by_hand():
    # The mean is −½; the least gain in the ball of radius 0.2 is at its end nearest to 0.
    slopes = torch.tensor([[-2.0], [1.0]], **DOUBLE)
    assert combined(CAGrad(), slopes).item() == pytest.approx(-0.3, rel=1e-6)


@pytest.mark.parametrize("K", [2, 5, 12, 32])
@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
def test_stays_in_the_ball_and_raises_the_least_gain(K, c):
    slopes = random_slopes(K, 20)
    mean, step = slopes.mean(0), combined(CAGrad(c), slopes)
    assert (step - mean).norm().item() == pytest.approx(c * mean.norm().item(), rel=1e-5)
    assert (slopes @ step).min() > (slopes @ mean).min()


def test_c_0_is_the_mean():
    slopes = random_slopes(4)
    torch.testing.assert_close(combined(CAGrad(c=0.0), slopes), slopes.mean(0), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": 1.0}, r"`c` must be in \[0, 1\), got 1.0"),
        ({"c": -0.1}, r"`c` must be in \[0, 1\), got -0.1"),
        ({"rescale": "1"}, "`rescale` must be 'none', 'linear' or 'square', got '1'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        CAGrad(**options)
