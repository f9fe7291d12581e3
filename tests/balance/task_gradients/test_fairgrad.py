"""FairGrad against hand-worked numbers and its equations; its twin is in `test_gram`."""

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import FairGrad, NashMTL

DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_orthogonal_gradients_by_hand(alpha, scale):
    # n²·w = w^(−1/α)
    balancer, slopes = FairGrad(alpha), scale * torch.diag(torch.tensor([1.0, 2.0, 8.0], **DOUBLE))
    combined(balancer, slopes)
    expected = [(scale * n) ** (-2 * alpha / (alpha + 1)) for n in (1.0, 2.0, 8.0)]
    assert balancer.weights.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_its_equations_hold(alpha):
    balancer, slopes = FairGrad(alpha), random_slopes(6)
    gains = slopes @ combined(balancer, slopes)
    assert gains.tolist() == pytest.approx((balancer.weights ** (-1 / alpha)).tolist(), rel=1e-5)


def test_alpha_1_is_nash_mtl():
    slopes = random_slopes(5)
    torch.testing.assert_close(combined(FairGrad(), slopes), combined(NashMTL(max_norm=None), slopes))


def test_the_least_gain_grows_with_alpha():
    slopes = random_slopes(4, 5)
    least = []
    for alpha in (0.2, 1.0, 5.0):
        step = combined(FairGrad(alpha), slopes)
        least.append((slopes @ step / step.norm()).min().item())
    assert least == sorted(least)


@pytest.mark.parametrize("alpha", [0.0, -1.0, 11.0, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=r"`alpha` must be in \[0.1, 10\], got"):
        FairGrad(alpha)
