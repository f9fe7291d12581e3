"""GLS is the gradient of the geometric mean."""

import torch

from recmtl.balance import GLS


def step(balancer, *values):
    x = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    balancer.backward([v + x[k] if v else x[k] * 0.0 for k, v in enumerate(values)], shared=[x])
    return x.grad


def test_weights_by_hand():
    # L = (1·8·27)^(1/3) = 6; w = 6/(3·1), 6/(3·8), 6/(3·27)
    expected = torch.tensor([2.0, 0.25, 2 / 27], dtype=torch.float64)
    balancer = GLS()
    torch.testing.assert_close(step(balancer, 1.0, 8.0, 27.0), expected)
    torch.testing.assert_close(balancer.weights, expected)


def test_weighted_losses_are_equal_at_scales_a_million_apart():
    values = torch.tensor([1e-3, 5.0, 2e3], dtype=torch.float64)
    weighted = step(GLS(), *values.tolist()) * values
    torch.testing.assert_close(weighted, weighted[:1].expand(3))


def test_absent_tasks_take_no_part():
    balancer = GLS()
    found = step(balancer, 4.0, 0.0, 9.0)  # L = 6
    torch.testing.assert_close(found, torch.tensor([0.75, 0.0, 1 / 3], dtype=torch.float64))
    assert balancer.skipped.tolist() == [0, 0, 0]


def test_a_negative_loss_is_left_out_and_counted():
    balancer = GLS()
    torch.testing.assert_close(step(balancer, 4.0, -1.0, 9.0), step(GLS(), 4.0, 0.0, 9.0))
    assert balancer.skipped.tolist() == [0, 1, 0]
