import pytest

import recmtl
from recmtl.data import Loader


def test_every_head_reads_the_same_view(aliexpress: recmtl.PreparedData) -> None:
    model = recmtl.SharedBottom(aliexpress.schema, layers=[8, 4])
    views = model.trunk(next(Loader(aliexpress.train, 16).epoch()))
    assert len(views) == 2
    assert views[0] is views[1]
    assert [tuple(w.shape) for w in model.shared().last] == [(4, 8)]


def test_needs_a_layer(aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        recmtl.SharedBottom(aliexpress.schema, layers=[])
