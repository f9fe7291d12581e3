import torch

import recmtl
from recmtl.data import Loader


def test_each_view_is_its_own_mixture_of_the_experts(aliexpress: recmtl.PreparedData) -> None:
    model = recmtl.MMOE(aliexpress.schema, experts=3, layers=[8, 4])
    batch = next(Loader(aliexpress.train, 16).epoch())
    x = model.encoder(batch)
    gates, experts = model.gates(x), model.experts(x)
    for head, view in enumerate(model.trunk(batch)):
        expected = sum(gates[:, head, e, None] * experts[:, e] for e in range(3))
        torch.testing.assert_close(view, expected)


def test_gates_are_private_and_experts_shared(aliexpress: recmtl.PreparedData) -> None:
    model = recmtl.MMOE(aliexpress.schema, experts=3, layers=[8, 4])
    shared = {id(s.tensor) for s in model.shared().tensors}
    assert not shared & {id(p) for p in model.gates.parameters()}
    assert {id(p) for p in model.experts.parameters()} <= shared
    assert {id(w) for w in model.shared().last} <= shared
