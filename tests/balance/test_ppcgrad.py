"""PPCGrad against hand-worked numbers, its twin, and PCGrad."""

import pytest
import torch

from recmtl.balance import PCGrad, PPCGrad, Sum, project_conflicting

DOUBLE = {"dtype": torch.float64}


def combined(balancer, *slopes):
    x = torch.zeros(len(slopes[0]), **DOUBLE, requires_grad=True)
    balancer.backward([(x * torch.tensor(slope, **DOUBLE)).sum() for slope in slopes], shared=[x])
    return x.grad.tolist()


def test_three_tasks_by_hand():
    # (1,0) conflicts with both others: (1,0) + ½·(−1,1) + ½·(−1,−1) = (0,0); (−1,1) + (1,0) = (0,1); (0,−1)
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    torch.testing.assert_close(project_conflicting(gradients), torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    assert combined(PPCGrad("sum"), *gradients.tolist()) == [0.0, 0.0]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_two_tasks_are_those_of_pcgrad(reduction):
    slopes = [2.0, 0.5, 0.1], [-1.0, 1.0, 0.3]
    assert combined(PPCGrad(reduction), *slopes) == pytest.approx(combined(PCGrad(reduction), *slopes), rel=1e-14)


def test_without_conflict_the_sum_is_the_plain_sum():
    slopes = [0.25, 1.75, 0.0], [0.5, 0.0, 2.5], [5.0, 0.0, 0.75]
    assert combined(PPCGrad("sum"), *slopes) == combined(Sum(), *slopes)


def test_has_no_state_of_its_own():
    balancer = PPCGrad()
    combined(balancer, [1.0], [-1.0])
    assert set(balancer.state_dict()) == {"skipped", "sizes"}


def test_refuses_arguments_that_are_no_choice():
    with pytest.raises(ValueError, match="`reduction` must be 'mean' or 'sum', got 'max'"):
        PPCGrad(reduction="max")
