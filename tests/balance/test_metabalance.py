"""MetaBalance against hand-worked numbers and a loop over tasks and modules."""

import math

import pytest
import torch
from torch import nn

from recmtl.balance import Leaf, MetaBalance

TOLERANCE = {"rtol": 1e-10, "atol": 1e-14}


def linear_losses(x, *slopes):
    """Losses whose gradients are `slopes`."""
    return [(x * torch.tensor(slope, dtype=x.dtype)).sum() for slope in slopes]


def combined(balancer, *slopes):
    x = torch.zeros(len(slopes[0]), dtype=torch.float64, requires_grad=True)
    balancer.backward(linear_losses(x, *slopes), shared=[x])
    return x.grad.tolist()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # norms 5, 10, 2.5: weights 1, 0.7·0.5 + 0.3, 0.7·2 + 0.3
        ("both", [3 + 0.65 * 10, 4 + 1.7 * 2.5]),
        ("reduce", [3 + 0.65 * 10, 4 + 2.5]),
        ("enlarge", [3 + 10, 4 + 1.7 * 2.5]),
    ],
)
def test_first_step_by_hand(strategy, expected):
    assert combined(MetaBalance(strategy=strategy), [3, 4], [10, 0], [0, 2.5]) == pytest.approx(expected, rel=1e-14)


def test_second_step_by_hand():
    balancer = MetaBalance(relax_factor=1.0, beta=0.5)
    combined(balancer, [2.0], [4.0])
    # averages 0.5·(0.5·2) + 0.5·6 = 3.5 and 0.5·(0.5·4) + 0.5·1 = 1.5
    assert combined(balancer, [6.0], [1.0]) == pytest.approx([6 + 3.5 / 1.5], rel=1e-14)


@pytest.mark.parametrize("target", [1, "cvr"])
def test_target_by_position_and_by_name(target):
    x = torch.zeros(1, requires_grad=True)
    ctr, cvr = linear_losses(x, [4.0], [1.0])
    MetaBalance(relax_factor=1.0, target=target).backward({"ctr": ctr, "cvr": cvr}, shared=[x])
    assert x.grad.item() == 2.0


def test_a_named_target_finds_its_place_in_names_given_at_setup():
    balancer = MetaBalance(relax_factor=1.0, target="cvr")
    balancer.setup(objectives=2, heads=2, features=3, parts=1, names=["ctr", "cvr"])
    assert combined(balancer, [4.0], [1.0]) == [2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relax_factor": 1.3}, r"`relax_factor` must be in \[0, 1\], got 1.3"),
        ({"beta": 1.0}, r"`beta` must be in \[0, 1\), got 1.0"),
        ({"strategy": "half"}, "got 'half'"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        MetaBalance(**arguments)


@pytest.mark.parametrize(
    ("target", "names", "message"),
    [
        (2, None, "one of 2 tasks, got 2"),
        (-1, None, "one of 2 tasks, got -1"),
        ("ctr", None, "have no names"),
        ("ctr", ["a", "b"], r"\['a', 'b'\], got 'ctr'"),
    ],
)
def test_refuses_a_target_that_is_no_task(target, names, message):
    with pytest.raises(ValueError, match=message):
        MetaBalance(target=target).setup(objectives=2, heads=2, features=1, parts=1, names=names)


class Experts(nn.Module):
    """Two experts of their own, two tables, two towers; each task reaches both experts, task 2 one table only."""

    def __init__(self):
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(5, 4, dtype=torch.float64) for _ in range(2))
        self.second = nn.ParameterList(torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
        self.tables = nn.ModuleList(nn.Embedding(6, 3, dtype=torch.float64) for _ in range(2))
        self.towers = nn.ModuleList(nn.Linear(3, 1, dtype=torch.float64) for _ in range(3))

    def separate(self):
        return [
            *(e.weight for e in self.first),
            *(e.bias for e in self.first),
            *self.second,
            *(t.weight for t in self.tables),
        ]

    def forward_separate(self, x, ids):
        h = sum(torch.relu(e(x)) @ w for e, w in zip(self.first, self.second, strict=True))
        return h, [table(ids[:, i]) for i, table in enumerate(self.tables)]

    def stack(self):
        """The same numbers as one wide linear layer, one stack of weights and one flat table."""
        self.wide = torch.cat([e.weight.detach() for e in self.first]).requires_grad_()
        self.wide_bias = torch.cat([e.bias.detach() for e in self.first]).requires_grad_()
        self.stack_second = torch.stack([w.detach() for w in self.second]).requires_grad_()
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
        self.place = order.argsort()  # rows of both tables, interleaved
        self.flat = torch.cat([t.weight.detach() for t in self.tables])[order].requires_grad_()
        part_of_row = order // 6
        return [
            Leaf(self.wide, parts=2),
            Leaf(self.wide_bias, parts=2),
            Leaf(self.stack_second, parts=2),
            Leaf(self.flat, parts=2, part_of_row=part_of_row),
        ]

    def forward_stacked(self, x, ids):
        h = torch.relu(x @ self.wide.T + self.wide_bias).view(-1, 2, 4)
        rows = self.flat[self.place[ids + torch.tensor([0, 6])]]
        return torch.einsum("beh,ehd->bd", h, self.stack_second), [rows[:, 0], rows[:, 1]]

    def losses(self, h, e, labels):
        inputs = [h + e[0] + e[1], 3 * h + e[0], 0.2 * h + e[1]]
        return [
            scale * (tower(z).squeeze(1) - labels).square().mean()
            for scale, tower, z in zip((1.0, 50.0, 0.01), self.towers, inputs, strict=True)
        ]


class NaiveMetaBalance:
    """The formulas, one tensor and one task at a time."""

    def __init__(self, tensors, tasks, r, beta, strategy, target):
        self.r, self.beta, self.strategy, self.target = r, beta, strategy, target
        self.m = [[0.0] * len(tensors) for _ in range(tasks)]
        self.t = [[0] * len(tensors) for _ in range(tasks)]

    def gradients(self, losses, tensors):
        G = [torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True) for loss in losses]
        result = []
        for p in range(len(tensors)):
            hat = []
            for k in range(len(losses)):
                norm = 0.0 if G[k][p] is None else math.sqrt((G[k][p] ** 2).sum().item())
                if norm > 0:
                    self.m[k][p] = self.beta * self.m[k][p] + (1 - self.beta) * norm
                    self.t[k][p] += 1
                hat.append(self.m[k][p] / (1 - self.beta ** self.t[k][p]) if self.t[k][p] else 0.0)
            total = torch.zeros_like(tensors[p])
            for k in range(len(losses)):
                w = 1.0
                if hat[self.target] > 0 and hat[k] > 0:
                    w = self.r * hat[self.target] / hat[k] + (1 - self.r)
                if (self.strategy == "reduce" and hat[k] <= hat[self.target]) or (
                    self.strategy == "enlarge" and hat[k] >= hat[self.target]
                ):
                    w = 1.0
                if G[k][p] is not None:
                    total += w * G[k][p]
            result.append(total)
        return result


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("target", [0, 2])
@pytest.mark.parametrize("strategy", ["both", "reduce", "enlarge"])
def test_equals_a_loop_over_tasks_and_separate_modules(strategy, target, stacked):
    torch.manual_seed(0)
    net = Experts()
    separate = net.separate()
    naive = NaiveMetaBalance(separate, 3, 0.6, 0.8, strategy, target)
    balancer = MetaBalance(relax_factor=0.6, beta=0.8, strategy=strategy, target=target)
    shared = net.stack() if stacked else separate
    for step in range(24):
        x, labels = torch.randn(16, 5, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
        ids = torch.randint(0, 6, (16, 2))
        expected = naive.gradients(without(step, net.losses(*net.forward_separate(x, ids), labels)), separate)
        for tensor in (*separate, *(leaf.tensor for leaf in shared if stacked)):
            tensor.grad = None
        forward = net.forward_stacked if stacked else net.forward_separate
        balancer.backward(without(step, net.losses(*forward(x, ids), labels)), shared)
        found = unstacked(net) if stacked else [tensor.grad for tensor in separate]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b, **TOLERANCE)
        with torch.no_grad():
            for tensor, gradient in zip(separate, expected, strict=True):
                tensor -= 1e-4 * gradient
            if stacked:
                for tensor, fresh in zip(shared, copies(net), strict=True):
                    tensor.tensor.copy_(fresh)


def without(step, losses):
    """Task 1 appears late, task 2 now and then, the target misses a step."""
    present = [step != 7, step > 4, step % 3 == 0]
    return [loss if here else loss * 0.0 for loss, here in zip(losses, present, strict=True)]


def unstacked(net):
    table = net.flat.grad[net.place]
    return [*net.wide.grad.chunk(2), *net.wide_bias.grad.chunk(2), *net.stack_second.grad.unbind(), *table.chunk(2)]


def copies(net):
    tables = torch.cat([t.weight for t in net.tables])
    return [
        torch.cat([e.weight for e in net.first]),
        torch.cat([e.bias for e in net.first]),
        torch.stack(list(net.second)),
        tables[net.place.argsort()],
    ]


def test_a_part_that_the_target_does_not_reach_keeps_its_plain_sum():
    x, y = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    MetaBalance().backward([2 * x.sum(), 8 * x.sum() + 8 * y.sum()], shared=[x, y])
    assert y.grad.item() == 8.0  # not 0.3 of it
    assert x.grad.item() == pytest.approx(2 + 0.7 * 2 + 0.3 * 8)


def test_a_missing_gradient_does_not_end_the_walk_over_the_leaves():
    x, unused, y = (torch.zeros(1, requires_grad=True) for _ in range(3))
    MetaBalance(relax_factor=1.0).backward([x.sum() + y.sum(), 4 * y.sum()], shared=[x, unused, y])
    assert (x.grad.item(), y.grad.item()) == (1.0, 2.0)
    assert unused.grad is None


def test_a_task_first_present_late_starts_with_the_weight_of_its_norm():
    balancer = MetaBalance(relax_factor=1.0)
    for _ in range(50):
        combined(balancer, [1.0], [0.0])
    assert combined(balancer, [1.0], [2.0]) == pytest.approx([2.0])  # without the correction 1 + 10


def test_an_absent_target_leaves_the_others_scaled_by_its_average():
    balancer = MetaBalance(relax_factor=1.0)
    combined(balancer, [1.0], [4.0])
    assert combined(balancer, [0.0], [4.0]) == pytest.approx([1.0])


def test_weights_are_the_means_over_the_parts_reached():
    x, y = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    balancer = MetaBalance(relax_factor=1.0)
    assert balancer.weights is None
    balancer.backward([x.sum() + y.sum(), 2 * x.sum(), 4 * x.sum() + 8 * y.sum()], shared=[x, y])
    torch.testing.assert_close(balancer.part_weights(), torch.tensor([[1.0, 1.0], [0.5, 1.0], [0.25, 0.125]]))
    torch.testing.assert_close(balancer.weights, torch.tensor([1.0, 0.5, 0.1875]))


def test_refuses_another_number_of_parts():
    balancer = MetaBalance()
    combined(balancer, [1.0], [1.0])
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="made for 2 objectives, 1 parts; got 2 objectives, 2 parts"):
        balancer.backward([x.sum(), x.sum()], shared=[Leaf(x, parts=2)])
