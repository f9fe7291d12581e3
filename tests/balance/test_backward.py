"""Entries that are not finite are zeroed where they are, and counted by tensor."""

import pytest
import torch

from recmtl.balance import backward as backward_module
from recmtl.balance import zero_nonfinite_gradients
from recmtl.balance.backward import masked


def with_gradient(values):
    tensor = torch.zeros(len(values), requires_grad=True)
    tensor.grad = torch.tensor(values)
    return tensor


def test_zeroes_the_bad_entries_alone_and_counts_their_tensors():
    good, bad, worse = (
        with_gradient([1.0, -2.0]),
        with_gradient([torch.nan, 3.0]),
        with_gradient([torch.inf, -torch.inf]),
    )
    before = bad.grad
    assert zero_nonfinite_gradients([good, bad, worse, torch.zeros(2)]).sum().item() == 2
    assert [t.grad.tolist() for t in (good, bad, worse)] == [[1.0, -2.0], [0.0, 3.0], [0.0, 0.0]]
    assert bad.grad is before


def test_large_finite_entries_stay():
    huge = with_gradient([3e38, -3e38])
    assert zero_nonfinite_gradients([huge]).sum().item() == 0
    assert huge.grad.tolist() == torch.tensor([3e38, -3e38]).tolist()


def test_nothing_to_look_at():
    assert zero_nonfinite_gradients([]).sum().item() == 0
    assert zero_nonfinite_gradients([torch.zeros(2, requires_grad=True), with_gradient([])]).sum().item() == 0


@pytest.mark.parametrize("small", [0, 6, 1 << 20])
def test_a_gpu_zeroes_nonfinite_entries_of_many_gradients_at_once(small, request, monkeypatch):
    """Gradients of several types and shapes, two that are missing; they stay the same tensors."""

    def gradients():
        random = torch.Generator().manual_seed(0)
        types = [torch.float32, torch.bfloat16, torch.float64, torch.complex64]
        shapes = [(), (3,), (2, 4), (5, 1), (0, 2), (7,)]
        found = [torch.randn(shape, generator=random).to(dtype) for dtype in types for shape in shapes]
        found[1][0], found[2][1, 3], found[7][2], found[14][0] = torch.nan, torch.inf, -torch.inf, torch.nan
        found[19][1] = complex(1.0, torch.nan)
        found[20] = found[20].T.contiguous().T
        return [torch.full((3,), 1e30), *found]

    def zeroed():
        tensors = [torch.zeros_like(gradient, requires_grad=True) for gradient in gradients()]
        for tensor, gradient in zip(tensors, gradients(), strict=True):
            tensor.grad = gradient
        tensors[4].grad = None
        before = [tensor.grad for tensor in tensors]
        bad = zero_nonfinite_gradients(tensors)
        assert all(tensor.grad is gradient for tensor, gradient in zip(tensors, before, strict=True))
        return bad, before

    expected_bad, expected = zeroed()
    request.getfixturevalue("on_a_device")
    monkeypatch.setattr(backward_module, "SMALL_GRADIENT", small)
    bad, found = zeroed()
    assert bad.tolist() == expected_bad.tolist()
    assert sum(bad.tolist()) == 5
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_number_takes_the_place_of_what_is_not_kept(dtype):
    """It is one tensor for all calls, which may be the first of an inference and then of a training."""
    backward_module._scalar.cache_clear()
    kept = torch.tensor([True, False, True])
    with torch.inference_mode():
        masked(torch.ones(3, dtype=dtype), kept)
    values = torch.tensor([1.0, torch.nan, -torch.inf], dtype=dtype, requires_grad=True)
    for other in (0.0, 1.0, torch.nan):
        found, expected = masked(values, kept, other), torch.where(kept, values, other)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert torch.autograd.grad(found.sum(), values)[0].tolist() == [1.0, 0.0, 1.0]
    assert backward_module._scalar.cache_info().misses == 3
