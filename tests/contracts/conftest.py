"""Rows of which every model can be trained: with a funnel, and with a domain."""

import pytest

import recmtl


@pytest.fixture(scope="session")
def aliexpress(with_domain: recmtl.PreparedData) -> recmtl.PreparedData:
    """The generated rows with a domain."""
    return with_domain
