"""Encoders of a user: they read the embeddings of each feature, and what they train is shared."""

import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from together import in_threads
from torch import Tensor, nn

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.data import Batch, Loader
from recmtl.features import FeatureEncoder
from recmtl.models import Losses
from recmtl.train.step import in_row_mode

ROWS = 40


@pytest.fixture(scope="module")
def data() -> recmtl.PreparedData:
    """An item, a history of items, tags, an hour, numbers with and without knots, an indicator and label rates."""
    rng = np.random.default_rng(0)
    items = [f"i{i}" for i in range(12)]
    columns = {
        "item": rng.choice(items, ROWS),
        "seen": ["|".join(rng.choice(items, n)) for n in rng.integers(0, 6, ROWS)],
        "tags": ["|".join(rng.choice(["a", "b", "c"], n)) for n in rng.integers(1, 3, ROWS)],
        "time": pd.date_range("2024-01-01", periods=ROWS, freq="7h"),
        "price": np.where(rng.random(ROWS) < 0.2, np.nan, rng.normal(size=ROWS)),
        "plain": rng.normal(size=ROWS),
        "click": rng.integers(0, 2, ROWS),
        "like": rng.integers(0, 2, ROWS),
    }
    features = [
        recmtl.Categorical("item", label_rates=True),
        recmtl.MultiCategorical("seen", share_with="item"),
        recmtl.Numeric("price"),
        recmtl.MultiCategorical("tags", pooling="sum"),
        recmtl.Numeric("plain", transform="standardize"),
        recmtl.Timestamp("time", parts=("hour",)),
    ]
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("like", "like")]
    return recmtl.prepare(recmtl.Schema(features, tasks), pd.DataFrame(columns), holdout=0)


class Attention(FeatureEncoder):
    """Attention over fields beside the encoder's own output, and a scale that belongs to no layer."""

    def __init__(self, schema: recmtl.FittedSchema) -> None:
        super().__init__(schema, width=4)
        self.names = ["item", "seen", "tags", "time.hour"]
        self.query = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.out_features += 4

    def forward(self, batch: Batch) -> Tensor:
        fields = self.fields(batch)
        x = torch.stack([sum_of(fields[name]) for name in self.names], 1)  # [B, 4, d]
        attention = (self.query(x) @ x.mT).softmax(-1) @ x  # [B, 4, d]
        return torch.cat([super().forward(batch), attention.mean(1) * self.scale], 1)


class Wrapped(nn.Module):
    """A module that is no `FeatureEncoder` and says nothing of what is shared."""

    def __init__(self, schema: recmtl.FittedSchema) -> None:
        super().__init__()
        self.inner = Attention(schema)
        self.out = nn.Linear(self.inner.out_features, 5)
        self.out_features = 5

    def forward(self, batch: Batch) -> Tensor:
        return self.out(self.inner(batch))


def sum_of(field: recmtl.features.Field) -> Tensor:
    return field.values if field.mask is None else field.values.sum(1)


def model_of(data: recmtl.PreparedData, encoder: Callable[[recmtl.FittedSchema], nn.Module]) -> recmtl.SharedBottom:
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[6], encoder=encoder).double()
    for parameter in model.encoder.parameters():
        nn.init.normal_(parameter)
    return model


def batch_of(data: recmtl.PreparedData, rows: int = ROWS) -> Batch:
    batch = next(Loader(data.train, rows).epoch())
    return Batch(batch.ids, batch.numeric.double(), batch.labels, lists=batch.lists)


def test_fields_are_what_the_output_is_made_of(data: recmtl.PreparedData) -> None:
    encoder = FeatureEncoder(data.schema, width=4).double()
    nn.init.normal_(encoder.tables[0].weight)
    batch = batch_of(data)
    fields = encoder.fields(batch)
    pooled = {"seen": "mean", "tags": "sum"}
    names = ["item", "time.hour", "seen", "tags", "price", "plain", "price.missing", "item.label_rates"]
    assert list(fields) == names
    parts = []
    for name, (values, mask) in fields.items():
        assert (mask is not None) == (name in pooled)
        if mask is not None:
            assert values.shape == (ROWS, data.schema.lengths[name], 4) == (*mask.shape, 4)
            assert not values[~mask].any()
            values = values.sum(1) / (mask.sum(1, keepdim=True) if pooled[name] == "mean" else 1)
        parts.append(values)
    torch.testing.assert_close(torch.cat(parts, 1), encoder(batch), rtol=1e-12, atol=1e-14)


def test_fields_of_numbers_have_their_transform(data: recmtl.PreparedData) -> None:
    for numeric in (recmtl.features.PlainNumbers, recmtl.features.LinearEmbeddings, recmtl.features.SplineEmbeddings):
        fields = FeatureEncoder(data.schema, numeric=numeric).fields(next(Loader(data.train, ROWS).epoch()))
        spline, plain = numeric is recmtl.features.SplineEmbeddings, numeric is recmtl.features.PlainNumbers
        assert fields["price"].values.shape[1] == (1 if plain else 4 if spline else 8)
        assert fields["plain"].values.shape[1] == (1 if plain or spline else 8)


@pytest.mark.parametrize("encoder", [Attention, Wrapped])
def test_what_an_own_encoder_trains_is_shared(
    data: recmtl.PreparedData, encoder: Callable[[recmtl.FittedSchema], nn.Module]
) -> None:
    """Exactly the parameters before the heads that the gradient of each objective reaches."""
    model, batch = model_of(data, encoder), batch_of(data)
    losses = Losses(model.schema, model.objectives)(model(batch), batch)
    trunk = {n: p for n, p in model.named_parameters() if not n.startswith("heads.")}
    gradients = [torch.autograd.grad(x, trunk.values(), retain_graph=True, allow_unused=True) for x in losses.values()]
    reached = {n for n, *both in zip(trunk, *gradients, strict=True) if all(g is not None and g.any() for g in both)}
    shared = {id(tensor.tensor) for tensor in model.shared().tensors}
    assert {n for n, p in trunk.items() if id(p) in shared} == reached == set(trunk)


@pytest.mark.parametrize("encoder", [Attention, Wrapped])
@pytest.mark.parametrize("processes", [1, 2])
def test_row_mode_equals_dense_mode(
    data: recmtl.PreparedData, encoder: Callable[[recmtl.FittedSchema], nn.Module], processes: int
) -> None:
    """The tables are looked up twice in a step, also by two processes that share the batch."""
    whole = model_of(data, encoder)

    def compare(processes: ProcessGroup) -> None:
        dense, by_rows = copy.deepcopy(whole), copy.deepcopy(whole)
        batch = batch_of(data).part(processes)
        tables = [module for module in by_rows.modules() if isinstance(module, recmtl.features.EmbeddingTable)]

        def backward(model: recmtl.RankingModel) -> None:
            sum(Losses(model.schema, model.objectives)(model(batch), batch).values()).backward()

        backward(dense)
        with in_row_mode(tables, batch.share):
            backward(by_rows)
            shared = {id(tensor.tensor) for tensor in by_rows.shared().tensors}
            for table in tables:
                assert id(table.gathered.rows) in shared
                assert id(table.weight) not in shared
                table.weight.grad = torch.zeros_like(table.weight)
                table.gathered.put(table.weight.grad, table.gathered.rows.grad)
        for (name, mine), other in zip(by_rows.named_parameters(), dense.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-13, msg=name)

    in_threads(processes, compare)
