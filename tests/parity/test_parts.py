"""Parts of wide, stacked and flat tensors, which not every task reaches, move as separate tensors with the naive twin.

A flat table is used as a whole, or through a leaf of the rows that the batch holds; two features may share their rows.
"""

import copy
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from twins import BALANCERS, Pass, rotation_optimizers, twin_of

from recmtl.balance import Balancer, SharedTensor, Sizes
from recmtl.features import EmbeddingTable
from recmtl.schema import Categorical, IdBlock

STEPS, RATE, ROTATION_RATE, LIMIT = 8, 0.003, 0.02, 1e-10
FEATURES, ROWS, D = 3, 40, 4
OWN, SHARED = (0, 1, 2), (0, 1, 0)  # the table of each feature: one each, or the last one has the first one's
DOUBLE = {"dtype": torch.float64}


def reached(task: int, tasks: int, feature: int) -> bool:
    """The first feature is every task's, the second every other task's, the third the last task's alone."""
    return feature == 0 or (feature == 1 and task % 2 == 0) or (feature == 2 and task == tasks - 1)


class Batch(NamedTuple):
    x: Tensor
    ids: Tensor
    labels: Tensor  # [K, B]
    valid: Tensor  # [K, B]


def drawn(step: int, tasks: int) -> Batch:
    """Batches differ in size; after the first, a task has no valid row now and then."""
    rows = 9 + step % 4
    valid = torch.rand(tasks, rows) < 0.7
    valid[torch.rand(tasks) < 0.2 * (step > 0)] = False
    ids = torch.randint(0, ROWS, (rows, FEATURES))
    return Batch(torch.randn(rows, 5, **DOUBLE), ids, torch.randn(tasks, rows, **DOUBLE), valid)


def views_of(z: Tensor, embedded: list[Tensor], tasks: int) -> list[Tensor]:
    return [z + sum(e for f, e in enumerate(embedded) if reached(task, tasks, f)) for task in range(tasks)]


def losses_of(towers: nn.ModuleList, views: Iterable[Tensor], batch: Batch) -> list[Tensor]:
    """Of different scales, over each task's valid rows."""
    errors = [(tower(v)[:, 0] - y).square() for tower, v, y in zip(towers, views, batch.labels, strict=True)]
    return [
        10.0 ** (k % 3 - 1) * (error * rows).sum() / rows.sum().clamp(min=1)
        for k, (error, rows) in enumerate(zip(errors, batch.valid, strict=True))
    ]


class Separate:
    """Two experts, the features' tables, a tensor that no task reaches, and a tower per task."""

    def __init__(self, tasks: int, owners: tuple[int, ...]) -> None:
        self.owners = owners

        def tensors(count: int, *shape: int) -> list[Tensor]:
            return [torch.randn(shape, **DOUBLE, requires_grad=True) for _ in range(count)]

        self.weights, self.biases, self.seconds = tensors(2, 3, 5), tensors(2, 3), tensors(2, 3, D)
        self.tables, self.unused = tensors(len(set(owners)), ROWS, D), tensors(1, 2)
        self.towers = nn.ModuleList(nn.Linear(D, 1, **DOUBLE) for _ in range(tasks))

    def shared(self) -> list[Tensor]:
        return [*self.weights, *self.biases, *self.seconds, *self.tables, *self.unused]

    def private(self) -> list[Tensor]:
        return list(self.towers.parameters())

    def through(self, batch: Batch) -> Pass:
        experts = zip(self.weights, self.biases, self.seconds, strict=True)
        z = sum(torch.tanh(batch.x @ weight.T + bias) @ second for weight, bias, second in experts)
        embedded = [self.tables[owner][batch.ids[:, f]] for f, owner in enumerate(self.owners)]
        views = views_of(z, embedded, len(self.towers))
        return Pass(
            views,
            lambda read: losses_of(self.towers, read, batch),
            self.shared(),
            self.private(),
            self.seconds,
            self.tables,
        )


class Laid:
    """The same numbers as a wide layer, a stack, and a flat table that holds the features' rows in any order."""

    def __init__(self, net: Separate, by_rows: bool) -> None:
        self.by_rows, self.owners, self.tables = by_rows, torch.tensor(net.owners), len(net.tables)
        self.order = self.ordered()
        self.place, self.part = self.order.argsort(), self.order // ROWS
        self.tensors = [t.detach().clone().requires_grad_() for t in self.set_together(net.shared())]
        self.towers = copy.deepcopy(net.towers)

    def ordered(self) -> Tensor:
        return torch.randperm(self.tables * ROWS)

    def set_together(self, separate: list[Tensor]) -> list[Tensor]:
        table = torch.cat(separate[6:-1])[self.order]
        return [torch.cat(separate[0:2]), torch.cat(separate[2:4]), torch.stack(separate[4:6]), table, separate[-1]]

    def private(self) -> list[Tensor]:
        return list(self.towers.parameters())

    def embedded(self, ids: Tensor) -> tuple[Tensor, SharedTensor, Tensor]:
        """The embeddings `[B, features, D]`, what they are trained through, and where that lies in the table."""
        places, leaf, distinct = self.place[ids + ROWS * self.owners], self.tensors[3], torch.arange(len(self.part))
        if self.by_rows:
            distinct, places = places.unique(return_inverse=True)
            leaf = leaf.detach()[distinct].requires_grad_()
        return leaf[places], SharedTensor(leaf, self.tables, self.part[distinct]), distinct

    def backward(self, balancer: Balancer, batch: Batch) -> None:
        wide, bias, stack, table, unused = self.tensors
        embedded, leaf, distinct = self.embedded(batch.ids)
        h = torch.tanh(batch.x @ wide.T + bias).view(-1, 2, 3)
        z = torch.einsum("beh,ehd->bd", h, stack)
        views = balancer.fork(views_of(z, list(embedded.unbind(1)), len(self.towers)))
        shared = [SharedTensor(wide, 2), SharedTensor(bias, 2), SharedTensor(stack, 2), leaf, unused]
        balancer.backward(losses_of(self.towers, views, batch), shared, [stack])
        if self.by_rows:
            table.grad = torch.zeros_like(table).index_copy(0, distinct, gradients([leaf.tensor])[0])


class Tabled(Laid):
    """The flat table is an encoder's, with what it says that it shares."""

    def __init__(self, net: Separate, by_rows: bool) -> None:
        super().__init__(net, by_rows)
        features = [
            Categorical(f"f{f}", share_with=None if owner == f else f"f{owner}") for f, owner in enumerate(net.owners)
        ]
        self.module = EmbeddingTable([IdBlock(f, ROWS, column, 1) for column, f in enumerate(features)], D).double()
        self.module.weight.data.copy_(self.tensors[3])
        self.tensors[3] = self.module.weight

    def ordered(self) -> Tensor:
        return torch.arange(self.tables * ROWS)

    def embedded(self, ids: Tensor) -> tuple[Tensor, SharedTensor, Tensor]:
        if self.by_rows:
            self.module.start_row_mode()
        embedded = self.module(ids.int()).singles
        places = self.module.gathered.places if self.by_rows else torch.arange(len(self.part))
        return embedded, SharedTensor(*self.module.shared_tensors()[0]), places


def gradients(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]


def assert_close(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= LIMIT * b.norm()


def descend(tensors: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            if tensor.grad is not None:
                tensor -= RATE * tensor.grad
            tensor.grad = None


@pytest.mark.parametrize(
    ("tasks", "by_rows", "layout", "owners"),
    [
        pytest.param(tasks, by_rows, *layout, id=f"{tasks}-{by_rows}-{layout[0].__name__}")
        for by_rows, layout in itertools.product((False, True), ((Laid, OWN), (Tabled, SHARED)))
        for tasks in (1, 2, 5, 8)
        if tasks == 2 or by_rows == ((layout[0] is Laid) == (tasks == 5))  # all of two tasks, and each pair of others
    ],
)
@pytest.mark.parametrize("method", BALANCERS, ids=lambda c: c.__name__)
def test_equals_separate_tensors(
    method: type[Balancer], tasks: int, by_rows: bool, layout: type[Laid], owners: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    net = Separate(tasks, owners)
    elements = sum(t.numel() for t in net.shared()) - sum(t.numel() for t in net.tables)
    sizes = Sizes(tasks, tasks, D, len(net.shared()), elements)
    laid = layout(net, by_rows)
    balancer = method()
    balancer.setup(**sizes._asdict())
    twin = twin_of(balancer.double(), sizes)
    optimizers = rotation_optimizers(balancer, twin, ROTATION_RATE)
    for step in range(STEPS):
        batch = drawn(step, tasks)
        twin(net.through(batch))
        laid.backward(balancer, batch)
        assert_close(gradients(laid.tensors), laid.set_together(gradients(net.shared())))
        assert_close(gradients(laid.private()), gradients(net.private()))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        descend([*net.shared(), *net.private()])
        descend([*laid.tensors, *laid.private()])
        again = net.through(batch)
        losses = again.losses(again.views)
        balancer.after_step(losses)
        twin.after_step([loss.item() for loss in losses])
        if step % 3 == 2:
            balancer.end_epoch()
            twin.end_epoch()
    assert_close([*laid.tensors, *laid.private()], [*laid.set_together(net.shared()), *net.private()])
    if twin.weights is not None:
        assert_close([balancer.weights], [twin.weights])
    if twin.rotations:
        assert_close([balancer.rotation()], [twin.matrices()])
