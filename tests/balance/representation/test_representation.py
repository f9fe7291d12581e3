"""What holds for every method that acts where the representation forks."""

import pytest
import torch
from torch import nn
from twins import BALANCERS

from recmtl.balance import GradNorm, MetaBalance, PCGrad, RepresentationBalancer, gradient_stats

REFUSED = r"balances all tasks at once|compares the losses"  # RotoGradNorm refuses any plain pass
METHODS = [c for c in BALANCERS if issubclass(c, RepresentationBalancer)]


def forked(method):
    torch.manual_seed(0)
    bottom, balancer = nn.Linear(3, 4), method()
    views = balancer.fork([bottom(torch.randn(5, 3))] * 2)
    return bottom, balancer, [view.square().mean() for view in views]


def one_by_one(losses):
    for loss in losses:
        loss.backward(retain_graph=True)


@pytest.mark.parametrize("other", [MetaBalance, PCGrad, GradNorm])
@pytest.mark.parametrize("method", METHODS)
def test_another_balancer_on_top_is_refused(method, other):
    bottom, _, losses = forked(method)
    with pytest.raises(RuntimeError, match=REFUSED):
        other().backward(losses, list(bottom.parameters()))


@pytest.mark.parametrize("method", METHODS)
def test_a_pass_per_loss_is_refused(method):
    _, _, losses = forked(method)
    with pytest.raises(RuntimeError, match=REFUSED):
        one_by_one(losses)


@pytest.mark.parametrize("method", METHODS)
def test_measuring_the_tasks_does_not_count_as_a_pass(method):
    bottom, balancer, losses = forked(method)
    for _ in range(2):
        gradient_stats(losses, list(bottom.parameters()))
    balancer.backward(losses, list(bottom.parameters()))
    assert bottom.weight.grad.any()
