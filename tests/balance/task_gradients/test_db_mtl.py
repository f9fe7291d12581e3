"""DB-MTL: steps by hand, scales without effect, tables without averages; its twin runs in the contracts."""

import math

import pytest
import torch

from recmtl.balance import DBMTL, SharedTensor

DOUBLE = {"dtype": torch.float64}


def step(balancer, *slopes, losses=None, shared=None):
    """One step in which task k has the gradient `slopes[k]` and the loss 1, or `losses[k]`."""
    x = torch.zeros(len(slopes[0]), **DOUBLE, requires_grad=True)
    values = [1.0] * len(slopes) if losses is None else losses
    pairs = zip(slopes, values, strict=True)
    balancer.backward(
        [(x * torch.tensor(slope, **DOUBLE)).sum() + value * any(slope) for slope, value in pairs],
        shared=[x] if shared is None else shared(x),
    )
    return x.grad


def test_two_steps_by_hand():
    balancer = DBMTL(beta=0.5)
    # logarithms: (3, 0) and (0, 2), the largest size 3
    assert step(balancer, (3.0, 0.0), (0.0, 8.0), losses=[1.0, 4.0]).tolist() == pytest.approx([3.0, 3.0])
    assert balancer.weights.tolist() == pytest.approx([1.0, 3 / 8])
    # averages (1, 4·2)/3 and (0, 2): the first is ((3, 0)·0.25 + (0, 4)·0.5)/0.75 = (1, 8/3)
    size = math.hypot(1, 8 / 3)
    assert step(balancer, (0.0, 4.0), (0.0, 2.0)).tolist() == pytest.approx([1.0, 8 / 3 + size])


def test_a_rate_that_falls_is_divided_by_the_root_of_the_steps():
    balancer = DBMTL(beta=0.5, decay=0.5)
    step(balancer, (1.0, 0.0))
    beta = 0.5 / math.sqrt(2)
    mass = beta * 0.5 + (1 - beta)
    assert step(balancer, (0.0, 1.0)).tolist() == pytest.approx([beta * 0.5 / mass, (1 - beta) / mass])


def test_without_averages_nothing_is_kept_of_an_earlier_step():
    balancer = DBMTL(beta=0.0)
    step(balancer, (5.0, 1.0), (1.0, 7.0))
    assert step(balancer, (3.0, 4.0), (0.0, 1.0)).tolist() == pytest.approx([3.0, 9.0])
    assert balancer.averages.numel() == 0


def test_the_scale_of_a_loss_has_no_effect():
    found = []
    for scale in (1.0, 1e6):
        balancer = DBMTL()
        for slope in (1.0, 3.0, -0.2):
            last = step(balancer, (scale * slope, scale), (1.0, slope), losses=[2 * scale, 3.0])
        found.append(last)
    torch.testing.assert_close(*found, rtol=1e-10, atol=0.0)


def test_a_task_that_was_absent_starts_at_its_own_gradient():
    balancer = DBMTL()
    for _ in range(3):
        assert step(balancer, (3.0, 0.0), (0.0, 0.0)).tolist() == pytest.approx([3.0, 0.0])
    averages = balancer.averages.clone()
    assert step(balancer, (0.0, 0.0), (0.0, 2.0)).tolist() == pytest.approx([0.0, 2.0])
    assert balancer.averages[0].equal(averages[0])
    assert balancer.updates.tolist() == [3, 1]


def test_a_loss_below_0_is_left_out_of_the_shared_tensors_and_counted():
    balancer = DBMTL()
    assert step(balancer, (3.0, 0.0), (0.0, 2.0), losses=[1.0, -1.0]).tolist() == pytest.approx([3.0, 0.0])
    assert balancer.skipped.tolist() == [0, 1]


def test_tables_receive_the_gradients_of_the_step():
    """Of the four numbers the last two are rows of a table, which may be others in the next step."""
    balancer = DBMTL(beta=0.5)
    table = torch.zeros(2, 1, **DOUBLE, requires_grad=True)
    x = torch.zeros(2, **DOUBLE, requires_grad=True)
    shared = [x, SharedTensor(table, 2, torch.tensor([0, 1]))]
    for slope in (0.0, 3.0):
        x.grad = table.grad = None
        balancer.backward([1.0 + 3 * x[0] + slope * table[0, 0], 1.0 + x[1] + table[1, 0]], shared=shared)
    assert balancer.averages.shape == (2, 2)
    # sizes √(3² + 3²) and √2
    assert x.grad.tolist() == pytest.approx([3.0, 3.0])
    assert table.grad.flatten().tolist() == pytest.approx([3.0, 3.0])


def test_averages_lie_in_the_order_of_the_tensors():
    a, b = torch.zeros(2, 2, requires_grad=True), torch.zeros(3, requires_grad=True)
    balancer = DBMTL(beta=0.5)
    balancer.backward([1 + a.sum() + 2 * b.sum(), 1 + 4 * b[0]], shared=[a, SharedTensor(b, parts=3)])
    assert balancer.averages.tolist() == [[0.5] * 4 + [1.0] * 3, [0.0] * 4 + [2.0, 0.0, 0.0]]
    assert a.grad.eq(1.0).all()
    assert b.grad.tolist() == [6.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.0}, r"`beta` must be in \[0, 1\)"),
        ({"beta": math.nan}, r"`beta` must be in \[0, 1\)"),
        ({"decay": -0.5}, r"`decay` must be in \[0, 1\]"),
    ],
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        DBMTL(**options)
