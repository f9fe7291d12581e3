"""Nash-MTL against hand-worked numbers and its equations; its twin is in `test_gram`."""

from itertools import pairwise

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import NashMTL

DOUBLE = {"dtype": torch.float64}


def test_two_tasks_by_hand():
    # The cosine is 0.6: α_k = 1/(n_k·√1.6).
    balancer, slopes = NashMTL(max_norm=None), torch.tensor([[2.0, 0.0], [3.0, 4.0]], **DOUBLE)
    step = combined(balancer, slopes)
    assert balancer.weights.tolist() == pytest.approx([0.5 / 1.6**0.5, 0.2 / 1.6**0.5], rel=1e-7)
    assert step.tolist() == pytest.approx([1.6**0.5, 0.8 / 1.6**0.5], rel=1e-7)


@pytest.mark.parametrize("K", [2, 3, 8, 32])
def test_every_task_has_its_share_of_the_gain(K):
    balancer, slopes = NashMTL(max_norm=None), random_slopes(K, 40)
    step = combined(balancer, slopes)
    assert (balancer.weights * (slopes @ step)).tolist() == pytest.approx([1.0] * K, rel=1e-6)
    assert step.norm().item() == pytest.approx(K**0.5, rel=1e-6)


def test_a_loss_1000_times_as_large_changes_nothing():
    slopes, scale = random_slopes(4), torch.tensor([1.0, 1e3, 1.0, 1e-6], **DOUBLE)
    step = combined(NashMTL(), slopes)
    torch.testing.assert_close(combined(NashMTL(), scale[:, None] * slopes), step, rtol=1e-9, atol=1e-12)


def test_the_norm_is_limited():
    slopes = random_slopes(4)
    for limit, expected in ((0.5, 0.5), (1.0, 1.0), (5.0, 2.0), (None, 2.0)):
        assert combined(NashMTL(max_norm=limit), slopes).norm().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("device", ["cpu", "other"])
def test_a_solution_is_kept_until_the_next_is_due(device, monkeypatch):
    if device == "other":
        monkeypatch.setattr("recmtl.balance.task_gradients.nash_mtl.on_host", lambda tensor: False)
    balancer, kept = NashMTL(every=3, max_norm=None), []
    for seed in range(7):
        combined(balancer, random_slopes(3, seed=seed))
        kept.append(balancer.weights)
    assert [a.equal(b) for a, b in pairwise(kept)] == [True, True, False, True, True, False]
    fresh = NashMTL(max_norm=None)
    combined(fresh, random_slopes(3, seed=6))
    assert kept[6].tolist() == pytest.approx(fresh.weights.tolist())


def test_a_task_without_a_solution_gets_one_at_once():
    balancer, slopes = NashMTL(every=100), random_slopes(3)
    absent = slopes.clone()
    absent[1] = 0.0
    combined(balancer, absent)
    assert combined(balancer, slopes).tolist() == pytest.approx(combined(NashMTL(), slopes).tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "`every` must be an integer of at least 1, got 0"),
        ({"max_norm": 0.0}, "`max_norm` must be positive or None, got 0.0"),
        ({"max_norm": float("nan")}, "`max_norm` must be positive or None, got nan"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        NashMTL(**options)
