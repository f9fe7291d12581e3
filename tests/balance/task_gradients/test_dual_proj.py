"""DualProj against hand-worked numbers and its invariants; its twin is in `test_gram`."""

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import DualProj

DOUBLE = {"dtype": torch.float64}


def test_by_hand():
    # The mean (−1, ½) has the product −½ with (1, 1), whose square is 2.
    slopes = torch.tensor([[1.0, 1.0], [-3.0, 0.0]], **DOUBLE)
    assert combined(DualProj(), slopes).tolist() == pytest.approx([-0.75, 0.75], abs=1e-11)
    # (1, 0) + 3·(0, −1) over 4 is against (0, 1), and loses that component.
    slopes = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], **DOUBLE)
    assert combined(DualProj([1.0, 3.0, 0.0]), slopes).tolist() == pytest.approx([0.25, 0.0], abs=1e-11)


def test_without_conflict_it_is_the_mean():
    slopes = random_slopes(5, 6).abs()
    torch.testing.assert_close(combined(DualProj(), slopes), slopes.mean(0), rtol=1e-12, atol=0.0)


def test_conflicts_with_no_task_and_is_the_nearest_such_step():
    slopes = random_slopes(7, 8)
    mean, step = slopes.mean(0), combined(DualProj(), slopes)
    gains = slopes @ step
    assert (slopes @ mean).min() < -0.1
    assert gains.min() > -1e-11
    assert ((step - mean) @ step).item() == pytest.approx(0.0, abs=1e-11)  # a projection onto a cone
