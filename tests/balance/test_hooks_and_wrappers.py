"""Optimizers that step in hooks on gradients, and wrappers that average gradients over processes."""

import copy
import gc

import pytest
import torch
import torch.distributed as dist
from together import together
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from twins import BALANCERS

from recmtl.balance import ProcessGroup, Sum, TaskGradientBalancer

K, D = 2, 4
every_balancer = pytest.mark.parametrize("method", BALANCERS, ids=lambda method: method.__name__)
one_pass = pytest.mark.parametrize("method", [c for c in BALANCERS if not issubclass(c, TaskGradientBalancer)])
pass_per_task = pytest.mark.parametrize("method", [c for c in BALANCERS if issubclass(c, TaskGradientBalancer)])


class Net(nn.Module):
    """A shared layer, a balancer's fork and a tower per task."""

    def __init__(self, method):
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.towers = nn.Linear(3, D), nn.ModuleList(nn.Linear(D, 1) for _ in range(K))
        self.balancer = method()
        self.balancer.setup(objectives=K, heads=K, features=D, parts=2)

    def forward(self, x):
        views = self.balancer.fork([self.shared(x)] * K)
        return [
            (k + 1) * tower(view).square().mean()
            for k, (tower, view) in enumerate(zip(self.towers, views, strict=True))
        ]

    def backward(self, losses):
        self.balancer.backward(losses, list(self.shared.parameters()), private=self.towers.parameters())


def rows(seed=0):
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))


def step_in_hooks(tensors):
    for tensor in tensors:
        optimizer = torch.optim.SGD([tensor], lr=0.1)

        def step(tensor, optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad()

        tensor.register_post_accumulate_grad_hook(step)


@one_pass
def test_optimizers_in_hooks_step_by_the_balanced_gradient(method):
    net, other = Net(method), Net(method)
    step_in_hooks(net.shared.parameters())
    optimizer = torch.optim.SGD(other.shared.parameters(), lr=0.1)
    for seed in range(3):
        net.backward(net(rows(seed)))
        optimizer.zero_grad()
        other.backward(other(rows(seed)))
        optimizer.step()
        for each in (net, other) if net.balancer.needs_losses_after_step else ():
            each.balancer.after_step(each(rows(seed)))
    for a, b in zip(net.shared.parameters(), other.shared.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pass_per_task
def test_optimizers_in_hooks_of_shared_tensors_are_refused(method):
    net = Net(method)
    step_in_hooks([net.shared.bias])
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"one backward pass per task, .* hook of shared tensor 1 .* after `backward`"):
        net.backward(net(rows()))
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pass_per_task
def test_optimizers_in_hooks_of_towers_step_once(method):
    net, other = Net(method), Net(method)
    step_in_hooks(net.towers.parameters())
    optimizer = torch.optim.SGD(other.towers.parameters(), lr=0.1)
    for seed in range(2):
        net.backward(net(rows(seed)))
        optimizer.zero_grad()
        other.backward(other(rows(seed)))
        optimizer.step()
    for a, b in zip(net.towers.parameters(), other.towers.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pass_per_task
def test_optimizers_in_hooks_of_graph_nodes_are_found_by_what_they_change(method):
    net = Net(method)
    node = net.shared.bias.expand_as(net.shared.bias).grad_fn.next_functions[0][0]
    optimizer = torch.optim.SGD([net.shared.bias], lr=0.1)
    node.register_hook(lambda *_: optimizer.step())
    with pytest.raises(RuntimeError, match=r"changed during the backward pass of one task: step .* after `backward`"):
        net.backward(net(rows()))


def refused(processes, method, told, wrapped):
    """The message of a step whose losses, or whose model, a wrapper or nobody sums over the processes."""
    net = Net(method)
    if told:
        net.balancer.processes = processes
    model = DistributedDataParallel(net) if wrapped else net
    try:
        net.backward(model(rows(processes.rank)))
    except RuntimeError as error:
        return str(error)
    return None


def messages(processes, told, wrapped):
    found = {method.__name__: refused(processes, method, told, wrapped) for method in BALANCERS}
    end_reducers()
    return found


def end_reducers():
    """Reducers of wrappers must end before their process group does."""
    gc.collect()
    dist.barrier()


@pytest.mark.parametrize(("told", "wrapped"), [(False, True), (True, True), (False, False)])
def test_wrappers_that_average_gradients_are_refused(told, wrapped, tmp_path):
    for found in together(2, tmp_path / "ranks", messages, told, wrapped):
        for name in ("Sum", "FixedWeights"):
            assert (found.pop(name) is None) == (not told)  # sums with fixed weights may be averaged, once
        said = "`DistributedDataParallel` sums the gradients itself" if wrapped else "2 processes run, but the balancer"
        for name, message in found.items():
            assert message is not None, name
            assert message.startswith(said)
            assert "`balancer.processes = ProcessGroup(torch.distributed.group.WORLD)`" in message


def trained_alone(processes):
    net = Net(Sum)
    net.balancer.processes = ProcessGroup()
    net.backward(net(rows(processes.rank)))
    with torch.no_grad():
        DistributedDataParallel(net)(rows())
    end_reducers()
    return net.shared.weight.grad, dist.get_world_size()


def test_each_process_may_train_alone_if_told(tmp_path):
    for rank, (gradient, processes) in enumerate(together(2, tmp_path / "ranks", trained_alone)):
        net = Net(Sum)
        net.backward(net(rows(rank)))
        torch.testing.assert_close(gradient, net.shared.weight.grad)
        assert processes == 2


def hooked(processes):
    net = Net(Sum)
    net.balancer.processes = processes
    step_in_hooks(net.shared.parameters())
    with pytest.raises(ValueError, match="would act before it is summed over the processes"):
        net.backward(net(rows(processes.rank)))
    return True


def test_optimizers_in_hooks_are_refused_with_several_processes(tmp_path):
    assert together(2, tmp_path / "ranks", hooked) == [True, True]


@every_balancer
def test_copies_of_data_parallel_are_refused(method, monkeypatch):
    net = Net(method)
    monkeypatch.setattr(net.balancer, "_is_replica", True, raising=False)  # as `replicate` marks them
    with pytest.raises(RuntimeError, match="`DataParallel` loses the state of"):
        net(rows())


def test_torch_marks_the_copies_of_data_parallel():
    assert nn.Module()._replicate_for_data_parallel()._is_replica
