"""What every balancer promises; a new one is found by its export."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from twins import BALANCERS

from recmtl.balance import (
    DBMTL,
    IMTLG,
    IMTLL,
    MGDA,
    RLW,
    AlignedMTL,
    CAGrad,
    FairGrad,
    GradDrop,
    LossWeightBalancer,
    NashMTL,
    NormalizedSplitter,
    SharedTensor,
    UncertaintyWeighting,
)
from recmtl.balance.weighting.base import LossValueBalancer

K, D, PARTS = 3, 4, 4
ELEMENTS = 6 * 5 + 4 * 6 + 4

pytestmark = pytest.mark.parametrize("method", BALANCERS, ids=lambda method: method.__name__)


class Net(nn.Module):
    """A shared bottom of two layers, the first counted in two parts, and a tower per task."""

    def __init__(self, tasks=K, dtype=torch.float64, device="cpu"):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, D)
        self.towers = nn.ModuleList(nn.Linear(D, 1) for _ in range(tasks))
        self.to(device=device, dtype=dtype)

    def shared(self):
        return [SharedTensor(self.first.weight, parts=2), SharedTensor(self.second.weight), self.second.bias]

    def losses(self, balancer, seed=0, rows=16):
        parameter = self.second.weight
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, 5, generator=random, dtype=torch.float64).to(parameter)
        y = torch.randn(len(self.towers), rows, generator=random, dtype=torch.float64).to(parameter)
        views = self.views(torch.tanh(self.second(torch.relu(self.first(x)))))  # K of [B, D]
        views = views if balancer is None else balancer.fork(views)
        return [
            10.0**k * (tower(view)[:, 0] - y[k]).square().mean()
            for k, (tower, view) in enumerate(zip(self.towers, views, strict=True))
        ]

    def views(self, z):
        return [z] * len(self.towers)


class PartlyShared(Net):
    """A leaf that the second task alone reaches, and one that no task reaches."""

    def __init__(self):
        super().__init__()
        self.alone = nn.Parameter(torch.ones(D, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def shared(self):
        return [self.unused, *super().shared(), self.alone]

    def views(self, z):
        return [z, z * self.alone, z]


def made(method, tasks=K, parts=PARTS, elements=ELEMENTS):
    balancer = method()
    balancer.setup(objectives=tasks, heads=tasks, features=D, parts=parts, elements=elements)
    return balancer


def step(net, balancer, seed=0, change=lambda losses: losses, last=True):
    """One balanced step from clean gradients; all gradients by name, zero where there is none.

    Unless it is the `last` one before the weights move, no losses after the step are told.
    """
    net.zero_grad(set_to_none=last)
    balancer.backward(change(net.losses(balancer, seed)), net.shared())
    found = gradients(net)
    if last:
        balancer.after_step(change(net.losses(None, seed)))
    return found


def gradients(net):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def plain(net, seed=0):
    net.zero_grad()
    sum(net.losses(None, seed)).backward()
    return gradients(net)


def is_shared(name):
    return name in ("first.weight", "second.weight", "second.bias")


def state(balancer):
    return {name: tensor.clone() for name, tensor in balancer.state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].equal(b[name]), name


def assert_close(a, b, **tolerance):
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


def assert_state_of_task_unmoved(before, after, task):
    for name, tensor in before.items():
        if tensor.dim() and tensor.shape[0] == K and name != "skipped":
            assert tensor[task].equal(after[name][task]), name


@pytest.mark.parametrize("tasks", [1, 2, 5, 8])
def test_private_gradients_are_those_of_the_weighted_sum(method, tasks):
    net, balancer = Net(tasks), made(method, tasks)
    for seed in range(5):
        weights = balancer.weights if isinstance(balancer, LossWeightBalancer) else None
        weights = torch.ones(tasks) if weights is None else weights.clone()
        found, expected = step(net, balancer, seed), plain(net, seed)
        weights = balancer.weights if isinstance(balancer, LossValueBalancer) else weights  # of this step
        for name in (name for name in expected if name.startswith("towers")):
            weight = weights[int(name.split(".")[1])].to(torch.float64)
            torch.testing.assert_close(found[name], weight * expected[name], rtol=1e-6, atol=0.0)
        assert all(found[name].isfinite().all() and found[name].norm() > 0 for name in found if is_shared(name))


def test_adds_to_the_gradients_that_are_there(method):
    net = Net()
    fresh = step(net, made(method))
    net.zero_grad()
    there = {}
    for name, parameter in net.named_parameters():
        parameter.grad = torch.randn_like(parameter)
        there[name] = parameter.grad.clone()
    balancer = made(method)
    balancer.backward(net.losses(balancer), net.shared())
    assert_close(gradients(net), {name: there[name] + fresh[name] for name in there}, rtol=1e-10, atol=1e-12)


def test_accumulates_over_several_backward_passes(method):
    """Two before one optimizer step add up, and move the state as two steps do."""
    net, balancer, other = Net(), made(method), made(method)
    apart = [step(net, other, seed, last=False) for seed in range(2)]
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in other.parameters()]
    net.zero_grad()
    for seed in range(2):
        balancer.backward(net.losses(balancer, seed), net.shared())
    together = {name: apart[0][name] + apart[1][name] for name in apart[0]}
    assert_close(gradients(net), together, rtol=1e-12, atol=1e-12)
    assert_equal(state(balancer), state(other))
    for parameter, slope in zip(balancer.parameters(), slopes, strict=True):
        assert parameter.grad.equal(slope)  # never cleared in either
        assert slope.norm() > 0


@pytest.mark.parametrize("constant", [False, True])
def test_a_missing_task_contributes_nothing_and_keeps_its_state(method, constant):
    net, balancer = Net(), made(method)

    def absent(losses):
        return [losses[0], torch.zeros((), dtype=torch.float64) if constant else losses[1] * 0.0, losses[2]]

    step(net, balancer)
    before = state(balancer)
    found = step(net, balancer, 1, absent)
    assert_state_of_task_unmoved(before, state(balancer), 1)
    assert found["towers.1.weight"].eq(0).all()
    assert balancer.skipped.eq(0).all()
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert found["second.weight"].norm() > 0


def test_a_task_missing_from_the_start_can_come_later(method):
    net, balancer = Net(), made(method)
    for _ in range(3):
        step(net, balancer, 0, lambda losses: [losses[0], losses[1] * 0.0, losses[2]])
    found = step(net, balancer, 1)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert found["towers.1.weight"].norm() > 0


def test_zero_gradients_give_zero_and_move_nothing(method):
    net, balancer = Net(), made(method)
    for warm in (False, True):
        if warm:
            step(net, balancer)
        before = state(balancer)
        found = step(net, balancer, 1, lambda losses: [loss * 0.0 for loss in losses])
        assert all(gradient.eq(0).all() for gradient in found.values())
        assert_equal(before, state(balancer))


def test_losses_without_a_graph_change_nothing(method):
    net, balancer = Net(), made(method)
    step(net, balancer)
    before = state(balancer)
    found = step(net, balancer, 1, lambda losses: [loss.detach() * 0.0 for loss in losses])
    assert all(gradient.eq(0).all() for gradient in found.values())
    assert_equal(before, state(balancer))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("first", [False, True])
def test_a_nonfinite_loss_is_counted_and_leaves_its_state(method, value, first):
    net, balancer = Net(), made(method)
    if not first:
        step(net, balancer)
    before = state(balancer)
    found = step(net, balancer, 1, lambda losses: [losses[0], losses[1] * value, losses[2]])
    assert_state_of_task_unmoved(before, state(balancer), 1)
    assert balancer.skipped.tolist() == [0, 1, 0]
    assert all(found[name].isfinite().all() and found[name].norm() > 0 for name in found if is_shared(name))
    assert found["towers.1.weight"].eq(0).all()
    assert all(gradient.isfinite().all() for gradient in gradients(net).values())
    again = step(net, balancer, 2)
    assert all(gradient.isfinite().all() for gradient in again.values())
    assert all(tensor.isfinite().all() for tensor in state(balancer).values())


def test_an_infinite_loss_with_a_finite_gradient_is_left_out(method):
    net, balancer = Net(), made(method)
    step(net, balancer)
    before = state(balancer)
    found = step(net, balancer, 1, lambda losses: [losses[0], losses[1] + torch.inf, losses[2]])
    assert_state_of_task_unmoved(before, state(balancer), 1)
    assert balancer.skipped.tolist() == [0, 1, 0]
    assert found["towers.1.weight"].eq(0).all()
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("set_up", [False, True])
def test_state_dict_continues_bit_for_bit(method, set_up):
    net, balancer = Net(), made(method)
    for seed in range(4):
        step(net, balancer, seed)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    resumed = made(method) if set_up else method()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(4, 8):
        assert_equal(step(net, balancer, seed), step(net, resumed, seed))
    assert_equal(state(balancer), state(resumed))


def test_state_is_loaded_as_part_of_a_model(method):
    net, balancer = Net(), made(method)
    step(net, balancer)
    model = nn.ModuleDict({"trunk": nn.Linear(2, 2), "fork": balancer})
    fresh = nn.ModuleDict({"trunk": nn.Linear(2, 2), "fork": method()})
    fresh.load_state_dict(model.state_dict())
    assert_equal(step(net, balancer, 1), step(net, fresh["fork"], 1))


def test_copies_and_pickles_continue_on_their_own(method):
    net, balancer = Net(), made(method)
    step(net, balancer)
    others = [copy.deepcopy(balancer), pickle.loads(pickle.dumps(balancer))]
    expected = step(net, balancer, 1)
    for other in others:
        assert_equal(step(net, other, 1), expected)
    other.load_state_dict(balancer.state_dict())


def test_needs_no_setup(method):
    net, lazy, balancer = Net(), method(), made(method)
    for seed in range(3):
        assert_equal(step(net, lazy, seed), step(net, balancer, seed))
    assert_equal(state(lazy), state(balancer))


def test_names_change_nothing(method):
    net, named, balancer = Net(), method(), made(method)
    names = ["ctr", "cvr", "add"]
    for seed in range(3):
        by_name = step(net, named, seed, lambda losses: dict(zip(names, losses, strict=True)))
        assert_equal(by_name, step(net, balancer, seed))
    assert named.names == tuple(names)


def steps_of_own_direction(method):
    """Three steps, or the first alone if later ones average the directions of several."""
    return 1 if method is DBMTL else 3


def test_one_task_is_plain_training(method):
    """To the last bit, with the rotations still at the identity; a few methods have a size of their own."""
    net, balancer = Net(tasks=1), made(method, tasks=1)
    for seed in range(steps_of_own_direction(method)):
        found, expected = step(net, balancer, seed), plain(net, seed)
        if method in (NormalizedSplitter, IMTLL, UncertaintyWeighting, DBMTL, CAGrad, NashMTL, FairGrad):
            scale = found["second.bias"].norm() / expected["second.bias"].norm()
            sized = {
                name
                for name in found
                if is_shared(name)
                or isinstance(balancer, LossWeightBalancer)
                or (method is NormalizedSplitter and not name.startswith("towers"))
            }
            found |= {name: found[name] / scale for name in sized}
            assert_close(found, expected, rtol=1e-10, atol=1e-14)
        else:
            assert_equal(found, expected)


def test_a_shared_tensor_that_one_task_alone_reaches_gets_its_direction_from_that_task(method):
    net, balancer = PartlyShared(), made(method, parts=PARTS + 2, elements=ELEMENTS + 3 + D)
    if method is GradDrop:
        balancer.leaks.fill_(1.0)  # else it drops features
    for seed in range(steps_of_own_direction(method)):
        found = step(net, balancer, seed)
        (own,) = torch.autograd.grad(net.losses(None, seed)[1], net.alone)
        direction = found["alone"] / found["alone"].norm().clamp(min=1e-300)
        if method in (IMTLG, AlignedMTL):  # whose weights can be negative
            direction = direction * (direction @ own).sign()
        if method is not MGDA or direction.any():  # a weight can be 0
            torch.testing.assert_close(direction, own / own.norm(), rtol=0.0, atol=1e-9)
        assert net.unused.grad is None
        assert all(found[name].isfinite().all() and found[name].norm() > 0 for name in found if is_shared(name))
    assert all(tensor.isfinite().all() for tensor in state(balancer).values())


def test_frozen_shared_tensors_are_left_alone(method):
    net, balancer = Net(), made(method)
    net.first.weight.requires_grad_(False)
    net.second.bias.requires_grad_(False)
    found = step(net, balancer)
    assert net.first.weight.grad is None
    assert net.second.bias.grad is None
    assert found["second.weight"].norm() > 0


def test_a_shared_tensor_that_no_loss_reaches_gets_no_gradient(method):
    net, unused = Net(), torch.zeros(3, requires_grad=True)
    balancer = method()
    balancer.backward(net.losses(balancer), [unused, *net.shared()])
    assert unused.grad is None
    assert gradients(net)["second.bias"].norm() > 0


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e10])
def test_stays_finite_at_any_scale(method, scale):
    net, balancer = Net(dtype=torch.float32), made(method)
    for seed in range(3):
        found = step(net, balancer, seed, lambda losses: [scale * loss for loss in losses])
        assert all(gradient.isfinite().all() for gradient in found.values())
        assert found["second.weight"].norm() > 0
    assert balancer.skipped.eq(0).all()
    assert all(tensor.isfinite().all() for tensor in state(balancer).values())


def test_tasks_can_be_given_in_another_order(method):
    """The first task keeps its place, as it may be the target; the seeds give every task its own labels.

    What a method draws is exchanged, too.
    """
    net, balancer, other = Net(), made(method), made(method)
    exchange = torch.tensor([0, 2, 1])
    if method is RLW:
        drawn = other.random.normal
        other.random.normal = lambda count: drawn(count)[exchange]
    if hasattr(other, "orders"):
        draw = other.orders.forward
        other.orders.forward = lambda tasks: exchange[draw(tasks)][exchange]
    for seed in range(4):
        expected = step(net, balancer, seed)
        net.zero_grad()
        losses = permuted(net, other, seed)
        other.backward(losses, net.shared())
        assert_close(gradients(net), expected, rtol=1e-9, atol=1e-12)


def permuted(net, balancer, seed):
    """The losses with tasks 1 and 2 exchanged: their towers, views and places."""

    class Exchanged:
        def fork(self, views):
            first, second, third = balancer.fork(views)
            return first, third, second

    first, second, third = net.losses(Exchanged(), seed)
    return [first, third, second]


@pytest.mark.parametrize("inside", [False, True])
def test_bfloat16_autocast(method, inside):
    net, balancer = Net(dtype=torch.float32), made(method)
    exact = step(net, balancer)
    net.zero_grad()
    balancer = made(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = net.losses(balancer)
        if inside:
            balancer.backward(losses, net.shared())
    if not inside:
        balancer.backward(losses, net.shared())
    for name, gradient in gradients(net).items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, exact[name], rtol=0.1, atol=0.1 * exact[name].norm().item())
    for tensor in state(balancer).values():
        assert tensor.dtype in (torch.float32, torch.int64, torch.uint8)


def test_losses_narrower_than_the_gradients(method):
    """Those of a model in float64 may be cast to float32, by a loss of one's own."""
    net, balancer, other = Net(), made(method), made(method)
    for seed in range(3):
        found = step(net, balancer, seed, lambda losses: [loss.float() for loss in losses])
        assert_close(found, step(net, other, seed), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_state_is_not_cast_down(method, cast):
    net, balancer = Net(dtype=torch.float32), made(method)
    step(net, balancer)
    before = state(balancer)
    getattr(nn.ModuleList([balancer]), cast)()
    assert_equal(before, state(balancer))
    assert {t.dtype for t in before.values()} == {t.dtype for t in state(balancer).values()}


def test_looking_at_weights_changes_nothing(method):
    net, balancer, other = Net(), made(method), made(method)
    for seed in range(3):
        found = step(net, balancer, seed)
        weights = balancer.weights
        assert weights.shape == (K,)
        assert weights.isfinite().all()
        assert not weights.requires_grad
        weights.mul_(0.0)
        assert_equal(found, step(net, other, seed))


def test_another_number_of_tasks_is_refused(method):
    net, balancer = Net(tasks=2), made(method)
    with pytest.raises(ValueError, match="made for 3"):
        step(net, balancer)


def test_the_step_never_waits_for_the_device(method, without_values):
    """On the meta device no tensor has a value: whatever asks for one, or copies one to the host, fails."""
    net, balancer = Net(dtype=torch.float32, device=without_values), made(method)
    for seed in range(2):
        step(net, balancer, seed, lambda losses: [losses[0], losses[1] * 0.0, losses[2]])
    assert {name: gradient.shape for name, gradient in gradients(net).items()} == {
        name: parameter.shape for name, parameter in net.named_parameters()
    }


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(method):
    cpu, cuda = Net(), Net(device="cuda")
    balancer, lazy, moved = made(method), method(), made(method).to("cuda")
    for seed in range(3):
        expected = step(cpu, balancer, seed)
        for other in (lazy, moved):
            found = {name: gradient.cpu() for name, gradient in step(cuda, other, seed).items()}
            assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert all(tensor.is_cuda for tensor in lazy.state_dict().values())
