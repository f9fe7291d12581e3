"""What a user may do by mistake is said, and changes nothing."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from twins import BALANCERS

from recmtl.balance import (
    BalancedModule,
    GradNorm,
    MetaBalance,
    NormalizedSplitter,
    PCGrad,
    PPCGrad,
    RepresentationBalancer,
    RotateOnly,
    RotoGrad,
    RotoGradNorm,
    Sum,
    gradient_stats,
)

AT_THE_VIEWS = [c for c in BALANCERS if issubclass(c, RepresentationBalancer)]
ELSEWHERE = [c for c in BALANCERS if not issubclass(c, RepresentationBalancer)]


def state(balancer):
    return {name: tensor.clone() for name, tensor in balancer.state_dict().items()}


def assert_unmoved(before, balancer):
    after = balancer.state_dict()
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def problem(balancer):
    torch.manual_seed(0)
    bottom = nn.Linear(3, 4)
    views = balancer.fork([bottom(torch.randn(5, 3))] * 2)
    return bottom, [(k + 1) * view.square().mean() for k, view in enumerate(views)]


@pytest.mark.parametrize("method", AT_THE_VIEWS)
def test_a_forgotten_fork(method):
    bottom, losses = problem(Sum())
    with pytest.raises(RuntimeError, match="`fork` must stand between trunk and heads"):
        method().backward(losses, list(bottom.parameters()))
    balancer, other = method(), method()
    _, losses = problem(balancer)
    with pytest.raises(RuntimeError, match="`fork` must stand between trunk and heads"):
        other.backward(losses, [])


@pytest.mark.parametrize("method", ELSEWHERE)
def test_one_tensor_where_the_number_of_heads_is_not_known(method):
    with pytest.raises(ValueError, match=r"one view per head, got a tensor of \(16, 4\)"):
        method().fork(torch.ones(16, 4))


@pytest.mark.parametrize("method", BALANCERS)
@pytest.mark.parametrize(
    ("views", "message"),
    [
        (None, "`views` must be a sequence with one view per head, got None"),
        ({"a": torch.ones(2, 3)}, "`views` must be a sequence with one view per head, got a dict"),
        ([torch.ones(2, 3), None], "view 1 must be a tensor, got None"),
        ([None, torch.ones(2, 3)], "view 0 must be a tensor, got None"),
    ],
)
def test_views_that_are_no_tensors(method, views, message):
    with pytest.raises(ValueError, match=message):
        method().fork(views)


@pytest.mark.parametrize("method", BALANCERS)
@pytest.mark.parametrize("sized", [False, True])
def test_one_summed_loss(method, sized):
    balancer = method()
    if sized:
        balancer.setup(objectives=2, heads=2, features=4, parts=2)
    bottom, losses = problem(balancer)
    with pytest.raises(
        ValueError, match="one loss per objective, in a list or by name, got one scalar: pass the losses"
    ):
        balancer.backward(sum(losses), list(bottom.parameters()))
    with pytest.raises(ValueError, match="one loss per objective, in a list or by name, got None"):
        balancer.backward(None, list(bottom.parameters()))
    balancer.backward(torch.stack(losses), list(bottom.parameters()))  # a vector of losses is fine


def test_one_summed_loss_has_no_statistics():
    bottom, losses = problem(Sum())
    with pytest.raises(ValueError, match="got one scalar"):
        gradient_stats(sum(losses), list(bottom.parameters()))


@pytest.mark.parametrize("method", BALANCERS)
def test_a_copy_made_between_fork_and_backward_has_no_fork_of_its_own(method):
    balancer = method()
    bottom, losses = problem(balancer)
    other = copy.deepcopy(balancer)
    if method in AT_THE_VIEWS:
        with pytest.raises(RuntimeError, match="`fork` must stand between trunk and heads"):
            other.backward(losses, list(bottom.parameters()))
    balancer.backward(losses, list(bottom.parameters()))


def test_rotations_that_no_optimizer_knows():
    with pytest.warns(UserWarning, match="an optimizer that was built before does not move them"):
        RotoGrad().fork([torch.ones(2, 3)] * 2)


@pytest.mark.parametrize("method", [RotateOnly, RotoGrad, RotoGradNorm])
def test_no_warning_where_they_are_made_before(method):
    views, set_up = [torch.ones(2, 3)] * 2, method()
    set_up.setup(objectives=2, heads=2, features=3, parts=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        method(heads=2, features=3).fork(views)
        set_up.fork(views)
        with torch.no_grad():
            method().fork(views)
        assert said == []
        method().fork(views)
    assert len(said) == 1


@pytest.mark.parametrize("method", [RotateOnly, RotoGrad, RotoGradNorm])
def test_normalized_losses_need_to_be_seen(method):
    _, losses = problem(method(heads=2, features=4, normalize_losses=True))
    with pytest.raises(RuntimeError, match="compares the losses"):
        sum(losses).backward()


def test_splitter_and_trainer_must_mean_the_same_heads():
    splitter = NormalizedSplitter(tasks=["cvr", "ctr"], task_weights={"cvr": 9, "ctr": 1})
    assert splitter.task_weights.tolist() == [9, 1]
    with pytest.raises(ValueError, match=r"`head_names` must be \['cvr', 'ctr'\], as before"):
        splitter.setup(objectives=2, heads=2, features=4, parts=1, head_names=["ctr", "cvr"])
    for tasks in (["a", "a"], "ab", "aa"):
        with pytest.raises(ValueError, match="`tasks` must be 2 different names"):
            NormalizedSplitter(tasks=tasks)


def test_losses_by_name_find_the_splitters_order():
    splitter = NormalizedSplitter(tasks=["ctr", "cvr"])
    views = splitter(torch.ones(4, 3, requires_grad=True))
    splitter.backward({"cvr": views["cvr"].sum() * torch.nan, "ctr": views["ctr"].sum()}, [])
    assert dict(zip(splitter.labels, splitter.skipped.tolist(), strict=True)) == {"ctr": 0, "cvr": 1}


def test_a_call_that_failed_leaves_no_names():
    x = torch.zeros(2, requires_grad=True)
    balancer = MetaBalance(target="cvr")
    with pytest.raises(ValueError, match="`target` must be one of the tasks"):
        balancer.backward({"a": x[0]}, [x])
    balancer.backward({"ctr": x[0], "cvr": x[1]}, [x])
    assert balancer.names == ("ctr", "cvr")


@pytest.mark.parametrize("method", AT_THE_VIEWS)
def test_measuring_never_moves_the_state(method):
    balancer = method()
    bottom, losses = problem(balancer)
    before = state(balancer)
    gradient_stats(losses, list(bottom.parameters()))
    assert_unmoved(before, balancer)
    assert all(p.grad is None for p in balancer.parameters())


@pytest.mark.parametrize("method", AT_THE_VIEWS)
def test_an_evaluation_in_another_precision_widens_nothing(method):
    balancer = method()
    problem(balancer)
    before = state(balancer)
    with torch.no_grad():
        balancer.fork([torch.ones(5, 4, dtype=torch.float64)] * 2)
    assert_unmoved(before, balancer)
    assert {t.dtype for t in before.values()} == {t.dtype for t in state(balancer).values()}


@pytest.mark.parametrize("method", AT_THE_VIEWS)
def test_state_made_in_an_evaluation_can_be_trained(method):
    balancer = method()
    with torch.inference_mode():
        balancer.fork([torch.ones(5, 4)] * 2)
    bottom, losses = problem(balancer)
    balancer.backward(losses, list(bottom.parameters()))
    assert bottom.weight.grad.any()


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError


@pytest.mark.parametrize("method", [MetaBalance, PCGrad, PPCGrad])
def test_an_error_in_a_tasks_backward_loses_no_gradient(method):
    x = torch.zeros(2, requires_grad=True)
    x.grad = torch.tensor([1.0, 2.0])
    with pytest.raises(ArithmeticError):
        method().backward([x[0], Fails.apply(x).sum()], [x])
    assert x.grad.tolist() == [1.0, 2.0]


def test_named_targets_and_weights_load_into_fresh_balancers():
    x = torch.ones(2, requires_grad=True)
    balancer = MetaBalance(target="cvr")
    balancer.backward({"ctr": x[0], "cvr": 3 * x[1]}, [x])
    fresh = MetaBalance(target="cvr")
    fresh.load_state_dict(balancer.state_dict())
    assert fresh.names == ("ctr", "cvr")
    assert fresh.weights.equal(balancer.weights)
    other = MetaBalance()
    other.backward({"cvr": x[1], "ctr": x[0]}, [x])
    with pytest.raises(RuntimeError, match=r"for \['cvr', 'ctr'\], got \['ctr', 'cvr'\]"):
        other.load_state_dict(balancer.state_dict())


def test_rotations_of_another_map_are_not_taken():
    saved = RotateOnly(heads=2, features=3).state_dict()
    with pytest.raises(RuntimeError, match="matrix_exp"):
        RotateOnly(heads=2, features=3, orthogonal_map="matrix_exp").load_state_dict(saved)


@pytest.mark.parametrize("loss", [0.0, 0])
def test_a_loss_that_is_no_tensor(loss):
    x = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="loss 1 must be a tensor, got 0"):
        GradNorm().backward([x.sum(), loss], [x])


def test_a_class_is_no_balancer():
    with pytest.raises(ValueError, match="`balancer` must be a balancer"):
        BalancedModule(nn.Linear(2, 2), [nn.Linear(2, 1)], RotoGrad)


@pytest.mark.parametrize(
    "look",
    [torch.Tensor.item, torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy, bool, lambda x: x[x > 0]],
)
def test_a_look_at_a_value_fails_on_the_device_that_has_none(look, without_values):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        look(torch.ones((), device=without_values))


@pytest.mark.parametrize("method", BALANCERS)
@pytest.mark.parametrize(
    "summed",
    [
        lambda losses: [sum(losses)],
        lambda losses: [losses[0] + losses[1]],
        lambda losses: {"all": torch.stack(losses).sum()},
        lambda losses: [0.5 * sum(losses)],
    ],
)
def test_a_list_of_the_sum(method, summed):
    balancer = method()
    bottom, losses = problem(balancer)
    before = state(balancer)
    with pytest.raises(ValueError, match="got one sum for 2 heads: pass the losses themselves"):
        balancer.backward(summed(losses), list(bottom.parameters()))
    assert_unmoved(before, balancer)


@pytest.mark.parametrize("method", ELSEWHERE)
def test_one_loss_of_two_heads_that_is_no_sum(method):
    balancer = method()
    bottom, (a, b) = problem(balancer)
    balancer.backward([a * b], list(bottom.parameters()))
    assert bottom.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", BALANCERS)
def test_modules_and_names_in_place_of_tensors(method):
    balancer = method()
    bottom, losses = problem(balancer)
    shared = list(bottom.parameters())
    for wrong, said in (
        ((bottom,), "`shared` must hold tensors, got the module Linear: pass `list"),
        (([bottom],), "`shared` must hold tensors, got a Linear: pass `list"),
        ((nn.Sequential(bottom),), "`shared` must hold tensors, got the module Sequential"),
        ((bottom.weight,), "`shared` must be a list of tensors, got a Parameter"),
        ((bottom.named_parameters(),), "`shared` must hold tensors, got a tuple"),
        ((bottom.state_dict(),), "`shared` must be a list of tensors, got a OrderedDict"),
        ((None,), "`shared` must be a list of tensors, got a NoneType"),
        ((shared, bottom), "`last` must hold tensors, got the module Linear"),
        ((shared, [], bottom), "`private` must hold tensors, got the module Linear"),
    ):
        with pytest.raises(ValueError, match=said):
            balancer.backward(losses, *wrong)
    balancer.backward(losses, nn.ParameterList(shared), iter([bottom.weight]))


@pytest.mark.parametrize("method", BALANCERS)
def test_the_state_of_another_number_of_tasks_is_refused(method):
    sizes = {"features": 4, "parts": 2, "elements": 8}
    balancer, other = method(), method()
    balancer.setup(objectives=2, heads=2, **sizes)
    other.setup(objectives=3, heads=3, **sizes)
    if balancer.depends_on:
        with pytest.raises(RuntimeError, match=f"{method.__name__} was made for .*; the state is for"):
            balancer.load_state_dict(other.state_dict())


@pytest.mark.parametrize("cls", [Sum, GradNorm, NormalizedSplitter, PCGrad])
def test_a_parametrized_weight_is_no_shared_tensor(cls):
    """Each access makes another tensor, whose gradients are none: GradNorm found no task that trains it."""
    balancer = cls()
    trunk, heads = weight_norm(nn.Linear(3, 2)), [nn.Linear(2, 1), nn.Linear(2, 1)]
    shared = trunk(torch.ones(4, 3))
    losses = [head(view).square().mean() for head, view in zip(heads, balancer.fork([shared, shared]), strict=True)]
    with pytest.raises(ValueError, match="shared tensor 0 must be a leaf of the graph"):
        balancer.backward(losses, shared=[trunk.weight])
    balancer.backward(losses, shared=list(trunk.parameters()))
