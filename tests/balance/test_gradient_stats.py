import copy

import pytest
import torch
from torch import nn
from twins import BALANCERS

from recmtl import balance
from recmtl.balance import SharedTensor, gradient_stats


def test_worked_by_hand():
    x, y = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    norms, cosines = gradient_stats({"a": 3 * x[0] + 4 * y[0], "b": -x[0] + x[1]}, [x, y])
    assert norms.tolist() == pytest.approx([5, 2**0.5])
    assert cosines[0, 1].item() == pytest.approx(-3 / (5 * 2**0.5))
    assert cosines.diagonal().tolist() == pytest.approx([1, 1])


def test_absent_and_nonfinite_tasks_have_no_size_and_no_angle():
    x = torch.zeros(2, requires_grad=True)
    losses = [x.sum(), torch.zeros(()), 0 * x.sum(), x.sum() * float("inf")]
    norms, cosines = gradient_stats(losses, [SharedTensor(x)])
    assert norms.tolist() == pytest.approx([2**0.5, 0, 0, 0])
    assert cosines.abs().sum().item() == pytest.approx(1)


def test_without_shared_tensors_there_is_nothing_to_compare():
    frozen = torch.zeros(2)
    norms, cosines = gradient_stats([torch.ones(()), torch.ones(())], [frozen])
    assert norms.tolist() == [0, 0]
    assert cosines.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("method", BALANCERS, ids=lambda c: c.__name__)
def test_changes_nothing_and_sees_the_gradients_before_balancing(method):
    """Runs with and without are bit-equal, and what is measured is what autograd gives without any balancer."""
    torch.manual_seed(0)
    bottom, heads = nn.Linear(5, 4), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
    x, targets = torch.randn(12, 5), torch.randn(2, 12)
    runs = []
    for diagnosed in (True, False):
        net, towers, balancer = copy.deepcopy(bottom), copy.deepcopy(heads), method()
        for step in range(4):
            z = net(x)
            views = balancer.fork([z, z])
            losses = [((h(v).squeeze(1) - t) ** 2).mean() for h, v, t in zip(towers, views, targets, strict=True)]
            parameters = list(net.parameters())
            if diagnosed:
                norms, _ = gradient_stats(losses, parameters)
                if step == 0:  # a rotation starts at the identity
                    plain = [((h(net(x)).squeeze(1) - t) ** 2).mean() for h, t in zip(towers, targets, strict=True)]
                    expected = [
                        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).norm() for loss in plain
                    ]
                    torch.testing.assert_close(norms, torch.stack(expected))
            balancer.backward(losses, parameters)
            everything = [*net.parameters(), *towers.parameters(), *balancer.parameters()]
            with torch.no_grad():
                for parameter in everything:
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
                if balancer.needs_losses_after_step:
                    balancer.after_step([loss / 2 for loss in losses])
        runs.append([*everything, *balancer.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_sees_through_a_rotation():
    rotation = balance.RotateOnly(heads=2, features=3).double()
    with torch.no_grad():
        for parameter in rotation.parameters():
            parameter.copy_(torch.randn_like(parameter))
    z = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, dtype=torch.float64)
    losses = [(view @ w).sum() for view, w in zip(rotation.fork([z, z]), weights, strict=True)]
    norms, cosines = gradient_stats(losses, [z])
    h = torch.einsum("kij,ki->kj", rotation.rotation(), weights)  # R_kᵀ·w_k, the same in each of six rows
    torch.testing.assert_close(norms, 6**0.5 * h.norm(dim=1))
    torch.testing.assert_close(cosines[0, 1], torch.cosine_similarity(h[0], h[1], dim=0))
