"""Pooling of histories: held to a loop over rows and elements, alone and in models."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from together import in_threads
from torch import Tensor, nn

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.data import Batch, IdLists, Loader
from recmtl.errors import SchemaError
from recmtl.features import EmbeddingTable, FeatureEncoder
from recmtl.features import pooling as pooling_module
from recmtl.features.embedding_table import Lists
from recmtl.features.pooling import POOLINGS as POOLING_MODULES
from recmtl.features.pooling import SLOPE, SMALLEST, ListPooling, SelfAttentionPooling, TargetAttention
from recmtl.models import Losses
from recmtl.schema.fitted import MISSING
from recmtl.train import Step
from recmtl.train import step as step_module
from recmtl.train.step import in_row_mode

ROWS, WIDTH = 60, 4
POOLINGS = ["mean", "sum", "self_attention", "target_attention"]
MODELS = [recmtl.SharedBottom, recmtl.MMOE, recmtl.SingleTask]
each_pooling = pytest.mark.parametrize("pooling", POOLINGS)


def frame_of(rows: int = ROWS) -> pd.DataFrame:
    """Two histories, each with its item, one of them multi-hot; some rows have an empty history."""
    rng = np.random.default_rng(0)
    items, tags = [f"i{i}" for i in range(9)], ["a", "b", "c", "d"]
    columns = {
        "item": rng.choice(items, rows),
        "seen": ["|".join(rng.choice(items, n)) for n in rng.integers(0, 6, rows)],
        "tags": ["|".join(rng.choice(tags, n, replace=False)) for n in rng.integers(1, 3, rows)],
        "liked": ["|".join(rng.choice(tags, n)) for n in rng.integers(0, 4, rows)],
        "click": rng.integers(0, 2, rows),
        "buy": rng.integers(0, 2, rows),
    }
    return pd.DataFrame(columns)


def prepared(pooling: str, **options: object) -> recmtl.PreparedData:
    targets = {"seen": "item", "liked": "tags"} if pooling == "target_attention" else {}
    features = [
        recmtl.Categorical("item", width=WIDTH),
        recmtl.MultiCategorical("seen", pooling=pooling, target=targets.get("seen"), share_with="item"),
        recmtl.MultiCategorical("tags", width=WIDTH),
        recmtl.MultiCategorical("liked", pooling=pooling, target=targets.get("liked"), width=WIDTH),
    ]
    schema = recmtl.Schema(features, [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")])
    return recmtl.prepare(schema, frame_of(), holdout=0, **options)


def drawn(module: nn.Module) -> nn.Module:
    """In float64, with weights that matter."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter)
    return module


def batch_of(data: recmtl.PreparedData) -> Batch:
    batch = next(Loader(data.train, ROWS).epoch())
    return dataclasses.replace(batch, numeric=batch.numeric.double(), labels=batch.labels.double())


def by_hand(pool: ListPooling, elements: list[Tensor], target: Tensor | None) -> Tensor:
    """The formula of each pooling, element by element."""
    if isinstance(pool, SelfAttentionPooling):
        query = pool.query.weight[0]
        scores = [(query @ torch.tanh(pool.key.weight @ e)).exp() for e in elements]
        return sum(score / sum(scores) * e for score, e in zip(scores, elements, strict=True))
    if isinstance(pool, TargetAttention):
        total = torch.zeros_like(target)
        for e in elements:
            unit = pool.hidden.weight @ torch.cat([e, target, e - target, e * target]) + pool.hidden.bias
            unit = torch.where(unit > 0, unit, SLOPE * unit)
            cosine = (e @ target) / ((e @ e + WIDTH * SMALLEST) * (target @ target + WIDTH * SMALLEST)).sqrt()
            total = total + (pool.output.weight[0] @ unit + pool.output.bias[0] + pool.gain * WIDTH**0.5 * cosine) * e
        return total
    return sum(elements) / (len(elements) if type(pool).__name__ == "MeanPooling" else 1)


def rows_by_hand(encoder: FeatureEncoder, data: recmtl.PreparedData) -> Iterator[Tensor]:
    """The encoder's output, row by row, from the table of each feature and the raw lists."""
    (table,) = encoder.tables
    of = {block.name: encoder.tables[0].weight[slice(*rows)] for block, rows in spans(table, data).items()}
    words = {name: data.schema.vocabularies[name].to_pylist() for name in ("item", "tags", "liked")}
    frame, pools = frame_of(), dict(zip(("seen", "tags", "liked"), encoder.pools, strict=True))
    for row in frame.itertuples():

        def embedded(name: str, vocabulary: str, text: str) -> list[Tensor]:
            ids = [words[vocabulary].index(word) + 2 for word in filter(None, text.split("|"))] or [MISSING]
            return [of[name][i] for i in ids]

        (item,) = embedded("item", "item", row.item)
        tags = embedded("tags", "tags", row.tags)
        target = {"seen": item, "liked": sum(tags) / len(tags)}
        lists = {
            "seen": embedded("item", "item", row.seen),
            "tags": tags,
            "liked": embedded("liked", "liked", row.liked),
        }
        yield torch.cat([item, *(by_hand(pools[n], elements, target.get(n)) for n, elements in lists.items())])


def spans(table: EmbeddingTable, data: recmtl.PreparedData) -> dict[object, tuple[int, int]]:
    found, start = {}, 0
    for block in (b for b in data.schema.id_blocks if b.name != "seen"):
        index = ["item", "tags", "liked"].index(block.name)
        start = int(table.bounds[index])
        found[block] = (start, start + block.size)
    return found


@each_pooling
def test_equals_the_formula_row_by_row(pooling: str) -> None:
    """With gradients, in float64; an empty history is the embedding of "missing", pooled as one element."""
    data = prepared(pooling)
    encoder = drawn(FeatureEncoder(data.schema))
    found = encoder(batch_of(data))
    expected = torch.stack(list(rows_by_hand(encoder, data)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    g, parameters = torch.randn_like(found), list(encoder.parameters())
    for mine, other in zip(*(torch.autograd.grad((x * g).sum(), parameters) for x in (found, expected)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@each_pooling
@pytest.mark.parametrize("processes", [1, 2])
def test_row_mode_equals_dense_mode(pooling: str, processes: int) -> None:
    """Also in processes that share a batch."""
    data = prepared(pooling)
    whole = drawn(recmtl.SharedBottom(data.schema, layers=[5]))

    def compare(processes: ProcessGroup) -> None:
        dense, by_rows = copy.deepcopy(whole), copy.deepcopy(whole)
        batch = batch_of(data).part(processes)

        def backward(model: recmtl.RankingModel) -> None:
            sum(Losses(model.schema, model.objectives)(model(batch), batch).values()).backward()

        backward(dense)
        with in_row_mode(by_rows.encoder.tables, batch.share):
            backward(by_rows)
            for table in by_rows.encoder.tables:
                table.weight.grad = torch.zeros_like(table.weight)
                table.gathered.put(table.weight.grad, table.gathered.rows.grad)
        for mine, other in zip(by_rows.parameters(), dense.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)

    in_threads(processes, compare)


@each_pooling
@pytest.mark.parametrize("model", MODELS)
def test_what_pools_a_history_is_trained_and_shared(
    model: type[recmtl.RankingModel], pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16, in row mode, with an ensemble of two."""
    monkeypatch.setattr(step_module, "ROW_MODE", 0)
    data = prepared(pooling)
    torch.manual_seed(0)
    style = recmtl.LayerStyle(ensemble=2, activation="tanh")
    trained = model(data.schema, layers=[8], style=style)
    trainer = recmtl.Trainer(trained, run=recmtl.RunConfig(progress=False, device="cpu"))
    options = recmtl.Optimization(precision="bf16", optimizer=torch.optim.Adam)
    step = Step(trained, trainer.balancer, options, 20)
    before = copy.deepcopy(trained.state_dict())
    batch = next(Loader(data.train, ROWS).epoch())
    first = step(batch)
    for _ in range(12):
        last = step(batch)
    assert (last < first).all()
    pools = {name: p for name, p in trained.named_parameters() if ".pools." in name}
    assert bool(pools) == ("attention" in pooling)
    assert all(not torch.equal(before[name], p) for name, p in pools.items())
    if model is not recmtl.SingleTask:
        assert {id(p) for p in pools.values()} <= {id(tensor.tensor) for tensor in trained.shared().tensors}


class Served(nn.Module):
    def __init__(self, model: recmtl.RankingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, numeric: Tensor, lists: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        found = tuple(IdLists.of_lengths(*own) for own in lists)
        return self.model(Batch(ids, numeric, labels=numeric[:, :0], lists=found))


@each_pooling
def test_is_exported_for_any_number_of_rows(pooling: str) -> None:
    data = prepared(pooling)
    model = drawn(recmtl.MMOE(data.schema, layers=[5])).eval().fold()
    batch = batch_of(data)
    rows = torch.export.Dim("rows")
    lists = [({0: torch.export.Dim(f"values{i}")}, {0: rows}) for i in range(3)]
    shapes = {"ids": {0: rows}, "numeric": {0: rows}, "lists": lists}
    inputs = inputs_of(batch)
    served = torch.export.export(Served(model), inputs, dynamic_shapes=shapes).module()
    for few in inputs, inputs_of(next(Loader(data.train, 1).epoch())):
        for name, logits in served(*few).items():
            torch.testing.assert_close(logits, Served(model)(*few)[name])


def inputs_of(batch: Batch) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    return batch.ids.clone(), batch.numeric.double(), [(own.values.clone(), own.offsets.diff()) for own in batch.lists]


@pytest.mark.parametrize("build", [SelfAttentionPooling, TargetAttention])
@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 2, 1], [4, 0, 3], [9, 1, 1]])
def test_attention_is_the_same_padded_or_not(
    build: type[ListPooling], lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padded lists have a backward of their own; the item of the rows is trained as well."""
    pool, target = drawn(build(4)), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    values = torch.randn(sum(lengths), 4, dtype=torch.float64, requires_grad=True)
    lists = Lists(values, torch.tensor([0, *lengths]).cumsum(0))
    trained = [values, *pool.parameters(), *([target] if build is TargetAttention else [])]
    assert bool(pooling_module.longest_if_filled(lists)) == (max(lengths) < 9)
    found = []
    for longest in (lambda _: 0, lambda _: max(lengths)):
        monkeypatch.setattr(pooling_module, "longest_if_filled", longest)
        pooled = pool(lists, target)
        found.append([pooled, *torch.autograd.grad(pooled.square().sum(), trained)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("longest", [0, 2])
def test_self_attention_learns_nothing_of_lists_with_one_element(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit: a task whose gradient is 0 takes no part in balancing, and rounding errors would count."""
    monkeypatch.setattr(pooling_module, "longest_if_filled", lambda _: longest)
    pool, values = drawn(SelfAttentionPooling(4)), torch.randn(20, 4, dtype=torch.float64)
    pool(Lists(values, torch.arange(21))).square().sum().backward()
    for parameter in pool.parameters():
        assert parameter.grad is not None
        assert parameter.grad.eq(0).all()


def test_an_empty_list_and_spare_elements() -> None:
    """A list without any element, which data never have, is pooled to zeros; spare elements change nothing."""
    values, offsets, target = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 2, 2, 5]), torch.randn(3, 4)
    for build in POOLING_MODULES.values():
        pool, item = drawn(build(4)), target.double()
        found = pool(Lists(values, offsets), item)
        assert not found[1].any()
        with_spare = pool(Lists(torch.cat([values, torch.ones(2, 4).double()]), offsets), item)
        torch.testing.assert_close(with_spare, found, rtol=1e-12, atol=1e-12)


def history(**options: object) -> recmtl.MultiCategorical:
    return recmtl.MultiCategorical("seen", **{"pooling": "target_attention"} | options)


def schema_of(*features: object) -> recmtl.Schema:
    return recmtl.Schema([*features], [recmtl.Task("ctr", "click")])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: history(), r"'seen': `target_attention` needs `target`, the feature of the row's own item"),
        (lambda: history(pooling="mean", target="item"), r"`target` is for `pooling: target_attention`, got 'mean'"),
        (lambda: schema_of(history(target="item")), "target of history 'seen' is 'item', which is not a feature"),
        (lambda: schema_of(history(target="seen")), "'seen', which is the history itself"),
        (
            lambda: schema_of(recmtl.Numeric("price"), history(target="price")),
            "target of history 'seen' is 'price', which is not categorical",
        ),
        (
            lambda: schema_of(recmtl.MultiCategorical("tags", pooling="sum"), history(target="tags")),
            "'tags', which is a list with `pooling: sum`, where a list must have `mean`",
        ),
        (
            lambda: recmtl.Schema.from_dict({
                "features": [{"categorical": "seen", "pooling": "target_attention"}],
                "tasks": [{"name": "ctr", "label": "click"}],
            }),
            "unknown option 'pooling' of a Categorical: a MultiCategorical has it",
        ),
    ],
)  # fmt: skip
def test_bad_input(build: Callable[[], object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build()


def test_widths_that_differ() -> None:
    features = [recmtl.Categorical("item", width=4), history(target="item", width=8)]
    data = recmtl.prepare(schema_of(*features), frame_of(), holdout=0)
    expected = "history 'seen' has embeddings of width 8, its target 'item' of width 4: set one `width` for both, or"
    with pytest.raises(ValueError, match=expected):
        FeatureEncoder(data.schema)


def test_a_frozen_item_and_its_history(tmp_path: Path) -> None:
    """The item has a table of its own, as it is not trained."""
    features = [recmtl.Categorical("item", width=2), history(target="item", width=2)]
    data = recmtl.prepare(schema_of(*features), frame_of(), holdout=0)
    vectors = tmp_path / "vectors.csv"
    pd.DataFrame({"item": [f"i{i}" for i in range(9)], "x": range(9), "y": 1.0}).to_csv(vectors, index=False)
    encoder = FeatureEncoder(data.schema, pretrained={"item": vectors}, freeze=True)
    encoder(batch := next(Loader(data.train, ROWS).epoch())).sum().backward()
    assert [table.weight.grad is None for table in encoder.tables] == [False, True]
    target = encoder.fields(batch)["item"].values
    assert target[:, 1].eq(1).all()
    lists = encoder.tables[0](batch.ids, batch.lists).lists[0]
    torch.testing.assert_close(encoder(batch)[:, :2], encoder.pools[0](lists, target))
