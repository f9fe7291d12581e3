"""A complex parameter trains as two real ones do."""

import pytest
import torch
from twins import BALANCERS

from recmtl.balance import (
    RepresentationBalancer,
    SharedTensor,
    gradient_stats,
    project_conflicting,
    zero_nonfinite_gradients,
)

K, ROWS = 3, 4
TARGETS = torch.randn(K, ROWS, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))


def losses(x, balancer=None, step=0):
    """Losses of a complex `[ROWS, 5]` that conflict; the last one reaches its first row alone."""
    views = [torch.view_as_real(x)] * K
    views = views if not isinstance(balancer, RepresentationBalancer) else balancer.fork([v.flatten(1) for v in views])
    found = []
    for k, view in enumerate(views):
        z = torch.view_as_complex(view.reshape(*x.shape, 2))
        z = z[:1] if k == K - 1 else z
        found.append(10.0**k * (z * (1 + step) - TARGETS[k, : len(z)]).abs().square().mean())
    return found


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("method", BALANCERS)
def test_gradients_are_those_of_the_real_and_imaginary_parts(method, parts):
    torch.manual_seed(0)
    w = torch.randn(ROWS, 5, dtype=torch.complex128, requires_grad=True)
    pair = torch.view_as_real(w.detach()).clone().requires_grad_()
    balancer, twin = method(), method()
    for one in (balancer, twin):
        one.setup(objectives=K, heads=K, features=10, parts=parts)
        one.double()
    for step in range(5):
        w.grad = pair.grad = None
        balancer.backward(losses(w, balancer, step), [SharedTensor(w, parts)], last=[w])
        twin.backward(losses(torch.view_as_complex(pair), twin, step), [SharedTensor(pair, parts)], last=[pair])
        torch.testing.assert_close(torch.view_as_real(w.grad), pair.grad, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(balancer.weights, twin.weights)


def test_norms_and_cosines_are_those_of_the_parts():
    w = torch.randn(ROWS, 5, dtype=torch.complex128, requires_grad=True)
    pair = torch.view_as_real(w.detach()).clone().requires_grad_()
    expected = gradient_stats(losses(torch.view_as_complex(pair)), [pair])
    for found, value in zip(gradient_stats(losses(w), [w]), expected, strict=True):
        torch.testing.assert_close(found, value)
    assert SharedTensor(w).products(None, w).dtype == SharedTensor(w).norms(None).dtype == torch.float64


@pytest.mark.parametrize("order", [None, torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2]])])
def test_projection(order):
    gradients = torch.randn(3, 4, dtype=torch.complex128)
    expected = project_conflicting(torch.view_as_real(gradients).flatten(1), order)
    torch.testing.assert_close(torch.view_as_real(project_conflicting(gradients, order)).flatten(1), expected)


def test_nonfinite_entries():
    x = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    x.grad = torch.tensor([complex(1, 2), complex(0, torch.nan)])
    assert zero_nonfinite_gradients([x]).tolist() == [True]
    assert x.grad.tolist() == [1 + 2j, 0]
    assert zero_nonfinite_gradients([x]).tolist() == [False]


@pytest.mark.parametrize("method", [c for c in BALANCERS if issubclass(c, RepresentationBalancer)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_views_are_real(method, dtype):
    with pytest.raises(ValueError, match=f"view 1 must hold real numbers, got {dtype}"):
        method().fork([torch.zeros(2, 3), torch.zeros(2, 3, dtype=dtype)])


def test_losses_are_real():
    x = torch.zeros((), dtype=torch.complex64, requires_grad=True)
    with pytest.raises(ValueError, match=r"loss 0 must be a real number, got torch\.complex64"):
        BALANCERS[0]().backward([x], [x])
