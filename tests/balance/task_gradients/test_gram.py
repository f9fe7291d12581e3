"""What all methods on the Gram matrix of whole gradients promise."""

import pytest
import torch
from twins import BALANCERS, Pass, twin_of

from recmtl.balance import GramBalancer, Sizes
from recmtl.balance.backward import masked
from recmtl.balance.task_gradients import gram as module

METHODS = [c for c in BALANCERS if issubclass(c, GramBalancer)]
PREFERRING = [c for c in METHODS if "preference" in c.__init__.__annotations__]
DOUBLE = {"dtype": torch.float64}
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
preferring = pytest.mark.parametrize("method", PREFERRING, ids=lambda method: method.__name__)


def random_slopes(K, n=9, seed=0):
    return torch.randn(K, n, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def losses_of(slopes, x):
    return [(x * slope).sum() + 1.0 + k for k, slope in enumerate(slopes)]


def combined(balancer, slopes):
    x = torch.zeros(slopes.shape[1], dtype=slopes.dtype, requires_grad=True)
    balancer.backward(losses_of(slopes, x), shared=[x])
    return x.grad


@every_method
@pytest.mark.parametrize("K", [2, 3, 8, 32])
def test_equals_the_twin(method, K):
    slopes = random_slopes(K, 40) * torch.logspace(0, 2, K, **DOUBLE)[:, None]
    slopes += 0.5 * slopes.norm(dim=1, keepdim=True) / 6 * torch.where(torch.arange(K) % 2 == 0, 1.0, -1.0)[:, None]
    balancer, x = method(), torch.zeros(40, **DOUBLE, requires_grad=True)
    twin = twin_of(balancer, Sizes(objectives=K, parts=1))
    twin(Pass([], lambda views: losses_of(slopes, x), [x], []))
    torch.testing.assert_close(combined(balancer, slopes), x.grad, rtol=1e-9, atol=1e-9 * x.grad.abs().max().item())
    torch.testing.assert_close(balancer.weights, twin.weights, rtol=1e-8, atol=1e-9)


@preferring
def test_preferences_equal_the_twin(method):
    slopes = random_slopes(4)
    slopes[2] = 0.0  # absent
    balancer, x = method(preference=[3.0, 1.0, 2.0, 0.5]), torch.zeros(9, **DOUBLE, requires_grad=True)
    twin = twin_of(balancer, Sizes(objectives=4, parts=1))
    twin(Pass([], lambda views: losses_of(slopes, x), [x], []))
    torch.testing.assert_close(combined(balancer, slopes), x.grad, rtol=1e-10, atol=1e-10)
    assert not combined(method(), slopes).allclose(x.grad, rtol=1e-3)


@every_method
def test_an_absent_task_changes_nothing_for_the_others(method):
    slopes, (first, second, third) = random_slopes(4), (method(), method(), method())
    expected = combined(first, slopes[[0, 1, 3]])
    slopes[2] = 0.0
    torch.testing.assert_close(combined(second, slopes), expected, rtol=1e-11, atol=1e-12)
    slopes[2] = torch.nan
    torch.testing.assert_close(combined(third, slopes), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(second.weights[[0, 1, 3]], first.weights, rtol=1e-9, atol=1e-12)


@every_method
@pytest.mark.parametrize("K", [2, 5, 32])
def test_singular_matrices_give_finite_weights(method, K):
    same = random_slopes(1).expand(K, -1)
    opposed = torch.cat([same[:1], -same[1:]])
    for slopes in (same, opposed, same.float(), opposed.float(), same * torch.logspace(0, 6, K, **DOUBLE)[:, None]):
        balancer = method()
        assert combined(balancer, slopes).isfinite().all()
        assert balancer.weights.isfinite().all()


@every_method
def test_more_tasks_than_the_solver_takes_are_refused(method):
    with pytest.raises(ValueError, match=f"{method.__name__} can balance at most 32 tasks, got 33"):
        combined(method(), random_slopes(33))


@preferring
@pytest.mark.parametrize("preference", [[-1.0, 2.0], [0, 0], [1.0, float("nan")], [1.0, float("inf")], [], 0.5, "ab"])
def test_preferences_that_are_no_shares(method, preference):
    with pytest.raises(ValueError, match=r"`preference` must hold (one number per task|numbers that|a number above 0)"):
        method(preference=preference)


@preferring
def test_a_preference_may_be_a_tensor(method):
    assert method(preference=torch.tensor([1.0, 2.0])).preference == [1.0, 2.0]


@preferring
def test_a_preference_of_another_length(method):
    with pytest.raises(ValueError, match="`preference` must hold one number for each of 3 tasks, got 2"):
        combined(method(preference=[1.0, 2.0]), random_slopes(3))


def test_cosines_of_absent_tasks():
    gram = torch.tensor([[4.0, 0.0, 3.0], [0.0, 0.0, 0.0], [3.0, 0.0, 9.0]], **DOUBLE)
    cosine, norms = module.cosines(gram, torch.tensor([True, False, True]))
    assert norms.tolist() == [2.0, 1.0, 3.0]
    assert cosine.tolist() == [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]]


def test_gradients_whose_squares_overflow_are_left_out():
    class Ones(GramBalancer):
        def _combine(self, gram, present):
            return masked(torch.ones_like(gram[0]), present)

    slopes = torch.tensor([[1.0, 2.0], [1e25, 0.0]])
    assert combined(Ones(), slopes).tolist() == [1.0, 2.0]
