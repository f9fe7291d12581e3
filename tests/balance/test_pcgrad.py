"""PCGrad and the projections beneath it against hand-worked numbers, a sequential twin, and its invariants."""

import itertools

import pytest
import torch
from torch import nn

from recmtl.balance import Leaf, PCGrad, Sum, project_conflicting
from recmtl.balance.projection import coefficients_in_order

DOUBLE = {"dtype": torch.float64}


def combined(balancer, *slopes):
    """The shared gradient when the tasks' gradients are `slopes`."""
    x = torch.zeros(len(slopes[0]), **DOUBLE, requires_grad=True)
    balancer.backward([(x * torch.tensor(slope, **DOUBLE)).sum() for slope in slopes], shared=[x])
    return x.grad.tolist()


def sequential(gradients, order):
    """The paper's algorithm on flat gradients, one projection after the other."""
    result = []
    for k, gradient in enumerate(gradients):
        g = gradient.clone()
        for j in order[k]:
            if j != k and g @ gradients[j] < 0:
                g = g - (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        result.append(g)
    return result


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_two_tasks_by_hand(reduction, factor):
    # ⟨(2,0), (−1,1)⟩ = −2: (2,0) + 2/2·(−1,1) = (1,1); (−1,1) + 2/4·(2,0) = (0,1)
    assert combined(PCGrad(reduction), [2.0, 0.0], [-1.0, 1.0]) == pytest.approx([factor, 2 * factor], rel=1e-14)


def test_three_tasks_by_hand():
    # task 0 = (1,0) meets (−1,1), then (−1,−1): (½,½), then ⟨(½,½), (−1,−1)⟩ = −1 takes all of it; the other way alike
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    order = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1]])
    found = project_conflicting(gradients, order)
    # task 1 meets (1,0): (0,1); then ⟨(0,1), (−1,−1)⟩ = −1: (0,1) − ½·(1,1) = (−½,½); task 2 likewise (−½,−½)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [-0.5, 0.5], [-0.5, -0.5]]))


def test_without_conflict_the_sum_is_the_plain_sum():
    slopes = [0.25, 1.75, 0.0], [0.5, 0.0, 2.5], [5.0, 0.0, 0.75]
    assert combined(PCGrad("sum"), *slopes) == combined(Sum(), *slopes)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
def test_projection_by_coefficients_equals_the_sequential_one(tasks):
    random = torch.Generator().manual_seed(tasks)
    for _ in range(20):
        gradients = torch.randn(tasks, 6, generator=random, **DOUBLE) * torch.logspace(-3, 3, tasks, **DOUBLE)[:, None]
        order = torch.rand(tasks, tasks, generator=random).argsort(1)
        expected = torch.stack(sequential(gradients, order.tolist()))
        error = (project_conflicting(gradients, order) - expected).norm(dim=1) / gradients.norm(dim=1)
        assert error.max() < 1e-12


def test_zero_gradients_project_nothing():
    gradients = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    for order in (None, torch.tensor([[0, 1], [0, 1]])):
        assert project_conflicting(gradients, order).equal(gradients)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_refuses_gradients_that_are_no_matrix(shape):
    with pytest.raises(ValueError, match=r"`gradients` must have shape \[K, N\]"):
        project_conflicting(torch.zeros(shape))


def test_refuses_an_order_of_other_tasks():
    with pytest.raises(ValueError, match=r"`order` must have shape \[2, 2\], got \(3, 3\)"):
        project_conflicting(torch.zeros(2, 4), torch.zeros(3, 3, dtype=torch.int64))


class Net(nn.Module):
    """A bottom that all four tasks share, and a table that only the first two reach."""

    def __init__(self):
        super().__init__()
        self.bottom = nn.Linear(5, 4, **DOUBLE)
        self.table = nn.Parameter(torch.randn(6, 4, **DOUBLE))
        self.towers = nn.ModuleList(nn.Linear(4, 1, **DOUBLE) for _ in range(4))

    def shared(self):
        """The bottom's weight counted in two parts, its bias, the table in two interleaved parts."""
        rows = torch.tensor([0, 1, 0, 1, 1, 0])
        return [Leaf(self.bottom.weight, 2), Leaf(self.bottom.bias), Leaf(self.table, 2, rows)]

    def losses(self, x, ids, y, absent):
        z = torch.tanh(self.bottom(x))
        views = [z + self.table[ids], z - self.table[ids], z, 2 * z]
        losses = [(t(v)[:, 0] - y[k]).square().mean() for k, (t, v) in enumerate(zip(self.towers, views, strict=True))]
        scaled = [scale * loss for scale, loss in zip((1, 30, 0.1, 3), losses, strict=True)]
        return [loss * 0.0 if k == absent else loss for k, loss in enumerate(scaled)]


def parts_of(leaf, gradient):
    gradient = torch.zeros_like(leaf.tensor) if gradient is None else gradient
    if leaf.part_of_row is not None:
        return [gradient[leaf.part_of_row == part].flatten() for part in range(leaf.parts)]
    return [chunk.flatten() for chunk in gradient.chunk(leaf.parts)]


def naive(losses, leaves, order, reduction, scope):
    """Every part's gradient, flat."""
    tensors = [leaf.tensor for leaf in leaves]
    G = [torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True) for loss in losses]
    parts = [[part for pair in zip(leaves, task, strict=True) for part in parts_of(*pair)] for task in G]  # [K][P]
    if scope == "whole":
        sizes = [len(part) for part in parts[0]]
        projected = [g.split(sizes) for g in sequential([torch.cat(task) for task in parts], order)]
    else:
        by_part = [sequential([task[p] for task in parts], order) for p in range(len(parts[0]))]
        projected = list(zip(*by_part, strict=True))
    result = []
    for p in range(len(parts[0])):
        total = sum(task[p] for task in projected)
        reached = sum(bool(task[p].any()) for task in parts)
        result.append(total / max(reached, 1) if reduction == "mean" else total)
    return result


@pytest.mark.parametrize("scope", ["whole", "part"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_sequential_projections_of_flat_gradients(reduction, scope):
    torch.manual_seed(0)
    net, balancer = Net(), PCGrad(reduction, scope, seed=3)
    balancer.setup(objectives=4, heads=4, features=4, parts=5)
    conflicts = 0
    for step in range(24):
        x, y, ids = torch.randn(16, 5, **DOUBLE), torch.randn(4, 16, **DOUBLE), torch.randint(0, 6, (16,))
        absent = step % 5 - 1
        order = balancer.orders().tolist()
        expected = naive(net.losses(x, ids, y, absent), net.shared(), order, reduction, scope)
        private = torch.autograd.grad(sum(net.losses(x, ids, y, absent)), list(net.towers.parameters()))
        net.zero_grad()
        balancer.backward(net.losses(x, ids, y, absent), net.shared())
        found = [part for leaf in net.shared() for part in parts_of(leaf, leaf.tensor.grad)]
        error = (torch.cat(found) - torch.cat(expected)).norm() / torch.cat(expected).norm()
        assert error < 1e-10
        for p, gradient in zip(net.towers.parameters(), private, strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-14)
        plain = naive(net.losses(x, ids, y, absent), net.shared(), [[]] * 4, reduction, scope)
        conflicts += not torch.allclose(torch.cat(plain), torch.cat(expected))
        with torch.no_grad():
            for p in net.parameters():
                p -= 1e-3 * p.grad
    assert conflicts > 10


def test_the_mean_is_over_the_tasks_that_reach_a_part():
    x, y, unused = (torch.zeros(1, **DOUBLE, requires_grad=True) for _ in range(3))
    losses = [3 * x.sum() + 5 * y.sum(), 3 * x.sum(), x.sum() * 0.0]
    PCGrad().backward(losses, shared=[x, y, unused])
    assert (x.grad.item(), y.grad.item()) == (3.0, 5.0)
    assert unused.grad is None


@pytest.mark.parametrize(("scope", "expected"), [("whole", (-1.0, 6.0)), ("part", (0.0, 6.0))])
def test_scope_decides_whether_parts_conflict_apart(scope, expected):
    x, y = (torch.zeros(1, **DOUBLE, requires_grad=True) for _ in range(2))
    PCGrad("sum", scope).backward([x.sum() + 3 * y.sum(), -2 * x.sum() + 3 * y.sum()], shared=[x, y])
    assert (x.grad.item(), y.grad.item()) == expected  # as wholes they agree, on x alone they do not


def test_no_task_is_left_in_conflict_with_the_last_it_met():
    random = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 8, generator=random, **DOUBLE)
    order = torch.rand(5, 5, generator=random).argsort(1)
    projected = project_conflicting(gradients, order)
    for k in range(5):
        last = [j for j in order[k].tolist() if j != k][-1]
        assert projected[k] @ gradients[last] > -1e-12


def test_huge_and_tiny_gradients_stay_finite():
    for scale in (1e-30, 1e-18, 1e18, 1e30):
        gram = torch.tensor([[1.0, -0.9], [-0.9, 1.0]]) * scale * scale
        assert coefficients_in_order(gram, torch.tensor([[0, 1], [0, 1]])).isfinite().all()


def orders_of(balancer, steps, tasks=4):
    balancer.setup(objectives=tasks, heads=tasks, features=1, parts=1)
    result = []
    for _ in range(steps):
        result.append(balancer.orders())
        combined(balancer, *[[1.0]] * tasks)
    return result


def test_every_order_is_drawn_equally_often_by_every_task():
    steps = 3000
    orders = torch.stack(orders_of(PCGrad(), steps, tasks=3))
    assert orders.sort(2).values.eq(torch.arange(3)).all()
    for k in range(3):
        for order in itertools.permutations(range(3)):
            count = (orders[:, k] == torch.tensor(order)).all(1).sum().item()
            assert abs(count - steps / 6) < 5 * (steps * 5 / 36) ** 0.5


def test_tasks_given_in_another_order_have_the_same_outcomes():
    slopes = torch.randn(3, 2, generator=torch.Generator().manual_seed(4)).tolist()

    def outcomes(*slopes):
        return {tuple(round(g, 9) for g in combined(PCGrad("sum", seed=seed), *slopes)) for seed in range(100)}

    expected = outcomes(*slopes)
    assert len(expected) > 1
    assert outcomes(slopes[2], slopes[0], slopes[1]) == expected


def test_tasks_draw_independently():
    orders = torch.stack(orders_of(PCGrad(seed=7), 3000, tasks=2))
    together = (orders[:, 0, 0] == orders[:, 1, 0]).double().mean().item()
    assert together == pytest.approx(0.5, abs=0.05)


def test_orders_repeat_with_the_seed_and_differ_without():
    a, b, c = (orders_of(PCGrad(seed=seed), 8) for seed in (5, 5, 6))
    assert all(x.equal(y) for x, y in zip(a, b, strict=True))
    assert not all(x.equal(y) for x, y in zip(a, c, strict=True))
    assert not all(x.equal(a[0]) for x in a)


def test_a_loaded_state_brings_its_seed():
    balancer, other = PCGrad(seed=5), PCGrad(seed=6)
    orders_of(balancer, 3)
    other.load_state_dict(balancer.state_dict())
    assert other.orders().equal(balancer.orders())


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    orders_of(PCGrad(), 2)
    assert torch.get_rng_state().equal(before)


def test_orders_need_the_number_of_tasks():
    with pytest.raises(ValueError, match="before `setup` or the first step"):
        PCGrad().orders()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": "none"}, "`reduction` must be 'mean' or 'sum', got 'none'"),
        ({"scope": "tensor"}, "`scope` must be 'whole' or 'part', got 'tensor'"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"seed": 2**32}, r"below 2\*\*32"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        PCGrad(**arguments)
