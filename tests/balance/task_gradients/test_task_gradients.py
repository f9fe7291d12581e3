"""What the engine measures and combines, against loops over the parts."""

import pytest
import torch
from torch import nn

from recmtl.balance import MetaBalance, SharedTensor, TaskGradients


def leaves_and_gradients(tasks=3, seed=0):
    random = torch.Generator().manual_seed(seed)

    def tensor(*shape):
        return torch.randn(shape, generator=random, dtype=torch.float64)

    rows = torch.randint(0, 4, (9,), generator=random)
    leaves = [
        SharedTensor(tensor(6, 5), parts=3),
        SharedTensor(tensor(4)),
        SharedTensor(tensor()),
        SharedTensor(tensor(2, 3, 4), parts=2),
        SharedTensor(tensor(9, 2), parts=5, part_of_row=rows),  # the last part has no row
        SharedTensor(tensor(9), parts=4, part_of_row=rows),
        SharedTensor(tensor(0, 3), parts=2, part_of_row=rows[:0]),
        SharedTensor(tensor(9, 3), 3, torch.tensor([0] * 4 + [2] * 5), torch.tensor([0, 4, 4, 9])),
        SharedTensor(tensor(4, 3).T),  # not contiguous
    ]
    gradients = [[tensor(*leaf.tensor.shape) for leaf in leaves] for _ in range(tasks)]
    gradients[1][0] = None
    gradients[2][4] = None
    return leaves, gradients


def parts_of(leaf, gradient):
    """Each part of a gradient as a flat vector, by a loop."""
    gradient = torch.zeros_like(leaf.tensor) if gradient is None else gradient
    if leaf.part_of_row is not None:
        return [gradient[leaf.part_of_row == part].flatten() for part in range(leaf.parts)]
    return [gradient.flatten()] if leaf.parts == 1 else [chunk.flatten() for chunk in gradient.chunk(leaf.parts)]


def naive_parts(leaves, gradients):
    return [
        [part for pair in zip(leaves, task, strict=True) for part in parts_of(*pair)] for task in gradients
    ]  # [K][P]


@pytest.mark.parametrize(("tasks", "chunk"), [(3, 1 << 18), (5, 1 << 18), (5, 20)])
def test_norms_and_inner_products_are_those_of_the_parts(tasks, chunk, monkeypatch):
    monkeypatch.setattr("recmtl.balance.shared.CHUNK", chunk)
    leaves, gradients = leaves_and_gradients(tasks)
    parts = naive_parts(leaves, gradients)
    measured = TaskGradients(leaves, [list(task) for task in gradients])
    norms = torch.stack([torch.stack([part.norm() for part in task]) for task in parts])
    torch.testing.assert_close(measured.norms, norms, rtol=1e-12, atol=1e-14)
    gram = torch.stack(
        [torch.stack([torch.stack([a @ b for b in column]) for a in column]) for column in zip(*parts, strict=True)]
    )
    torch.testing.assert_close(measured.gram(), gram, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("accumulated", [False, True])
@pytest.mark.parametrize("per_part", [False, True])
def test_combines_each_part_by_its_weights(accumulated, per_part):
    leaves, gradients = leaves_and_gradients()
    parts = naive_parts(leaves, [[None if g is None else g.clone() for g in task] for task in gradients])
    weights = torch.rand(3, len(parts[0]) if per_part else 1, dtype=torch.float64)
    if accumulated:
        for leaf in leaves:
            leaf.tensor.grad = torch.ones_like(leaf.tensor)
    TaskGradients(leaves, gradients).add_combined(weights)
    position = 0
    for leaf in leaves:
        for part in parts_of(leaf, leaf.tensor.grad):
            expected = sum(weights[k, position if per_part else 0] * parts[k][position] for k in range(3)) + float(
                accumulated
            )
            torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-14)
            position += 1


def layers_and_gradients(tasks=3, seed=0):
    """Layers whose parts are whole rows of 64 elements, beside some whose parts are not, and a table."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.tensor([0, 0, 1, 2, 2])
    leaves = [
        SharedTensor(torch.zeros(5, 64, dtype=torch.float64), 3, rows, torch.tensor([0, 2, 3, 5])),
        SharedTensor(torch.zeros(6, 64, dtype=torch.float64), parts=3),
        SharedTensor(torch.zeros(192, dtype=torch.float64), parts=3),
        SharedTensor(torch.zeros(64, 2, dtype=torch.float64).T),  # not contiguous
        SharedTensor(torch.zeros(6, 7, dtype=torch.float64), parts=3),
        SharedTensor(torch.zeros(64, 1, dtype=torch.float64)),
        SharedTensor(torch.zeros(2, 32, dtype=torch.float64)),
        SharedTensor(torch.zeros(64, dtype=torch.float64)),  # one task does not reach it
        SharedTensor(torch.zeros(64, dtype=torch.float64)),
        SharedTensor(torch.zeros(64, dtype=torch.float32)),
        SharedTensor(torch.zeros(0, 64, dtype=torch.float64)),
    ]
    gradients = [
        [torch.randn(leaf.tensor.shape, generator=random).to(leaf.tensor.dtype) for leaf in leaves]
        for _ in range(tasks)
    ]
    gradients[1][7] = None
    return leaves, gradients


@pytest.mark.parametrize("accumulated", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_tensors_that_a_gpu_merges_are_measured_and_combined_as_they_are_alone(accumulated, bad, request):
    def measured_and_combined():
        leaves, gradients = layers_and_gradients()
        if accumulated:
            for leaf in leaves:
                leaf.tensor.grad = torch.ones_like(leaf.tensor)
        if bad:
            gradients[2][5][3] = torch.nan
        measured = TaskGradients(leaves, gradients)
        weights = torch.linspace(-1, 1, measured.norms.numel()).view_as(measured.norms).double()
        found = [measured.finite, measured.norms, measured.gram()]
        measured.add_combined(weights)
        return found + [leaf.tensor.grad for leaf in leaves], measured

    expected, alone = measured_and_combined()
    request.getfixturevalue("on_a_device")
    found, merged = measured_and_combined()
    assert [len(m.merged) for m in alone._measured] == [0] * 11
    assert [len(m.merged) for m in merged._measured] == [0, 3, 0, 2, 0, 0, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        if mine.dtype == torch.float64 and mine.dim() < 3:
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_a_task_with_a_nonfinite_entry_reads_as_absent_in_every_part():
    leaf = SharedTensor(torch.zeros(2, 2), parts=2)
    bad = torch.tensor([[torch.nan, 1.0], [1.0, 1.0]])
    measured = TaskGradients([leaf], [[bad], [torch.ones(2, 2)]])
    assert measured.finite.tolist() == [False, True]
    assert measured.norms[0].tolist() == [0.0, 0.0]
    assert measured.gram()[:, 0].eq(0).all()
    measured.add_combined(torch.tensor([[torch.nan], [2.0]]))
    assert leaf.tensor.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        (lambda x: x * 2, "must be a leaf of the graph"),
        (lambda x: SharedTensor(x, parts=3), r"split into 3 equal parts, got shape \(4, 2\)"),
        (lambda x: SharedTensor(x, parts=0), "at least 1 part, got 0"),
        (lambda x: SharedTensor(x, 2, torch.zeros(3, dtype=torch.int64)), r"must have shape \(4,\), got \(3,\)"),
    ],
)
def test_refuses_a_shared_tensor_that_cannot_be_balanced(shared, message):
    x = torch.zeros(4, 2, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        MetaBalance().backward([x.sum()], shared=[shared(x)])


def test_refuses_a_tensor_given_twice():
    x = torch.zeros(4, 2, requires_grad=True)
    with pytest.raises(ValueError, match="each tensor once"):
        MetaBalance().backward([x.sum()], shared=[x, x])


def test_refuses_a_sparse_gradient():
    table = nn.Embedding(4, 2, sparse=True)
    with pytest.raises(ValueError, match="dense gradients"):
        MetaBalance().backward([table(torch.tensor([1])).sum()], shared=[table.weight])


def test_keeps_the_graph_for_all_losses_but_the_last():
    x = torch.tensor([2.0], requires_grad=True)
    square = x.square()
    losses = [square.sum(), 3 * square.sum()]
    MetaBalance(relax_factor=0.0).backward(losses, shared=[x])
    assert x.grad.item() == 16.0
    with pytest.raises(RuntimeError, match="second time"):
        losses[1].backward()


def test_a_finite_loss_with_a_nonfinite_gradient_is_left_out_and_counted():
    x = torch.tensor([4.0, 1.0], requires_grad=True)
    balancer = MetaBalance()
    balancer.backward([x.sum(), (x - 1).clamp(min=0).sqrt().sum()], shared=[x])  # √ at 0 has an infinite slope
    assert x.grad.tolist() == [1.0, 1.0]
    assert balancer.skipped.tolist() == [0, 1]
    assert balancer.updates.tolist() == [[1], [0]]


def test_without_shared_tensors_it_is_the_plain_sum():
    x = torch.tensor(2.0, requires_grad=True)
    balancer = MetaBalance()
    balancer.backward([x, 3 * x, x * torch.inf], shared=[])
    balancer.zero_grad()
    assert balancer.skipped.tolist() == [0, 0, 1]
    x.grad = None
    balancer.backward([x, 3 * x, x * 0.0], shared=[])
    assert x.grad.item() == 4.0
