"""What all rotating methods share, against a loop over heads with autograd through the rotation loss."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from recmtl.balance import RotateOnly, RotoGrad, RotoGradNorm

DOUBLE = {"dtype": torch.float64}
D, HEADS = 5, 3


def turned(x, R):
    """R applied to each row's leading coordinates."""
    size = len(R)
    return torch.cat([x[:, :size] @ R.T, x[:, size:]], 1)


class Naive:
    """The formulas head by head: its own rotation module, its own backward pass, autograd through the rotation loss."""

    def __init__(self, balancer, heads=HEADS, size=D):
        self.balancer = balancer
        self.modules = []
        for _ in range(heads):
            module = nn.Linear(size, size, bias=False, **DOUBLE)
            module.weight.data = torch.eye(size, **DOUBLE)
            self.modules.append(orthogonal(module, orthogonal_map=balancer.orthogonal_map))
        self.parameters = [p for module in self.modules for p in module.parameters()]
        self.factors = TWINS[type(balancer)](balancer)

    def __call__(self, views, losses):
        """The gradient of each view; leaves those of the rotations in `.grad`."""
        R = [module.weight for module in self.modules]
        inputs = [turned(z.detach(), r.detach()).requires_grad_() for z, r in zip(views, R, strict=True)]
        values = losses(inputs)
        ghat = [torch.autograd.grad(loss, y, retain_graph=True)[0] for loss, y in zip(values, inputs, strict=True)]
        h = [turned(g, r.detach().T) for g, r in zip(ghat, R, strict=True)]
        present = [k for k in range(len(h)) if h[k].any()]
        K, B = len(present), len(views[0])
        mean = sum(h[k] for k in present) / K
        v = sum(h[k] * mean.norm() / h[k].norm() for k in present) / K
        factor = B if self.balancer.batch_scale else math.sqrt(B)  # without: a sum over the batch
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        for k in present:
            ((turned(factor * v, R[k]) - factor * ghat[k]) ** 2).sum(1).mean().backward()
        if self.balancer.cooperative:
            self.cooperate(views, ghat, present)
        scales = self.factors([x.norm().item() for x in h], [value.item() for value in values])
        return [scale * x for scale, x in zip(scales, h, strict=True)]

    def cooperate(self, views, ghat, present):
        for k in present:
            p = self.parameters[k]
            a = p.grad.clone()
            z = turned(views[k].detach(), self.modules[k].weight)
            (b,) = torch.autograd.grad((z * ghat[k]).sum(), p)
            size = ((a + b) / 2).norm()
            p.grad = a * size / a.norm() + b * size / b.norm()


class NaiveSum:
    """The h_k as they are."""

    def __init__(self, balancer):
        pass

    def __call__(self, norms, values):
        return [1.0] * len(norms)


class NaiveSizes:
    """RotoGrad's one size, with a count of steps for each task."""

    def __init__(self, balancer):
        self.burn_in, self.first, self.steps = balancer.burn_in, {}, {}

    def __call__(self, norms, values):
        present = [k for k, n in enumerate(norms) if n > 0]
        for k in present:
            step = self.steps.setdefault(k, 0)
            if step in (0, self.burn_in):
                self.first[k] = norms[k]
            self.steps[k] += 1
        c = {k: norms[k] / self.first[k] for k in present}
        size = sum(c[k] / sum(c.values()) * norms[k] for k in present)
        return [size / n if n > 0 else 0.0 for n in norms]


class NaiveGradNorm:
    """GradNorm's weights: autograd through the paper's loss, and an Adam for each task that is present."""

    def __init__(self, balancer):
        self.options = balancer.alpha, balancer.lr, balancer.burn_in
        self.omega = torch.zeros(HEADS, **DOUBLE)
        self.first, self.steps = {}, [0] * HEADS
        self.m, self.v = [0.0] * HEADS, [0.0] * HEADS

    def __call__(self, norms, values):
        alpha, lr, burn_in = self.options
        present = [k for k, n in enumerate(norms) if n > 0]
        omega = self.omega.clone().requires_grad_()
        w = len(norms) * omega.softmax(0)
        for k in present:
            if self.steps[k] in (0, burn_in):
                self.first[k] = values[k]
        learned = {k: values[k] / self.first[k] for k in present}
        mean = sum(w[k].item() * norms[k] for k in present) / len(present)
        targets = {k: mean * (learned[k] * len(present) / sum(learned.values())) ** alpha for k in present}
        sum((w[k] * norms[k] - targets[k]).abs() for k in present).backward()
        for k in present:
            g = omega.grad[k].item()
            self.steps[k] += 1
            self.m[k] = 0.9 * self.m[k] + 0.1 * g
            self.v[k] = 0.999 * self.v[k] + 0.001 * g * g
            m, v = self.m[k] / (1 - 0.9 ** self.steps[k]), self.v[k] / (1 - 0.999 ** self.steps[k])
            self.omega[k] -= lr * m / (math.sqrt(v) + 1e-8)
        return w.tolist()


TWINS = {RotateOnly: NaiveSum, RotoGrad: NaiveSizes, RotoGradNorm: NaiveGradNorm}
METHODS = list(TWINS)


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_scale": False},
        {"orthogonal_map": "matrix_exp"},
        {"rotation_size": 3},
        {"rotation_size": 3, "batch_scale": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("views_differ", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_equals_a_loop_over_heads(method, views_differ, options):
    trunks, towers, views, losses_on = problem(views_differ)
    balancer = method(heads=HEADS, features=D, **options).double()
    naive = Naive(balancer, size=options.get("rotation_size", D))
    ours = torch.optim.Adam(balancer.parameters(), lr=0.02)
    theirs = torch.optim.Adam(naive.parameters, lr=0.02)
    for step in range(30):
        x, y = torch.randn(9 + step % 4, 4, **DOUBLE), torch.randn(HEADS, 9 + step % 4, **DOUBLE)
        losses = losses_on(y, absent=step % 7 - 3)
        expected = views(x)
        received = naive(expected, losses)
        expected = torch.autograd.grad(expected, list(trunks.parameters()), received)
        inputs = [turned(z.detach(), m.weight.detach()) for z, m in zip(views(x), naive.modules, strict=True)]
        private = torch.autograd.grad(sum(losses(inputs)), list(towers.parameters()))
        for module in (trunks, towers, balancer):
            module.zero_grad()
        balancer.backward(losses(balancer.fork(views(x))), shared=list(trunks.parameters()))
        for p, gradient in zip([*trunks.parameters(), *towers.parameters()], [*expected, *private], strict=True):
            assert (p.grad - gradient).norm() <= 1e-10 * gradient.norm()
        (mine,) = balancer.parameters()
        for k, p in enumerate(naive.parameters):
            assert (mine.grad[k] - p.grad).norm() <= 1e-10 * mine.grad.norm()
        ours.step()
        theirs.step()
        with torch.no_grad():
            for p in (*trunks.parameters(), *towers.parameters()):
                p -= 0.003 * p.grad
    rotations = torch.stack([m.weight.detach() for m in naive.modules])
    assert (balancer.rotation() - rotations).norm() <= 1e-10 * rotations.norm()
    assert (rotations - torch.eye(len(rotations[0]), **DOUBLE)).norm() > 0.3


@pytest.mark.parametrize("method", METHODS)
def test_cooperative_mode_equals_the_loop_at_the_base(method):
    _, _, views, losses_on = problem()
    balancer = method(heads=HEADS, features=D).double().coop()
    naive = Naive(balancer)
    for step in range(5):  # the rotations rest where their parameters are a plain chart
        x, y = torch.randn(9, 4, **DOUBLE), torch.randn(HEADS, 9, **DOUBLE)
        losses = losses_on(y, absent=step - 2)
        naive(views(x), losses)
        balancer.zero_grad()
        balancer.backward(losses(balancer.fork(views(x))), shared=[])
        (mine,) = balancer.parameters()
        for k, p in enumerate(naive.parameters):
            assert (mine.grad[k] - p.grad).norm() <= 1e-10 * mine.grad.norm()


def tangent(R, slope):
    """What of a gradient of R turns it."""
    return R @ (R.T @ slope - slope.T @ R) / 2


def test_cooperative_mode_equals_autograd_on_turned_rotations():
    _, _, views, losses_on = problem()
    balancer = RotateOnly(heads=HEADS, features=D).double()
    with torch.no_grad():
        balancer.rotations.matrix.original.normal_()
    x, y = torch.randn(9, 4, **DOUBLE), torch.randn(HEADS, 9, **DOUBLE)
    losses, z = losses_on(y, absent=None), views(x)[0].detach()
    matrices = [R.clone().requires_grad_() for R in balancer.rotation()]
    b = torch.autograd.grad(sum(losses([z @ R.T for R in matrices])), matrices)

    def slope(mode):
        (R,) = balancer.coop(mode)._own()
        R.retain_grad()
        balancer._own = lambda: (R,)
        balancer.backward(losses(balancer.fork(z)), shared=[])
        del balancer._own
        return R.grad

    a, found = slope(False), slope(True)
    for R, a_k, b_k, found_k in zip(balancer.rotation(), a, b, found, strict=True):
        torch.testing.assert_close(tangent(R, a_k), a_k)
        b_k = tangent(R, b_k)
        size = ((a_k + b_k) / 2).norm()
        torch.testing.assert_close(found_k, a_k * size / a_k.norm() + b_k * size / b_k.norm(), rtol=1e-10, atol=1e-12)


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
