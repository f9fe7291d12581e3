"""What all rotating methods share: their invariants over many steps, and the cooperative mode."""

import pytest
import torch
from torch import nn

from recmtl.balance import RotateOnly, RotoGrad, RotoGradNorm

DOUBLE = {"dtype": torch.float64}
D, HEADS = 5, 3
METHODS = [RotateOnly, RotoGrad, RotoGradNorm]


def problem(views_differ=False):
    torch.manual_seed(0)
    trunks = nn.ModuleList(nn.Linear(4, D, **DOUBLE) for _ in range(HEADS if views_differ else 1))
    towers = nn.ModuleList(nn.Linear(D, 1, **DOUBLE) for _ in range(HEADS))

    def views(x):
        views = [torch.tanh(trunk(x)) for trunk in trunks]
        return views if views_differ else views * HEADS

    def losses_on(y, absent):
        def losses(views):
            losses = [
                10.0 ** (k - 1) * (tower(view)[:, 0] - y[k]).square().mean()
                for k, (tower, view) in enumerate(zip(towers, views, strict=True))
            ]
            return [loss * 0.0 if k == absent else loss for k, loss in enumerate(losses)]

        return losses

    return trunks, towers, views, losses_on


@pytest.mark.parametrize("method", METHODS)
def test_cooperation_is_a_mode(method):
    _, _, views, losses_on = problem()
    x, y = torch.randn(9, 4, **DOUBLE), torch.randn(HEADS, 9, **DOUBLE)

    def slope(mode):
        balancer = method(heads=HEADS, features=D).double()
        assert balancer.coop(True) is balancer
        balancer.coop(mode)
        balancer.backward(losses_on(y, None)(balancer.fork(views(x))), shared=[])
        assert "cooperative" not in balancer.state_dict()
        return next(balancer.parameters()).grad

    assert not slope(True).allclose(slope(False))


def test_cooperative_rotations_survive_a_nonfinite_view():
    balancer = RotateOnly(heads=2, features=2).coop()
    z = torch.tensor([[1.0, 2.0], [torch.inf, 1.0]], requires_grad=True)
    a, b = balancer.fork(z)
    balancer.backward([a[0].sum(), 3 * b[0, 1]], shared=[z])
    assert next(balancer.parameters()).grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("orthogonal_map", ["cayley", "matrix_exp"])
def test_rotations_stay_rotations(method, orthogonal_map):
    trunks, _, views, losses_on = problem()
    balancer = method(heads=HEADS, features=D, orthogonal_map=orthogonal_map)
    balancer.double().float()
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.1)
    for step in range(300):
        random = torch.Generator().manual_seed(step)
        x = torch.randn(9, 4, generator=random, **DOUBLE)
        balancer.zero_grad()
        losses = losses_on(torch.randn(HEADS, 9, generator=random, **DOUBLE), None)
        balancer.backward(losses(balancer.fork(views(x))), shared=list(trunks.parameters()))
        optimizer.step()
    R = balancer.rotation()
    torch.testing.assert_close(R.mT @ R, torch.eye(D, **DOUBLE).expand(HEADS, D, D), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(HEADS, **DOUBLE))
    assert (R - torch.eye(D, **DOUBLE)).norm() > 1
