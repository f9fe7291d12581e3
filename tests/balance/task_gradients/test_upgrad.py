"""UPGrad against hand-worked numbers and its invariants; its twin is in `test_gram`."""

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import PCGrad, UPGrad

DOUBLE = {"dtype": torch.float64}


def test_two_tasks_are_those_of_pcgrad():
    slopes = torch.tensor([[2.0, 0.5, 0.1], [-1.0, 1.0, 0.3]], **DOUBLE)
    assert combined(UPGrad(), slopes).tolist() == pytest.approx(combined(PCGrad(), slopes).tolist(), rel=1e-11)


def test_three_tasks_by_hand():
    # The dual cone of (1,0), (−1,1) and (0,1) is spanned by (0,1) and (1,1). (1,0) becomes (½,½), (−1,1) becomes (0,1).
    slopes = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]], **DOUBLE)
    assert combined(UPGrad(), slopes).tolist() == pytest.approx([0.5 / 3, 2.5 / 3], abs=1e-9)


def test_conflicts_with_no_task():
    slopes = random_slopes(7, 8)
    gains = slopes @ combined(UPGrad(), slopes)
    assert gains.min() > -1e-11
    assert (slopes @ slopes.mean(0)).min() < -0.1


def test_a_loss_1000_times_as_large_scales_its_own_projected_gradient_alone():
    slopes, scale = random_slopes(4, 6), torch.tensor([1.0, 1.0, 1000.0, 1.0], **DOUBLE)
    own = [combined(UPGrad([float(k == j) for j in range(4)]), slopes) for k in range(4)]
    expected = sum(c * g for c, g in zip(scale, own, strict=True)) / 4
    torch.testing.assert_close(combined(UPGrad(), scale[:, None] * slopes), expected, rtol=1e-9, atol=1e-9)
