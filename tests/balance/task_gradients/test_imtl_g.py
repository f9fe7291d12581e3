"""IMTL-G against hand-worked numbers and its invariants; its twin is in `test_gram`."""

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import IMTLG

DOUBLE = {"dtype": torch.float64}


def weights(slopes):
    balancer = IMTLG()
    combined(balancer, slopes)
    return balancer.weights


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [
        ([[1.0, 0.0], [0.0, 3.0]], [0.75, 0.25]),
        ([[2.0, 1.0], [2.0, 1.0]], [0.5, 0.5]),  # equal tasks
        ([[1.0, 0.0], [-2.0, 0.0]], [2 / 3, 1 / 3]),  # opposed tasks
    ],
)
def test_weights_by_hand(slopes, expected):
    assert weights(torch.tensor(slopes, **DOUBLE)).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("K", [2, 5, 32])
def test_the_step_has_one_component_along_every_gradient(K):
    slopes = random_slopes(K, 40) * torch.logspace(0, 3, K, **DOUBLE)[:, None]
    along = slopes @ combined(IMTLG(), slopes) / slopes.norm(dim=1)
    assert along.tolist() == pytest.approx([along[0].item()] * K, rel=1e-9)
    assert weights(slopes).sum().item() == pytest.approx(1.0)


def test_a_loss_1000_times_as_large_changes_no_direction():
    slopes, scale = random_slopes(4), torch.tensor([1.0, 1e3, 1.0, 1e-6], **DOUBLE)
    step, other = combined(IMTLG(), slopes), combined(IMTLG(), scale[:, None] * slopes)
    torch.testing.assert_close(step / step.norm(), other / other.norm(), rtol=1e-9, atol=1e-9)


def test_equal_gradients_in_float32_whose_rounded_matrix_is_indefinite():
    found = weights(random_slopes(1, 50_000).float().expand(16, -1))
    assert found.tolist() == pytest.approx([1 / 16] * 16, rel=0.1)
