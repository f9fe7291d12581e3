"""A balancer's repr shows its options, in a line or two."""

import pytest
from twins import BALANCERS

from recmtl.balance import MetaBalance, NormalizedSplitter


def test_shows_all_options():
    expected = "MetaBalance(relax_factor=0.5, beta=0.9, strategy='both', target='cvr')"
    assert repr(MetaBalance(relax_factor=0.5, target="cvr")) == expected


def test_state_is_no_option():
    assert "task_weights" not in repr(NormalizedSplitter(tasks=["ctr", "cvr"], task_weights=[1, 2]))


@pytest.mark.parametrize("method", BALANCERS)
def test_options_fit_two_lines(method):
    options = method().extra_repr()
    assert "\n" not in options
    assert len(options) <= 240
