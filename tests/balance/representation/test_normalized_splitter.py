"""The normalizing splitter against hand-worked numbers, and its invariants."""

import itertools
import math

import pytest
import torch
from torch import nn
from twins import Pass, twin_of

from recmtl.balance import NormalizedSplitter, Sizes


def pull(splitter, *gradients):
    """What each view receives when the heads' inputs have the given gradients."""
    views = [torch.zeros_like(g, requires_grad=True) for g in gradients]
    outputs = splitter.fork(views)
    torch.autograd.backward(outputs, gradients)
    return [view.grad for view in views]


def test_forward_is_the_identity():
    views = [torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)]
    for a, b in zip(NormalizedSplitter().fork(views), views, strict=True):
        assert a.equal(b)


def test_first_step_by_hand():
    # q = n·Σh² = 2·(9 + 16 + 0) = 50: h/√50, share 1/4; second task has one valid row: q = 1·4, share 3/4
    h = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    a, b = pull(NormalizedSplitter(task_weights=[1.0, 3.0]), *h)
    torch.testing.assert_close(a, h[0] / math.sqrt(50) / 4)
    torch.testing.assert_close(b, h[1] / 2 * 3 / 4)


def test_published_arithmetic_by_hand():
    # q = (1/B)·Σh² = 25/4
    h = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    (a,) = pull(NormalizedSplitter(batch_scale=False), h)
    torch.testing.assert_close(a, h / 2.5)


def test_second_step_by_hand():
    splitter = NormalizedSplitter(beta=0.5)
    pull(splitter, torch.tensor([[1.0]]))
    # v = 0.5·0.5·1 + 0.5·9 = 4.75, v̂ = 4.75/0.75
    (a,) = pull(splitter, torch.tensor([[3.0]]))
    assert a.item() == pytest.approx(3 / math.sqrt(4.75 / 0.75))


def test_projections_by_hand():
    h = torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 1.0]])
    # before: (2,0) + 2/2·(−1,1) = (1,1); (−1,1) + 2/4·(2,0) = (0,1); then unit size and one half
    a, b = pull(NormalizedSplitter(projection="before"), *h)
    torch.testing.assert_close(a, torch.tensor([[1.0, 1.0]]) / math.sqrt(2) / 2)
    torch.testing.assert_close(b, torch.tensor([[0.0, 0.5]]))
    # after: (1,0)/2 and (−1,1)/√8 lose their conflicts
    a, b = pull(NormalizedSplitter(projection="after"), *h)
    torch.testing.assert_close(a, torch.tensor([[0.25, 0.25]]))
    torch.testing.assert_close(b, torch.tensor([[0.0, 1 / math.sqrt(8)]]))


def test_the_order_decides_between_three_tasks_by_hand():
    # sizes 1, √2, √2 leave c·(1,0)·√2, c·(−1,1) and c·(−1,−1) with c = 1/(3√2)
    # the first ends at 0; the second meets (1,0), then the third: (0,1), then (−½,½); the other way nothing, then (0,1)
    h = [torch.tensor([row]) for row in ([1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0])]
    outcomes = set()
    for seed in range(20):
        splitter = NormalizedSplitter(projection="after", seed=seed)
        orders = splitter.orders(3).tolist()
        a, b, c = (x * 3 * math.sqrt(2) for x in pull(splitter, *h))
        first = [orders[k].index(0) < orders[k].index(3 - k) for k in (1, 2)]  # whether each met (1,0) first
        torch.testing.assert_close(a, torch.zeros(1, 2), rtol=0, atol=1e-6)
        torch.testing.assert_close(b, torch.tensor([[-0.5, 0.5]] if first[0] else [[0.0, 1.0]]), rtol=0, atol=1e-6)
        torch.testing.assert_close(c, torch.tensor([[-0.5, -0.5]] if first[1] else [[0.0, -1.0]]), rtol=0, atol=1e-6)
        outcomes.add(tuple(first))
    assert len(outcomes) == 4


@pytest.mark.parametrize("projection", ["before", "after"])
def test_a_task_without_gradient_for_a_sample_neither_loses_nor_takes(projection):
    h = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0]] * 2)
    plain = pull(NormalizedSplitter(), *h)
    for found, expected in zip(pull(NormalizedSplitter(projection=projection), *h), plain, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("projection", ["before", "after"])
def test_a_head_that_no_loss_reaches_takes_nothing_from_the_others(projection):
    splitter, alone = (NormalizedSplitter(projection=projection) for _ in range(2))
    z = torch.randn(5, 3)
    views = [z.clone().requires_grad_() for _ in range(3)]
    a, b, _ = splitter.fork(views)
    (a.square().sum() - b.square().sum()).backward()
    expected = pull(alone, 2 * z, -2 * z, torch.zeros(5, 3))
    torch.testing.assert_close(views[0].grad, expected[0])
    torch.testing.assert_close(views[1].grad, expected[1])
    assert views[2].grad is None


def test_parts_that_one_head_alone_reaches_by_hand():
    # one row, sizes 3 and 4: each task has half of the unit size; y lies under the second view alone
    x, y, unused = (torch.zeros(1, 1, requires_grad=True) for _ in range(3))
    splitter = NormalizedSplitter()
    a, b = splitter.fork([x, x + y])
    splitter.backward([3 * a.sum(), 4 * b.sum()], shared=[x, y, unused])
    assert (x.grad.item(), y.grad.item()) == pytest.approx((1.0, 0.5))
    assert unused.grad is None


@pytest.mark.parametrize("projection", ["none", "before", "after"])
def test_a_loss_1000_times_as_large_changes_nothing(projection):
    plain, scaled = (NormalizedSplitter(projection=projection) for _ in range(2))
    for _ in range(4):
        h = torch.randn(3, 6, 4, dtype=torch.float64)
        found = pull(scaled, h[0], 1000 * h[1], h[2])
        for a, b in zip(found, pull(plain, *h), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("projection", ["before", "after"])
def test_projection_acts_sample_by_sample(projection):
    h = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    a, b = pull(NormalizedSplitter(projection=projection), *h)
    assert a[0] @ h[1][0] == pytest.approx(0.0, abs=1e-6)
    assert b[0] @ h[0][0] == pytest.approx(0.0, abs=1e-6)
    assert a[1, 1] == 0.0
    assert b[1, 0] == b[1, 1]


def shared_gradient(rows, valid_share, steps=1, seed=0):
    """The shared gradient's size when a task's mean loss has the same error in every valid row."""
    splitter = NormalizedSplitter(tasks=["ctr", "cvr"])
    for _ in range(steps):
        z = torch.zeros(rows, 2, dtype=torch.float64, requires_grad=True)
        views = splitter(z)
        valid = torch.arange(rows) < rows * valid_share
        (views["ctr"][:, 0].mean() + 50 * views["cvr"][valid, 1].mean()).backward()
    return z.grad.sum(0)


@pytest.mark.parametrize(("rows", "share"), [(8, 1.0), (4096, 1.0), (4096, 1 / 512), (64, 0.25)])
def test_the_shared_gradient_depends_neither_on_batch_size_nor_on_few_valid_rows(rows, share):
    torch.testing.assert_close(shared_gradient(rows, share), torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_nor_on_a_short_last_batch():
    splitter = NormalizedSplitter()
    for rows in (1024, 1024, 10):
        (h,) = pull(splitter, torch.ones(rows, 1) / rows)
        assert h.sum().item() == pytest.approx(1.0, rel=1e-5)


def test_sizes_follow_the_weights_whatever_the_losses_are():
    a, b = pull(NormalizedSplitter(task_weights=[3.0, 1.0]), 1e-6 * torch.randn(9, 4), 1e3 * torch.randn(9, 4))
    assert (a.norm() / b.norm()).item() == pytest.approx(3.0, rel=1e-5)


def test_weights_can_be_set_while_training():
    splitter = NormalizedSplitter(tasks=["ctr", "cvr"], task_weights={"cvr": 3.0, "ctr": 1.0})
    ones = torch.ones(1, 1)
    assert [h.item() for h in pull(splitter, ones, ones)] == pytest.approx([0.25, 0.75])
    splitter.set_task_weights({"ctr": 1.0, "cvr": 1.0})
    assert [h.item() for h in pull(splitter, ones, ones)] == pytest.approx([0.5, 0.5])
    torch.testing.assert_close(splitter.weights, torch.tensor([0.5, 0.5]))
    assert splitter.state_dict()["task_weights"].tolist() == [1.0, 1.0]


def test_equals_its_twin_while_the_weights_change():
    splitter = NormalizedSplitter(task_weights=[1.0, 2.0, 0.5], beta=0.9)
    splitter.setup(objectives=3, heads=3, features=4, parts=1)
    twin = twin_of(splitter, Sizes(3, 3, 4, 1))
    for step in range(8):
        if step == 4:
            splitter.set_task_weights([0.0, 1.0, 4.0])
        slopes = torch.randn(3, 6 + step % 3, 4, dtype=torch.float64)
        found, expected = (torch.zeros_like(slopes[0], requires_grad=True) for _ in range(2))

        def losses(views, slopes=slopes):
            return [(view * slope).sum() for view, slope in zip(views, slopes, strict=True)]

        twin(Pass([expected] * 3, losses, shared=[expected], private=[]))
        splitter.backward(losses(splitter.fork([found] * 3)), shared=[found])
        assert (found.grad - expected.grad).norm() <= 1e-12 * expected.grad.norm()
        torch.testing.assert_close(splitter.weights, twin.weights, rtol=1e-12, atol=0.0)


def test_weights_set_before_the_first_step_hold():
    splitter = NormalizedSplitter()
    splitter.set_task_weights([0.0, 2.0])
    assert splitter.weights is None
    assert [h.item() for h in pull(splitter, torch.ones(1, 1), torch.ones(1, 1))] == [0.0, 1.0]


def test_named_weights_find_the_names_given_at_setup():
    splitter = NormalizedSplitter(task_weights={"cvr": 3.0, "ctr": 1.0})
    splitter.setup(objectives=2, heads=2, features=4, parts=1, names=["ctr", "cvr"])
    assert splitter.task_weights.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, math.nan], {"ctr": 1.0}, {"ctr": 1.0, "other": 1.0}]
)
def test_refuses_weights_that_are_none(weights):
    with pytest.raises(ValueError, match="`task_weights` must"):
        NormalizedSplitter(tasks=["ctr", "cvr"], task_weights=weights)


@pytest.mark.parametrize(("arguments", "message"), [({"beta": 1.0}, "`beta`"), ({"projection": "both"}, "got 'both'")])
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        NormalizedSplitter(**arguments)


def test_an_empty_batch_passes_and_moves_nothing():
    for projection, batch_scale in itertools.product(("none", "before", "after"), (True, False)):
        splitter = NormalizedSplitter(projection=projection, batch_scale=batch_scale)
        a, b = pull(splitter, torch.zeros(0, 3), torch.zeros(0, 3))
        assert a.shape == b.shape == (0, 3)
        assert splitter.updates.tolist() == [0, 0]


@pytest.mark.parametrize("projection", ["none", "before", "after"])
def test_an_infinite_step_does_not_poison_the_average(projection):
    good = torch.randn(4, 3), torch.randn(4, 3)
    bad = good[1].clone()
    bad[2, 1] = torch.inf
    splitter, untouched = NormalizedSplitter(projection=projection), NormalizedSplitter(projection=projection)
    for each in (splitter, untouched):
        pull(each, *good)
    a, b = pull(splitter, good[0], bad)
    (alone, _) = pull(untouched, good[0], torch.zeros(4, 3))
    assert b.eq(0).all()
    torch.testing.assert_close(a, alone)
    assert splitter.square.equal(untouched.square)
    assert splitter.updates.tolist() == [2, 1]
    assert splitter.skipped.tolist() == [0, 1]


def test_a_head_that_no_loss_reaches_receives_nothing():
    z = torch.ones(2, 3, requires_grad=True)
    splitter = NormalizedSplitter()
    a, _ = splitter.fork([z, z])
    a.sum().backward()
    assert z.grad.norm() > 0
    assert splitter.updates.tolist() == [1, 0]
    assert splitter.weights[1] == 0


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3, 4)])
def test_splits_a_tensor_of_any_shape(shape):
    x = torch.randn(shape, requires_grad=True)
    views = NormalizedSplitter(tasks=["a", "b"])(x)
    assert list(views) == ["a", "b"]
    (views["a"].square().sum() + views["b"].sin().sum()).backward()
    assert x.grad.shape == shape
    assert x.grad.isfinite().all()


def test_one_tensor_needs_names_or_a_number_of_heads():
    x = torch.randn(2, 3)
    splitter = NormalizedSplitter()
    with pytest.raises(ValueError, match="needs `tasks`"):
        splitter(x)
    with pytest.raises(ValueError, match="number of heads is unknown"):
        splitter.fork(x)
    with pytest.raises(ValueError, match="one view per head, got none"):
        splitter.fork([])
    splitter.setup(objectives=2, heads=2, features=3, parts=1)
    assert len(splitter.fork(x)) == 2


def test_works_under_a_plain_backward_inside_a_model():
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 3), nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
    splitter = NormalizedSplitter()
    model = nn.ModuleDict({"trunk": trunk, "fork": splitter, "heads": heads})
    a, b = splitter([trunk(torch.randn(8, 4))] * 2)
    (heads[0](a).mean() + 1e4 * heads[1](b).mean()).backward()
    assert trunk.weight.grad.norm() < 10
    assert "fork.square" in model.state_dict()


def test_beta_survives_bfloat16():
    splitter = NormalizedSplitter(tasks=["a"]).bfloat16()
    for _ in range(3):
        (h,) = pull(splitter, torch.ones(4, 2, dtype=torch.bfloat16))
    assert h.dtype == torch.bfloat16
    assert h.sum().item() == pytest.approx(math.sqrt(2) * 4 / 4, rel=0.02)


@pytest.mark.parametrize("projection", ["before", "after"])
def test_projection_in_bfloat16_is_that_of_float32(projection):
    h = [x.bfloat16() for x in torch.randn(3, 8, 4)]
    found = pull(NormalizedSplitter(projection=projection), *h)
    for a, b in zip(found, pull(NormalizedSplitter(projection=projection), *(x.float() for x in h)), strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("projection", ["before", "after"])
def test_projection_never_waits_for_the_device(projection, without_values):
    h = torch.randn(3, 8, 4, device=without_values)
    assert [x.shape for x in pull(NormalizedSplitter(projection=projection), *h)] == [(8, 4)] * 3


def test_refuses_another_number_of_heads():
    splitter = NormalizedSplitter(tasks=["a", "b"])
    with pytest.raises(ValueError, match="made for 2 heads; got 3 heads"):
        splitter.fork([torch.zeros(1, 1)] * 3)


def test_views_of_different_widths_are_normalized_but_not_projected():
    h = torch.full((2, 3), 5.0), torch.full((2, 4), 7.0)
    a, b = pull(NormalizedSplitter(), *h)
    assert (a.norm().item(), b.norm().item()) == pytest.approx((0.5 / 2**0.5, 0.5 / 2**0.5))
    with pytest.raises(ValueError, match=r"share one shape to be projected, got \[\(2, 3\), \(2, 4\)\]"):
        pull(NormalizedSplitter(projection="after"), *h)


@pytest.mark.parametrize("batch_scale", [True, False])
def test_views_of_different_numbers_of_rows_are_averaged_over_their_own(batch_scale):
    """As two splitters of one task each would do."""
    torch.manual_seed(0)
    views = [torch.randn(rows, 3, dtype=torch.float64, requires_grad=True) for rows in (8, 2)]
    both = NormalizedSplitter(batch_scale=batch_scale)
    apart = [NormalizedSplitter(batch_scale=batch_scale) for _ in views]
    for _ in range(3):
        losses = [view.square().mean() for view in both.fork(views)]
        found = torch.autograd.grad(sum(losses), views)
        for one, view, gradient in zip(apart, views, found, strict=True):
            (expected,) = torch.autograd.grad(one.fork([view])[0].square().mean(), view)
            torch.testing.assert_close(gradient, expected / 2)  # a share of ½ for each of two tasks
