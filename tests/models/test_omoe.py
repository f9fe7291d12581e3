"""OMoE beside the equation of its paper."""

import dataclasses

import pytest
import torch

import recmtl
from recmtl.data import Loader
from tests.models.one_by_one import expert, gate, mixture, same_in_value_and_gradient


def test_every_head_reads_the_mixture_of_one_gate(aliexpress: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    model = recmtl.OMoE(aliexpress.schema, experts=3, layers=[8, 4]).double()
    batch = next(Loader(aliexpress.train, 64).epoch())
    batch = dataclasses.replace(batch, numeric=batch.numeric.double())
    first, second = model.trunk(batch)
    assert first is second
    x = model.encoder(batch)
    twin = mixture(gate(model.gate, 0, x), [expert(model.experts, e, x) for e in range(3)])
    before = [p for name, p in model.named_parameters() if not name.startswith("heads.")]
    same_in_value_and_gradient([first], [twin], before)
    usage = model.expert_usage(batch)
    assert usage["ctr"] is usage["ctcvr"]


@pytest.mark.parametrize("cls", [recmtl.OMoE, recmtl.MMOE])
def test_needs_experts_with_a_layer(cls: type, aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="`experts` must be at least 1, got 0"):
        cls(aliexpress.schema, experts=0)
    with pytest.raises(ValueError, match="`layers` must hold at least one layer, got none"):
        cls(aliexpress.schema, layers=[])
