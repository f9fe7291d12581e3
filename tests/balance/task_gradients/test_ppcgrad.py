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


@pytest.mark.parametrize(("reduction", "expected"), [("sum", (0.6, 2.4, 2.4)), ("mean", (0.2, 2.4, 2.4))])
def test_parts_that_one_task_alone_reaches_by_hand(reduction, expected):
    # (1,0,0) + ⅕·(−1,2,0) + ⅕·(−1,0,2) = (0.6,0.4,0.4); the others + (1,0,0); one task reaches y, one z
    x, y, z, unused = (torch.zeros(1, **DOUBLE, requires_grad=True) for _ in range(4))
    losses = [x.sum(), 2 * y.sum() - x.sum(), 2 * z.sum() - x.sum()]
    PPCGrad(reduction).backward(losses, shared=[x, y, z, unused])
    assert (x.grad.item(), y.grad.item(), z.grad.item()) == pytest.approx(expected, rel=1e-14)
    assert unused.grad is None


def test_a_loss_1000_times_as_large_scales_its_own_projected_gradient_alone():
    gradients = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), **DOUBLE)
    gradients -= gradients.mean(0)  # their sum is 0, so that every task has a conflict
    scale, expected = torch.tensor([[1.0], [1.0], [1000.0], [1.0]]), project_conflicting(gradients)
    assert (expected - gradients).norm(dim=1).gt(0.1).all()
    torch.testing.assert_close(project_conflicting(scale * gradients), scale * expected, rtol=1e-12, atol=1e-12)
    found = combined(PPCGrad("sum"), *(scale * gradients).tolist())
    assert found == pytest.approx((scale * expected).sum(0).tolist(), rel=1e-12)


def test_has_no_state_of_its_own():
    balancer = PPCGrad()
    combined(balancer, [1.0], [-1.0])
    assert set(balancer.state_dict()) == {
        "_extra_state",
        "skipped",
        "sizes",
        "factors",
    }  # the last of them is for looking at


def test_refuses_arguments_that_are_no_choice():
    with pytest.raises(ValueError, match="`reduction` must be 'mean' or 'sum', got 'max'"):
        PPCGrad(reduction="max")
