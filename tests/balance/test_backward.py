"""Entries that are not finite are zeroed where they are, and counted by tensor."""

import torch

from recmtl.balance import zero_nonfinite_gradients


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
