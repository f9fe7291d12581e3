"""The orders in which tasks meet: every one as often, repeatable, and drawn by those that project alone."""

import itertools

import pytest
import torch

from recmtl.balance import NormalizedSplitter, PCGrad
from recmtl.balance.counter_generator import RandomOrders

DRAWING = [PCGrad, lambda **options: NormalizedSplitter(projection="after", **options)]
METHODS = pytest.mark.parametrize("method", DRAWING, ids=["PCGrad", "NormalizedSplitter"])


def drawn(steps, tasks, seed=0):
    orders, result = RandomOrders(seed), []
    for _ in range(steps):
        result.append(orders(tasks))
        orders.advance(torch.tensor(True))
    return torch.stack(result)  # [steps, K, K]


def step(balancer, slope=1.0):
    z = torch.ones(2, 3, requires_grad=True)
    balancer.backward([slope * view.sum() for view in balancer.fork([z] * 4)], shared=[z])


def test_every_order_is_drawn_equally_often_by_every_task():
    steps = 3000
    orders = drawn(steps, tasks=3)
    assert orders.sort(2).values.eq(torch.arange(3)).all()
    for k in range(3):
        for order in itertools.permutations(range(3)):
            count = (orders[:, k] == torch.tensor(order)).all(1).sum().item()
            assert abs(count - steps / 6) < 5 * (steps * 5 / 36) ** 0.5


def test_tasks_draw_independently():
    orders = drawn(3000, tasks=2, seed=7)
    together = (orders[:, 0, 0] == orders[:, 1, 0]).double().mean().item()
    assert together == pytest.approx(0.5, abs=0.05)


@METHODS
def test_orders_change_from_step_to_step_repeat_with_the_seed_and_differ_without(method):
    balancers = [method(seed=5), method(seed=5), method(seed=6)]
    found = []
    for balancer in balancers:
        found.append([])
        for _ in range(8):
            found[-1].append(balancer.orders(4).tolist())
            step(balancer)
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert len({str(order) for order in found[0]}) > 1


@METHODS
def test_a_step_without_a_gradient_draws_nothing(method):
    balancer = method()
    before = balancer.orders(4)
    step(balancer, slope=0.0)
    step(balancer, slope=torch.nan)
    assert balancer.orders(4).equal(before)
    step(balancer)
    assert not balancer.orders(4).equal(before)


def test_a_splitter_without_a_projection_draws_nothing():
    balancer = NormalizedSplitter()
    step(balancer)
    assert balancer.orders.generator.tolist() == [0, 0]


@METHODS
def test_a_loaded_state_brings_its_seed_and_count(method):
    balancer, other = method(seed=5), method(seed=6)
    for _ in range(3):
        step(balancer)
    other.load_state_dict(balancer.state_dict())
    assert other.orders(4).equal(balancer.orders(4))


@METHODS
def test_the_global_generator_is_left_alone(method):
    before = torch.get_rng_state()
    step(method())
    assert torch.get_rng_state().equal(before)


@METHODS
@pytest.mark.parametrize(("seed", "message"), [(-1, "at least 0"), (1.5, "an integer"), (2**32, r"below 2\*\*32")])
def test_refuses_a_seed_out_of_range(method, seed, message):
    with pytest.raises(ValueError, match=message):
        method(seed=seed)
