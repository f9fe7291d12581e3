"""One NaN label, in a loop without any mask: its task is left out of the step, and no other task notices."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from twins import BALANCERS

from recmtl.balance import LossWeightBalancer, RepresentationBalancer, zero_nonfinite_gradients
from recmtl.balance import backward as backward_module

K, D = 3, 4
every_balancer = pytest.mark.parametrize("method", BALANCERS, ids=lambda method: method.__name__)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, D)).double()
        self.towers = nn.ModuleList(nn.Linear(D, 1) for _ in range(K)).double()


def data(seed):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 5, dtype=torch.float64, generator=random)
    return x, torch.rand(K, 16, dtype=torch.float64, generator=random).round()


def step(net, balancer, loss, x, labels, forked, missing=None):
    """One step; the loss of a `missing` task is a constant 0."""
    net.zero_grad()
    balancer.zero_grad()
    z = net.trunk(x)
    views = balancer.fork([z] * K) if forked else [z] * K
    losses = [loss(tower(view)[:, 0], y) for tower, view, y in zip(net.towers, views, labels, strict=True)]
    if missing is not None:
        losses[missing] = x.new_zeros(())
    balancer.backward(losses, list(net.trunk.parameters()))
    leaves = [*net.parameters(), *balancer.parameters()]
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in leaves]


def made(method):
    balancer = method()
    balancer.setup(objectives=K, heads=K, features=D, parts=4, elements=5 * 6 + 6 + 6 * D + D)
    return balancer


@every_balancer
@pytest.mark.parametrize("loss", [binary_cross_entropy_with_logits, mse_loss])
@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize("warm", [True, False])
def test_a_nan_label_counts_as_a_missing_task(method, loss, forked, warm):
    forked = forked or issubclass(method, RepresentationBalancer)
    results = []
    for missing in (None, 1):
        net, balancer = Net(), made(method)
        if warm:
            step(net, balancer, loss, *data(0), forked)
        x, labels = data(1)
        labels[1, 3] = torch.nan
        found = step(net, balancer, loss, x, labels, forked, missing)
        assert all(gradient.isfinite().all() for gradient in found)
        assert balancer.skipped.tolist() == [0, int(missing is None), 0]
        state = {name: tensor for name, tensor in balancer.state_dict().items() if name != "skipped"}
        results.append([*found, *state.values()])
        results[-1] += step(net, balancer, loss, *data(2), forked)
    for a, b in zip(*results, strict=True):
        assert a.equal(b)


@every_balancer
def test_a_nan_label_on_a_device_that_no_step_waits_for(method, monkeypatch):
    """Private gradients, and for weighted losses the shared ones, are NaN then; the state stays."""
    monkeypatch.setattr(backward_module, "on_host", lambda _: False)
    net, balancer = Net(), made(method)
    x, labels = data(1)
    labels[1, 3] = torch.nan
    found = step(net, balancer, mse_loss, x, labels, True)
    assert balancer.skipped.tolist() == [0, 1, 0]
    if not issubclass(method, LossWeightBalancer):
        assert all(gradient.isfinite().all() for gradient in found[:4])
    zero_nonfinite_gradients(net.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert all(gradient.isfinite().all() for gradient in step(net, balancer, mse_loss, *data(2), True))


@every_balancer
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_all_losses_that_are_not_finite(method, value):
    net, balancer = Net(), made(method)
    x, labels = data(0)
    found = step(net, balancer, lambda p, y: value * p.sum(), x, labels, True)
    assert all(gradient.eq(0).all() for gradient in found)
    assert balancer.skipped.tolist() == [1] * K
    assert all(gradient.isfinite().all() for gradient in step(net, balancer, mse_loss, *data(1), True))
