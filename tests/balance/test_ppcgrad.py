"""PPCGrad against hand-worked numbers, a loop over pairs, and PCGrad."""

import pytest
import torch
from torch import nn

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


def at_once(gradients):
    """All projections of each task against the originals, pair by pair."""
    result = []
    for k, g in enumerate(gradients):
        projected = g.clone()
        for j, other in enumerate(gradients):
            if j != k and g @ other < 0:
                projected -= (g @ other) / (other @ other) * other
        result.append(projected)
    return result


@pytest.mark.parametrize("scope", ["whole", "part"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_a_loop_over_pairs(reduction, scope):
    torch.manual_seed(1)
    bottom, towers = nn.Linear(5, 4, **DOUBLE), nn.ModuleList(nn.Linear(4, 1, **DOUBLE) for _ in range(4))
    shared, balancer = list(bottom.parameters()), PPCGrad(reduction, scope)
    for step in range(24):
        x, y = torch.randn(16, 5, **DOUBLE), torch.randn(4, 16, **DOUBLE)

        def losses(x=x, y=y, absent=step % 5 - 1):
            z = torch.tanh(bottom(x))
            losses = [10.0 ** (k - 1) * (t(z)[:, 0] - y[k]).square().mean() for k, t in enumerate(towers)]
            return [loss * 0.0 if k == absent else loss for k, loss in enumerate(losses)]

        G = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses()]
        if scope == "whole":
            totals = sum(at_once([torch.cat([g.flatten() for g in task]) for task in G])).split([20, 4])
        else:
            totals = [sum(at_once([task[p].flatten() for task in G])) for p in range(2)]
        present = 4 if step % 5 == 0 else 3
        bottom.zero_grad()
        balancer.backward(losses(), shared)
        for parameter, total in zip(shared, totals, strict=True):
            expected = total / present if reduction == "mean" else total
            assert (parameter.grad.flatten() - expected).norm() / expected.norm() < 1e-10
        with torch.no_grad():
            for p in (*bottom.parameters(), *towers.parameters()):
                p -= 1e-3 * p.grad
                p.grad = None


def test_has_no_state_of_its_own():
    balancer = PPCGrad()
    combined(balancer, [1.0], [-1.0])
    assert set(balancer.state_dict()) == {"skipped", "sizes"}


def test_refuses_arguments_that_are_no_choice():
    with pytest.raises(ValueError, match="`reduction` must be 'mean' or 'sum', got 'max'"):
        PPCGrad(reduction="max")
