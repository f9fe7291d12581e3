"""What all rotating methods share: their invariants, their state, and how they are used."""

import copy
import pickle

import pytest
import torch
from torch import nn

from recmtl.balance import RotateOnly, RotoGrad, RotoGradNorm

DOUBLE = {"dtype": torch.float64}
D = 5
METHODS = [RotateOnly, RotoGrad, RotoGradNorm]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_scale", [True, False])
def test_one_task_is_the_identity(method, batch_scale):
    balancer = method(batch_scale=batch_scale)
    for _ in range(3):
        z, slope = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
        (view,) = balancer.fork([z])
        assert view.equal(z)
        balancer.backward([(view * slope).sum() + 20], shared=[z])
        torch.testing.assert_close(z.grad, slope)
        assert next(balancer.parameters()).grad.eq(0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_task_alone_in_its_batch_turns_nothing(method):
    balancer = method()
    z = torch.randn(6, 4, requires_grad=True)
    a, b, c = balancer.fork([z, z, z])
    balancer.backward([a.square().sum(), b.sum() * 0.0, c.detach().sum() * 0.0], shared=[z])
    assert next(balancer.parameters()).grad.eq(0).all()
    torch.testing.assert_close(z.grad, 2 * z.detach())


def planted(method, steps=400, **options):
    """The cosine of the two heads' gradients at the view, before and after, on two rotated copies of one problem."""
    torch.manual_seed(0)
    z, target = torch.randn(64, D), torch.randn(64, D)
    copies = [torch.linalg.qr(torch.randn(D, D))[0] for _ in range(2)]
    copies = [q * torch.linalg.det(q).sign() for q in copies]  # D is odd: determinant 1
    balancer = method(heads=2, features=D, **options)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.01)
    cosines = []
    for _ in range(steps):
        views = [z.clone().requires_grad_() for _ in range(2)]
        forked = balancer.fork(views)
        losses = [(v @ q - target).square().sum(1).mean() for v, q in zip(forked, copies, strict=True)]
        optimizer.zero_grad()
        balancer.backward(losses, shared=[])
        optimizer.step()
        h = [view.grad.flatten() for view in views]
        cosines.append(torch.cosine_similarity(h[0], h[1], dim=0).item())
    return cosines


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_scale", [True, False])
def test_the_angle_shrinks_on_two_rotated_copies_of_one_problem(method, batch_scale):
    cosines = planted(method, batch_scale=batch_scale)
    assert cosines[0] < 0.6
    assert cosines[-1] > 0.95


def test_batch_scale_frees_the_slope_of_the_batch_size():
    def slope(rows, batch_scale):
        balancer = RotateOnly(heads=2, features=2, batch_scale=batch_scale)
        a, b = balancer.fork(torch.ones(rows, 2, requires_grad=True))
        balancer.backward([a[:, 0].mean(), b[:, 1].mean()], shared=[])
        return next(balancer.parameters()).grad.norm().item()

    assert slope(1000, True) == pytest.approx(slope(10, True), rel=1e-4)
    assert slope(1000, False) == pytest.approx(slope(10, False) / 100, rel=1e-4)


def test_rotates_the_leading_features_alone():
    balancer = RotateOnly(heads=1, features=3, rotation_size=2)
    with torch.no_grad():
        balancer.rotations.weight[0, 1, 0] = 2.0  # Cayley of [[0, −2], [2, 0]]: a quarter turn
    torch.testing.assert_close(balancer.rotation()[0], torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    (view,) = balancer.fork(torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(view, torch.tensor([[-2.0, 1.0, 3.0]]))


def test_a_cache_forms_the_rotations_once():
    balancer = RotateOnly(heads=2, features=3)
    calls, factors = [], balancer.rotations.factors
    balancer.rotations.factors = lambda: calls.append(1) or factors()
    x = torch.randn(4, 3)
    with balancer.cached():
        first, second = balancer.fork([x, x]), balancer.fork([2 * x, x])
        (sum(view.sum() for view in first) + sum(view.square().sum() for view in second)).backward()
        with balancer.cached(), torch.no_grad():
            balancer.fork(x)
    assert len(calls) == 1
    cached = next(balancer.parameters()).grad.clone()
    balancer.zero_grad()
    first, second = balancer.fork([x, x]), balancer.fork([2 * x, x])
    (sum(view.sum() for view in first) + sum(view.square().sum() for view in second)).backward()
    assert len(calls) == 3
    torch.testing.assert_close(next(balancer.parameters()).grad, cached)
    assert balancer._cached_factors is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda balancer: pickle.loads(pickle.dumps(balancer))])
def test_a_copy_made_while_the_rotations_are_cached_has_its_own(copied):
    balancer, x = RotateOnly(heads=2, features=3), torch.randn(4, 3)
    with balancer.cached():
        balancer.fork([x, x])
        other = copied(balancer)
        with torch.no_grad():
            other.rotations.weight.normal_()
        assert not other.fork([x, x])[0].equal(x)
        assert balancer.fork([x, x])[0].equal(x)
    other.fork([x, x])[0].sum().backward()
    assert balancer.rotations.weight.grad is None


def test_a_cache_filled_without_gradients_does_not_serve_training():
    balancer = RotateOnly(heads=2, features=3)
    with balancer.cached():
        with torch.no_grad():
            balancer.fork(torch.randn(4, 3))
        a, b = balancer.fork(torch.randn(4, 3))
        (a[:, 0] + b[:, 1]).sum().backward()
    assert next(balancer.parameters()).grad.norm() > 0


def test_normalized_losses_give_the_gradients_of_their_share_of_the_first():
    balancer = RotateOnly(normalize_losses=True)
    for value in (4.0, 8.0):
        x = torch.tensor([[value, 1.0]], requires_grad=True)
        towers = torch.ones(2, requires_grad=True)
        a, b = balancer.fork([x, x])
        balancer.backward([towers[0] * a[0, 0], towers[1] * (b[0, 1] - 1)], shared=[x])  # the second starts at 0
        torch.testing.assert_close(x.grad, torch.tensor([[0.25, 1.0]]))
        torch.testing.assert_close(towers.grad, torch.tensor([value / 4, 0.0]))
    assert balancer.initial_losses.tolist() == [4.0, 0.0]


def test_normalized_losses_are_one_per_head():
    balancer = RotateOnly(heads=2, features=1, normalize_losses=True)
    z = torch.ones(1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="RotateOnly needs one loss per head, got 1 losses and 2 heads"):
        balancer.backward([sum(balancer.fork(z)).sum()], shared=[z])


def test_works_under_a_plain_backward_and_is_part_of_the_models_state():
    trunk, balancer = nn.Linear(4, 3), RotateOnly(heads=2, features=3)
    model = nn.ModuleDict({"trunk": trunk, "fork": balancer})
    a, b = balancer(trunk(torch.randn(8, 4)))
    (a[:, 0].mean() + b[:, 1].mean()).backward()
    assert trunk.weight.grad.norm() > 0
    assert next(balancer.parameters()).grad.norm() > 0
    assert any(name.startswith("fork.rotations") for name in model.state_dict())


def test_an_optimizer_made_first_still_moves_what_double_precision_and_loading_change():
    balancer = RotateOnly(heads=2, features=3)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.1)
    other = pickle.loads(pickle.dumps(balancer))
    other.load_state_dict(balancer.state_dict())
    a, b = balancer.fork(torch.randn(4, 3, **DOUBLE))
    (a[:, 0] + b[:, 1]).sum().backward()
    optimizer.step()
    assert balancer.rotation().dtype == torch.float64
    assert (balancer.rotation() - other.rotation()).norm() > 0.01


def test_bfloat16_views_keep_their_type_and_rotations_theirs():
    balancer = RotateOnly(heads=2, features=3)
    z = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = balancer.fork(z)
        assert a.equal(z)
        kept = balancer.fork(z.float())[0]
    (a[:, 0].float() + b[:, 1].float()).sum().backward()
    assert (a.dtype, z.grad.dtype, kept.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert next(balancer.parameters()).grad.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_turned_rotations_are_loaded(method):
    balancer, fresh = method(heads=2, features=4, rotation_size=3), method(rotation_size=3)
    with torch.no_grad():
        balancer.rotations.weight.normal_()
    fresh.load_state_dict(balancer.state_dict())
    assert fresh.rotation().equal(balancer.rotation())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotation_size": 0}, "`rotation_size` must be an integer of at least 1, got 0"),
        ({"heads": 2, "features": 3, "rotation_size": 4}, "at most the views' 3 features, got 4"),
        ({"orthogonal_map": "householder"}, "`orthogonal_map` must be 'cayley' or 'matrix_exp', got 'householder'"),
        ({"heads": 2}, "must be passed together, got 2 and None"),
        ({"heads": 0, "features": 3}, "at least 1, got 0 and 3"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_refuses_arguments_out_of_range(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 6, 6), (3,), ()])
@pytest.mark.parametrize("method", METHODS)
def test_refuses_views_that_are_no_matrices(method, shape):
    message = (
        rf"{method.__name__} rotates views of shape \[B, D\], got \[{', '.join(map(str, shape))}\] for view 0: flatten"
    )
    for balancer in (method(), method(heads=2, features=3)):
        with pytest.raises(ValueError, match=message):
            balancer.fork([torch.zeros(shape)] * 2)


def test_refuses_views_of_another_shape():
    for batch_scale in (True, False):
        with pytest.raises(ValueError, match=r"share one shape \[B, D\], got \[\[2, 3\], \[4, 3\]\]"):
            RotateOnly(batch_scale=batch_scale).fork([torch.zeros(2, 3), torch.zeros(4, 3)])
    with pytest.raises(ValueError, match="made for 2 heads, 3 features; got 2 heads, 4 features"):
        RotateOnly(heads=2, features=3).fork(torch.zeros(2, 4))


def test_there_are_no_rotations_before_the_sizes_are_known():
    with pytest.raises(ValueError, match="no rotations before `setup`"):
        RotateOnly().rotation()
