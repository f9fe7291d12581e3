"""Parts of wide, stacked and flat tensors, which not every task reaches, move as separate tensors with the naive twin.

A flat table is used as a whole, or through a leaf of the rows that the batch holds.
"""

import pytest
import torch
from torch import Tensor, nn
from twins import BALANCERS, Pass, twin_of

from recmtl.balance import Balancer, Leaf, Sizes

STEPS, RATE, ROTATION_RATE, LIMIT = 12, 0.003, 0.02, 1e-10
FEATURES, ROWS, D = 3, 40, 4
PARTS = 2 + 2 + 2 + FEATURES + 1
DOUBLE = {"dtype": torch.float64}


def reached(task: int, feature: int) -> bool:
    """The first feature is every task's, the second every other task's, the third the first task's alone."""
    return feature == 0 or (feature == 1 and task % 2 == 0) or task == 0


class Net(nn.Module):
    """Two experts, a table per feature, a tensor that no task reaches, and a tower per task."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = nn.ParameterList(torch.randn(3, 5, **DOUBLE) for _ in range(2))
        self.biases = nn.ParameterList(torch.randn(3, **DOUBLE) for _ in range(2))
        self.seconds = nn.ParameterList(torch.randn(3, D, **DOUBLE) for _ in range(2))
        self.tables = nn.ParameterList(torch.randn(ROWS, D, **DOUBLE) for _ in range(FEATURES))
        self.unused = nn.Parameter(torch.randn(2, **DOUBLE))
        self.towers = nn.ModuleList(nn.Linear(D, 1, **DOUBLE) for _ in range(tasks))

    def shared(self) -> list[Tensor]:
        return [*self.weights, *self.biases, *self.seconds, *self.tables, self.unused]

    def views(self, x: Tensor, ids: Tensor) -> list[Tensor]:
        experts = zip(self.weights, self.biases, self.seconds, strict=True)
        z = sum(torch.tanh(x @ weight.T + bias) @ second for weight, bias, second in experts)
        return self.with_features(z, [table[ids[:, f]] for f, table in enumerate(self.tables)])

    def with_features(self, z: Tensor, embedded: list[Tensor]) -> list[Tensor]:
        tasks = range(len(self.towers))
        return [z + sum(e for f, e in enumerate(embedded) if reached(task, f)) for task in tasks]

    def losses(self, views: list[Tensor], labels: Tensor, valid: Tensor) -> list[Tensor]:
        """Of different scales, over each task's valid rows."""
        errors = [(tower(v)[:, 0] - y).square() for tower, v, y in zip(self.towers, views, labels, strict=True)]
        return [
            10.0 ** (k % 3 - 1) * (error * rows).sum() / rows.sum().clamp(min=1)
            for k, (error, rows) in enumerate(zip(errors, valid, strict=True))
        ]


class Laid:
    """The same numbers as a wide layer, a stack, and a flat table with its features' rows in any order."""

    def __init__(self, net: Net) -> None:
        self.order = torch.randperm(FEATURES * ROWS)
        self.place = self.order.argsort()
        self.wide, self.bias, self.stack, self.table, self.unused = (
            tensor.detach().clone().requires_grad_() for tensor in self.of(net.shared())
        )

    def of(self, tensors: list[Tensor]) -> list[Tensor]:
        """Separate tensors, or their gradients, set together."""
        table = torch.cat(tensors[6:9])[self.order]
        return [torch.cat(tensors[0:2]), torch.cat(tensors[2:4]), torch.stack(tensors[4:6]), table, tensors[9]]

    def table_leaf(self, flat: Tensor, by_rows: bool) -> tuple[Leaf, Tensor]:
        """The leaf, and where in it each id lies."""
        feature = self.order // ROWS
        if not by_rows:
            return Leaf(self.table, FEATURES, feature), flat
        distinct, place = flat.unique(return_inverse=True)
        self.distinct, self.rows = distinct, self.table.detach()[distinct].requires_grad_()
        return Leaf(self.rows, FEATURES, feature[distinct]), place

    def spread(self, by_rows: bool) -> None:
        """Brings the gradient of the rows in use to the table."""
        if by_rows:
            gradient = torch.zeros_like(self.rows) if self.rows.grad is None else self.rows.grad
            self.table.grad = torch.zeros_like(self.table).index_copy(0, self.distinct, gradient)

    def z(self, x: Tensor) -> Tensor:
        h = torch.tanh(x @ self.wide.T + self.bias).view(-1, 2, 3)
        return torch.einsum("beh,ehd->bd", h, self.stack)

    def tensors(self) -> list[Tensor]:
        return [self.wide, self.bias, self.stack, self.table, self.unused]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= LIMIT * b.norm()


def gradients(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]


def descend(tensors: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            if tensor.grad is not None:
                tensor -= RATE * tensor.grad
            tensor.grad = None


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("tasks", [1, 2, 5, 8])
@pytest.mark.parametrize("method", BALANCERS, ids=lambda c: c.__name__)
def test_equals_separate_tensors(method: type[Balancer], tasks: int, by_rows: bool) -> None:
    net, other = Net(tasks), Net(tasks)
    laid, sizes = Laid(net), Sizes(tasks, tasks, D, PARTS)
    balancer = method()
    balancer.setup(**sizes._asdict())
    balancer.double()
    twin = twin_of(balancer, sizes)
    optimizers = [
        torch.optim.Adam(rotations, lr=ROTATION_RATE)
        for rotations in (list(balancer.parameters()), twin.rotations)
        if rotations
    ]
    private, towers = list(net.towers.parameters()), list(other.towers.parameters())
    for step in range(STEPS):
        rows = 9 + step % 4
        x, ids, labels = (
            torch.randn(rows, 5, **DOUBLE),
            torch.randint(0, ROWS, (rows, FEATURES)),
            torch.randn(tasks, rows, **DOUBLE),
        )
        valid = torch.rand(tasks, rows) < 0.7
        valid[torch.rand(tasks) < 0.2 * (step > 0)] = False

        def losses(views: list[Tensor], of: Net = net, y: Tensor = labels, valid: Tensor = valid) -> list[Tensor]:
            return of.losses(views, y, valid)

        for optimizer in optimizers:
            optimizer.zero_grad()
        twin(Pass(net.views(x, ids), losses, net.shared(), private, list(net.seconds)))
        leaf, place = laid.table_leaf(laid.place[ids + ROWS * torch.arange(FEATURES)], by_rows)
        views = balancer.fork(other.with_features(laid.z(x), list(leaf.tensor[place].unbind(1))))
        shared = [Leaf(laid.wide, 2), Leaf(laid.bias, 2), Leaf(laid.stack, 2), leaf, laid.unused]
        balancer.backward(losses(views, other), shared, [laid.stack])
        laid.spread(by_rows)
        assert_close(gradients(laid.tensors()), laid.of(gradients(net.shared())))
        assert_close(gradients(towers), gradients(private))
        for optimizer in optimizers:
            optimizer.step()
        descend([*net.shared(), *private])
        descend([*laid.tensors(), *towers])
    assert_close([*laid.tensors(), *towers], [*laid.of(net.shared()), *private])
    if twin.weights is not None:
        assert_close([balancer.weights], [twin.weights])
    if twin.rotations:
        assert_close([balancer.rotation()], [twin.matrices()])
