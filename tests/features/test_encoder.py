import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl.data import Batch, Loader
from recmtl.errors import OutOfMemoryError
from recmtl.features import EmbeddingTable, FeatureEncoder, PlainNumbers
from recmtl.features.encoder import default_width


def batch(data: recmtl.PreparedData, rows: int = 50) -> Batch:
    return next(Loader(data.train, rows).epoch())


def test_width_and_shape(small: recmtl.PreparedData) -> None:
    encoder = FeatureEncoder(small.schema, width=3)
    assert encoder.out_features == 5 + 3 + 4  # user has a width of its own, genres takes the encoder's, price
    assert encoder(batch(small)).shape == (50, 12)


@pytest.mark.parametrize(
    ("ids", "width"), [(2, 4), (4, 4), (5, 8), (16, 8), (17, 16), (64, 16), (65, 16), (10_000_000, 16)]
)
def test_width_follows_the_number_of_ids(ids: int, width: int) -> None:
    assert default_width(ids) == width


def test_each_width_has_a_table() -> None:
    frame = pd.DataFrame({"few": ["a", "b"] * 40, "many": range(80), "y": [0, 1] * 40})
    schema = recmtl.Schema([recmtl.Categorical("few"), recmtl.Categorical("many")], [recmtl.Task("t", "y")])
    data = recmtl.prepare(schema, frame, holdout=0)
    encoder = FeatureEncoder(data.schema)
    assert [tuple(table.weight.shape) for table in encoder.tables] == [(4, 4), (82, 16)]
    assert encoder(batch(data)).shape == (50, 20)


def test_rows_start_small_and_unknown_at_zero(aliexpress: recmtl.PreparedData) -> None:
    (table,) = FeatureEncoder(aliexpress.schema, width=16).tables
    starts = torch.tensor([0] + [b.size for b in aliexpress.schema.id_blocks]).cumsum(0)[:-1]
    assert (table.weight[starts] == 0).all()
    others = np.delete(table.weight.detach().numpy(), starts.numpy(), axis=0)
    assert others.std() == pytest.approx(0.01, rel=0.05)


def test_equals_one_embedding_per_feature(aliexpress: recmtl.PreparedData) -> None:
    encoder, rows = FeatureEncoder(aliexpress.schema, width=4, numeric=PlainNumbers), batch(aliexpress)
    (table,) = encoder.tables
    tables = table.weight.split([b.size for b in aliexpress.schema.id_blocks])
    expected = [
        torch.nn.functional.embedding(rows.ids[:, b.start], t)
        for b, t in zip(aliexpress.schema.id_blocks, tables, strict=True)
    ]
    assert torch.equal(encoder(rows), torch.cat([*expected, rows.numeric], dim=1))


def test_changing_one_feature_changes_its_embedding_alone(aliexpress: recmtl.PreparedData) -> None:
    encoder, rows = FeatureEncoder(aliexpress.schema, width=4), batch(aliexpress)
    torch.nn.init.normal_(encoder.tables[0].weight)
    for block in aliexpress.schema.id_blocks:
        changed = rows.ids.clone()
        changed[:, block.start] = (changed[:, block.start] + 1) % block.size
        difference = encoder(dataclasses.replace(rows, ids=changed)) - encoder(rows)
        columns = difference.abs().sum(0).nonzero().flatten()
        assert columns.tolist() == list(range(4 * block.start, 4 * block.start + 4))


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_multi_valued_features_are_pooled_over_their_elements(pooling: str) -> None:
    frame = pd.DataFrame({"tags": ["a|b|c", "b", "", None], "y": [0, 1, 0, 1]})
    schema = recmtl.Schema([recmtl.MultiCategorical("tags", pooling=pooling)], [recmtl.Task("t", "y")])
    data = recmtl.prepare(schema, frame, holdout=0.0)
    encoder = FeatureEncoder(data.schema, width=2)
    with torch.no_grad():  # unknown, missing, b (the most frequent), a, c
        encoder.tables[0].weight[:] = torch.tensor([[0, 0], [9, 9], [1, 2], [10, 20], [100, 200]])
    total = torch.tensor([[111.0, 222.0], [1, 2], [9, 9], [9, 9]])
    expected = total / torch.tensor([[3.0 if pooling == "mean" else 1.0], [1], [1], [1]])
    torch.testing.assert_close(encoder(batch(data)), expected)


def test_gradient_reaches_the_looked_up_rows_alone(small: recmtl.PreparedData) -> None:
    encoder, rows = FeatureEncoder(small.schema, width=3), batch(small, 2)
    encoder(rows).square().sum().backward()
    for table in encoder.tables:
        used = set(table._ids_in_table(rows.ids, rows.lists).tolist())
        touched = set(table.weight.grad.abs().sum(1).nonzero().flatten().tolist())
        assert touched <= used


def test_a_table_counts_feature_by_feature(aliexpress: recmtl.PreparedData) -> None:
    (shared,) = FeatureEncoder(aliexpress.schema, width=4, numeric=PlainNumbers).shared_tensors()
    assert shared.parts == 16
    sizes = [b.size for b in aliexpress.schema.id_blocks]
    assert torch.bincount(shared.part_of_row).tolist() == sizes


def test_numbers_alone_need_no_table() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0, 1, 0]})
    schema = recmtl.Schema([recmtl.Numeric("x", transform="none")], [recmtl.Task("t", "y")])
    data = recmtl.prepare(schema, frame, holdout=0.0)
    encoder = FeatureEncoder(data.schema, numeric=PlainNumbers)
    assert encoder.shared_tensors() == []
    assert encoder(batch(data)).flatten().tolist() == [1, 2, 3]


def test_a_width_below_one_is_refused(small: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="`width` must be at least 1, got 0"):
        FeatureEncoder(small.schema, width=0)


def test_tables_share_one_gather_per_width(small: recmtl.PreparedData) -> None:
    tables = FeatureEncoder(small.schema, width=5).tables
    assert len(tables) == 1
    assert isinstance(tables[0], EmbeddingTable)


@pytest.mark.parametrize(
    ("buckets", "message"), [([10**9], "give the feature fewer"), ([1 << 30] * 2, "a table can have")]
)
def test_tables_that_memory_does_not_hold(
    small: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch, buckets: list[int], message: str
) -> None:
    """They are refused before anything is allocated."""
    monkeypatch.setattr("recmtl.features.sharding.available_memory", lambda: 4 * 16 * 10**9)
    features = [recmtl.Categorical(f"user{i}", hash_buckets=size) for i, size in enumerate(buckets)]
    schema = dataclasses.replace(small.schema, schema=recmtl.Schema(features, small.schema.schema.tasks))
    with pytest.raises((ValueError, OutOfMemoryError), match=message):
        recmtl.FeatureEncoder(schema)
