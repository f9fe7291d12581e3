"""Rows of which every model can be trained: with a funnel, and with a domain."""

import dataclasses
from pathlib import Path

import pytest

import recmtl


@pytest.fixture(scope="session")
def aliexpress(csv: Path) -> recmtl.PreparedData:
    """The generated rows, prepared by the AliExpress card, one of whose columns is taken for the domain."""
    card = dataclasses.replace(recmtl.card("aliexpress"), domain="categorical_2")
    return recmtl.prepare(card, csv / "train.csv", csv / "valid.csv", csv / "test.csv")
