"""A penalty beside the losses: its gradient is added by the chain rule, and balancing does not see it."""

from pathlib import Path

import pytest
import torch
from together import together
from torch import nn
from torch.amp import GradScaler
from twins import BALANCERS

from recmtl.balance import ProcessGroup

K, D, ROWS = 2, 3, 6


class Problem:
    """A trunk, a tower per task and a balancer, in float64; the penalty depends on everything before and after."""

    def __init__(self, method, processes=None):
        torch.manual_seed(0)
        self.trunk, self.towers = nn.Linear(4, D).double(), nn.ModuleList(nn.Linear(D, 1) for _ in range(K)).double()
        self.balancer = method()
        self.balancer.setup(objectives=K, heads=K, features=D, parts=2)
        self.balancer.double()
        self.balancer.processes = processes or ProcessGroup()
        self.parameters = [*self.trunk.parameters(), *self.towers.parameters()]

    def outputs(self, rows=slice(None), seed=0):
        x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(seed)).double()[rows]
        views = self.balancer.fork([self.trunk(x).tanh()] * K)
        return torch.cat([tower(view) for tower, view in zip(self.towers, views, strict=True)], 1)  # [B, K]

    def losses(self, outputs):
        return [(scale * outputs[:, k] - k).square().sum() / ROWS for k, scale in enumerate((1.0, 5.0))]

    def step(self, penalty=None, rows=slice(None), seed=0):
        for parameter in (*self.parameters, *self.balancer.parameters()):
            parameter.grad = None
        outputs = self.outputs(rows, seed)
        private = self.towers.parameters()
        value = None if penalty is None else penalty(outputs)
        self.balancer.backward(self.losses(outputs), list(self.trunk.parameters()), (), private, value)
        return [p.grad for p in self.parameters]


def excess(outputs):
    return 3 * (outputs[:, 1] - outputs[:, 0]).relu().sum() / ROWS


@pytest.mark.parametrize("method", BALANCERS)
def test_adds_its_gradient_to_the_balanced_one(method):
    plain, penalized = Problem(method), Problem(method)
    for seed in range(3):
        before = plain.step(seed=seed)
        penalized.balancer.eval()  # where gradients pass the fork by the chain rule
        by_chain_rule = torch.autograd.grad(excess(penalized.outputs(seed=seed)), penalized.parameters)
        penalized.balancer.train()
        for found, balanced, added in zip(penalized.step(excess, seed=seed), before, by_chain_rule, strict=True):
            torch.testing.assert_close(found, balanced + added)
        states = plain.balancer.state_dict(), penalized.balancer.state_dict()
        assert all(a.equal(b) for a, b in zip(*(state.values() for state in states), strict=True))
        for a, b in zip(plain.balancer.parameters(), penalized.balancer.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
        assert penalized.balancer.penalty.item() > 0
        assert plain.balancer.penalty is None


@pytest.mark.parametrize("method", BALANCERS)
def test_a_scaled_one_is_scaled_like_the_losses(method):
    plain, scaled = Problem(method), Problem(method)
    expected = plain.step(excess)
    scaled.balancer.loss_scale = 2.0**10
    losses = scaled.losses
    scaled.losses = lambda outputs: [loss * 2.0**10 for loss in losses(outputs)]
    for found, gradient in zip(scaled.step(lambda outputs: excess(outputs) * 2.0**10), expected, strict=True):
        torch.testing.assert_close(found / 2.0**10, gradient)
    torch.testing.assert_close(scaled.balancer.penalty, plain.balancer.penalty)


@pytest.mark.parametrize("method", BALANCERS)
def test_one_that_is_not_finite_is_left_out(method):
    expected = Problem(method).step()
    found = Problem(method).step(lambda outputs: outputs.sum() / outputs.new_zeros(()))
    for gradient, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, plain)


@pytest.mark.parametrize("method", BALANCERS)
def test_a_scaler_sees_one_that_is_not_finite(method):
    problem = Problem(method)
    problem.balancer.scaler = GradScaler("cpu", init_scale=1.0)
    found = problem.step(lambda outputs: outputs.sum() / outputs.new_zeros(()))
    assert not all(gradient.isfinite().all() for gradient in found)


def test_must_be_a_scalar():
    with pytest.raises(ValueError, match=r"loss 'penalty' must be a scalar, got shape \(6, 2\)"):
        Problem(BALANCERS[0]).step(lambda outputs: outputs)


def of_process(processes, name):
    method = next(method for method in BALANCERS if method.__name__ == name)
    rows = slice(ROWS * processes.rank // processes.size, ROWS * (processes.rank + 1) // processes.size)
    problem = Problem(method, processes)
    return [problem.step(excess, rows), problem.balancer.penalty]


@pytest.mark.parametrize("name", ["Sum", "PCGrad", "RotoGrad"])
def test_parts_of_several_processes_add_up(name, tmp_path: Path):
    expected, value = of_process(ProcessGroup(), name)
    for gradients, penalty in together(2, tmp_path / "two", of_process, name):
        torch.testing.assert_close(penalty, value)
        for found, gradient in zip(gradients, expected, strict=True):
            torch.testing.assert_close(found, gradient)
