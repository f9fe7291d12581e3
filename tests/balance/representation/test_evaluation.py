"""In evaluation mode gradients pass the fork by the chain rule, and nothing moves."""

import pytest
import torch
from torch import nn
from twins import BALANCERS

from recmtl.balance import NormalizedSplitter, RepresentationBalancer, RotationBalancer

K, D = 3, 4
at_the_views = pytest.mark.parametrize("method", [c for c in BALANCERS if issubclass(c, RepresentationBalancer)])


def trained(method, **options):
    """A trunk, towers and a balancer after five steps, rotations away from the identity."""
    torch.manual_seed(0)
    trunk, towers = nn.Linear(5, D).double(), nn.ModuleList(nn.Linear(D, 1) for _ in range(K)).double()
    balancer = method(**options)
    balancer.setup(objectives=K, heads=K, features=D, parts=2)
    optimizer = torch.optim.Adam([*trunk.parameters(), *towers.parameters(), *balancer.parameters()], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        views = balancer.fork([torch.tanh(trunk(rows()))] * K)
        balancer.backward(losses(towers, views), list(trunk.parameters()))
        optimizer.step()
    optimizer.zero_grad()
    return trunk, towers, balancer


def rows(**options):
    return torch.randn(16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_(**options)


def losses(towers, views):
    return [10.0**k * tower(view).square().mean() for k, (tower, view) in enumerate(zip(towers, views, strict=True))]


def by_the_chain_rule(trunk, towers, balancer):
    x = rows()
    R = balancer.rotation() if isinstance(balancer, RotationBalancer) else torch.eye(D).double().repeat(K, 1, 1)
    z = torch.tanh(trunk(x))
    total = sum(losses(towers, [z @ matrix.T for matrix in R]))
    return torch.autograd.grad(total, [x, *trunk.parameters(), *towers.parameters()])


@at_the_views
@pytest.mark.parametrize("passes", [1, 3])
def test_gradients_are_the_chain_rules_and_state_stays(method, passes):
    trunk, towers, balancer = trained(method)
    expected = by_the_chain_rule(trunk, towers, balancer)
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    balancer.eval()
    for _ in range(passes):
        x = rows()
        total = sum(losses(towers, balancer.fork([torch.tanh(trunk(x))] * K)))
        found = torch.autograd.grad(total, [x, *trunk.parameters(), *towers.parameters()])
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    total = sum(losses(towers, balancer.fork([torch.tanh(trunk(rows()))] * K)))
    total.backward()
    assert all(parameter.grad is None for parameter in balancer.parameters())
    assert all(tensor.equal(before[name]) for name, tensor in balancer.state_dict().items())


@at_the_views
def test_training_goes_on_as_if_nobody_had_looked(method):
    results = []
    for looks in (False, True):
        trunk, towers, balancer = trained(method)
        views = balancer.fork([torch.tanh(trunk(rows()))] * K)
        if looks:  # between a fork and its backward pass, too
            balancer.eval()
            x = rows()
            torch.autograd.grad(sum(losses(towers, balancer.fork([torch.tanh(trunk(x))] * K))), x)
            balancer.train()
        balancer.backward(losses(towers, views), list(trunk.parameters()))
        results.append([trunk.weight.grad, *balancer.state_dict().values()])
    assert all(a.equal(b) for a, b in zip(*results, strict=True))


@at_the_views
def test_a_second_derivative(method):
    trunk, towers, balancer = trained(method)
    balancer.eval()

    def total(x):
        return sum(losses(towers, balancer.fork([torch.tanh(trunk(x))] * K)))

    assert torch.autograd.gradgradcheck(total, rows())


@at_the_views
def test_many_passes_through_one_graph(method):
    """As a measurement of each task by itself needs them."""
    trunk, towers, balancer = trained(method)
    balancer.eval()
    x = rows()
    each = losses(towers, balancer.fork([torch.tanh(trunk(x))] * K))
    found = sum(torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in each)
    torch.testing.assert_close(found, by_the_chain_rule(trunk, towers, balancer)[0], rtol=1e-12, atol=1e-15)


@at_the_views
def test_balancing_in_evaluation_mode_is_refused(method):
    trunk, towers, balancer = trained(method)
    balancer.eval()
    views = balancer.fork([torch.tanh(trunk(rows()))] * K)
    with pytest.raises(RuntimeError, match=r"is in evaluation mode, .* call `train\(\)`"):
        balancer.backward(losses(towers, views), list(trunk.parameters()))


def test_cached_rotations_and_the_cooperative_mode():
    for method in (c for c in BALANCERS if issubclass(c, RotationBalancer)):
        trunk, towers, balancer = trained(method)
        balancer.coop().eval()
        x = rows()
        with balancer.cached():
            total = sum(losses(towers, balancer.fork([torch.tanh(trunk(x))] * K)))
        (found,) = torch.autograd.grad(total, x)
        torch.testing.assert_close(found, by_the_chain_rule(trunk, towers, balancer)[0], rtol=1e-12, atol=1e-15)


def test_the_named_views_of_a_splitter():
    splitter = NormalizedSplitter(tasks=["ctr", "cvr"]).eval()
    x = torch.ones(4, 3, requires_grad=True)
    views = splitter(x)
    (views["ctr"].sum() + 1000 * views["cvr"].sum()).backward()
    assert x.grad.eq(1001).all()
    assert splitter.updates.eq(0).all()
