"""Row mode of large tables: the same gradients as in dense mode, updates of the batch's rows only."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl.balance import Sum
from recmtl.data import Batch, Loader
from recmtl.features import EmbeddingTable, FeatureEncoder
from recmtl.features import table_rows as rows_module
from recmtl.features.table_rows import DistinctIds, distinct_ids, padded
from recmtl.train import Step
from recmtl.train import step as step_module
from recmtl.train.optimizers import SparseRowOptimizer, fused
from recmtl.train.options import Optimization
from recmtl.train.step import in_row_mode

OPTIMIZERS = [
    torch.optim.Adam,
    partial(torch.optim.AdamW, weight_decay=0.1),
    partial(torch.optim.Adam, amsgrad=True, weight_decay=0.01),
    partial(torch.optim.Adagrad, initial_accumulator_value=0.1),
    partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    torch.optim.SGD,
    partial(torch.optim.RMSprop, momentum=0.5, centered=True),
    torch.optim.NAdam,
]


def name(factory: object) -> str:
    return getattr(factory, "func", factory).__name__


def table_of(data: recmtl.PreparedData, width: int = 3) -> EmbeddingTable:
    torch.manual_seed(0)
    (table,) = FeatureEncoder(data.schema, width).tables
    return table.double()


def all_rows(table: EmbeddingTable) -> Tensor:
    """Ids in which every row of the table occurs, the same ones in turn: `[B, columns]`."""
    sizes = torch.diff(table.bounds)
    return (torch.arange(int(sizes.max()))[:, None] % sizes).int()


@pytest.mark.parametrize("factory", OPTIMIZERS, ids=name)
def test_with_all_rows_in_the_batch_it_equals_the_optimizer(factory: object, aliexpress: recmtl.PreparedData) -> None:
    by_rows, whole = table_of(aliexpress), table_of(aliexpress)
    mine, theirs = SparseRowOptimizer(by_rows, factory), factory([whole.weight])
    ids = all_rows(whole)
    random = torch.Generator().manual_seed(1)
    for _ in range(5):
        g = torch.randn(len(ids), by_rows.features, 3, generator=random, dtype=torch.float64)
        with in_row_mode([by_rows]):
            (by_rows(ids).singles * g).sum().backward()
            mine.step(theirs.param_groups[0]["lr"])
        theirs.zero_grad()
        (whole(ids).singles * g).sum().backward()
        theirs.step()
        torch.testing.assert_close(by_rows.weight, whole.weight, rtol=1e-12, atol=1e-14)


def test_adam_equals_torchs_sparse_adam(aliexpress: recmtl.PreparedData) -> None:
    table = table_of(aliexpress)
    embedding = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False, sparse=True)
    tiny = 1e-30  # the two add it at other places
    mine = SparseRowOptimizer(table, partial(torch.optim.Adam, eps=tiny))
    theirs = torch.optim.SparseAdam(embedding.parameters(), lr=0.01, eps=tiny)
    for batch in list(Loader(aliexpress.train, 7, seed=0).epoch())[:20]:  # most rows are in few batches
        g = torch.randn(7, table.features, 3, dtype=torch.float64)
        with in_row_mode([table]):
            (table(batch.ids).singles * g).sum().backward()
            mine.step(0.01)
        theirs.zero_grad()
        (embedding(batch.ids.index_select(1, table.columns) + table.offsets) * g).sum().backward()
        theirs.step()
        torch.testing.assert_close(table.weight, embedding.weight, rtol=1e-12, atol=1e-14)


def test_rows_that_are_not_in_the_batch_do_not_change(aliexpress: recmtl.PreparedData) -> None:
    table = table_of(aliexpress)
    optimizer = SparseRowOptimizer(table, partial(torch.optim.AdamW, weight_decay=0.5))
    for batch in list(Loader(aliexpress.train, 5, seed=0).epoch())[:4]:
        before = table.weight.detach().clone()
        with in_row_mode([table]):
            table(batch.ids).singles.square().sum().backward()
            optimizer.step(0.1)
        moved = (table.weight != before).any(1).nonzero().flatten().tolist()
        used = (batch.ids.index_select(1, table.columns) + table.offsets).unique().tolist()
        assert set(moved) <= set(used)
        assert len(moved) > 5
    assert table.weight.grad is None


def test_a_step_that_does_not_reach_the_table_changes_nothing(aliexpress: recmtl.PreparedData) -> None:
    """Not even at the first step, before the optimizer has any state."""
    table, other = table_of(aliexpress), table_of(aliexpress)
    optimizers = [SparseRowOptimizer(t, torch.optim.Adam) for t in (table, other)]
    ids = all_rows(table)
    for reached in (False, True, False, True):
        for t, optimizer in zip((table, other), optimizers, strict=True):
            if t is table or reached:
                with in_row_mode([t]):
                    output = t(ids).singles
                    if reached:
                        output.square().sum().backward()
                    optimizer.step(0.1)
        assert torch.equal(table.weight, other.weight)


def test_a_frozen_table_is_not_trained(aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0)
    model = recmtl.SharedBottom(aliexpress.schema, layers=[8])
    weight = model.encoder.tables[0].weight.requires_grad_(False)
    before = weight.clone()
    trainer = recmtl.Trainer(model, Sum(), run=recmtl.RunConfig(device="cpu"))
    Step(model, trainer.balancer, Optimization(), 1)(next(Loader(aliexpress.train, 64).epoch()))
    assert torch.equal(weight, before)


def test_an_optimizer_that_mixes_elements_is_refused(aliexpress: recmtl.PreparedData) -> None:
    table = table_of(aliexpress)
    with in_row_mode([table]):
        table(all_rows(table)).singles.sum().backward()
        with pytest.raises(ValueError, match="Adafactor cannot train a large embedding table"):
            SparseRowOptimizer(table, torch.optim.Adafactor).step(0.1)


def test_row_mode_is_off_outside_of_a_step(aliexpress: recmtl.PreparedData) -> None:
    table = table_of(aliexpress)
    ids = all_rows(table)
    with pytest.raises(RuntimeError, match="gathered no rows"):
        table.gathered  # noqa: B018
    with in_row_mode([table]):
        expected = table(ids).singles
        assert table.shared_tensors()[0].tensor is table.gathered.rows
        with torch.no_grad():
            assert torch.equal(table(ids).singles, expected)
    assert torch.equal(table(ids).singles, expected)
    assert table.shared_tensors()[0].tensor is table.weight
    table(ids).singles.sum().backward()
    assert table.weight.grad.any()


def test_a_table_that_is_used_directly_is_refused(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0)

    class Direct(recmtl.SharedBottom):
        def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
            return tuple(view + self.encoder.tables[0].weight.sum() for view in super().trunk(batch))

    trainer = recmtl.Trainer(Direct(aliexpress.schema, layers=[8]), run=recmtl.RunConfig(device="cpu"))
    step = Step(trainer.model, trainer.balancer, Optimization(), 1)
    with pytest.raises(RuntimeError, match="`weight` was also used directly"):
        step(next(Loader(aliexpress.train, 64).epoch()))


@pytest.mark.parametrize("find", [distinct_ids, padded])
def test_look_ups_of_one_step_read_the_same_rows(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch, find: Callable[[Tensor, int], DistinctIds]
) -> None:
    """The batch twice, and some of its rows in another order: the gradient is that of the whole table."""
    monkeypatch.setattr(rows_module, "distinct_ids", find)
    by_rows, whole = table_of(aliexpress), table_of(aliexpress)
    ids = next(Loader(aliexpress.train, 40, seed=0).epoch()).ids
    some = ids[[7, 3, 3]]

    def loss(table: EmbeddingTable) -> Tensor:
        again, few = table(ids).singles, table(some).singles
        return table(ids).singles.square().sum() + (again[5:8] * few).sum() + few.pow(3).sum()

    with in_row_mode([by_rows]):
        loss(by_rows).backward()
        gathered = by_rows.gathered
    loss(whole).backward()
    found = torch.zeros_like(by_rows.weight)
    gathered.put(found, gathered.rows.grad)
    torch.testing.assert_close(found, whole.weight.grad, rtol=1e-12, atol=1e-14)


def test_a_look_up_of_ids_that_the_first_one_did_not_have_is_refused(aliexpress: recmtl.PreparedData) -> None:
    table = table_of(aliexpress)
    first, second = (batch.ids for batch, _ in zip(Loader(aliexpress.train, 8, seed=0).epoch(), range(2), strict=False))
    with in_row_mode([table]):
        table(first)
        with pytest.raises(RuntimeError, match="look up all ids of the batch first"):
            table(second)


def test_fused_kernels_unless_the_user_chose() -> None:
    p = nn.Parameter(torch.zeros(1))
    assert fused(torch.optim.Adam([p])).param_groups[0]["fused"]
    assert not fused(torch.optim.Adam([p], foreach=True)).param_groups[0]["fused"]
    assert not fused(torch.optim.Adam([p], fused=False)).param_groups[0]["fused"]
    assert "fused" not in fused(torch.optim.NAdam([p])).param_groups[0]
    elsewhere = nn.Parameter(torch.zeros(1, device="meta"))
    assert fused(torch.optim.Adagrad([elsewhere])).param_groups[0]["fused"] is None


def steps(data: recmtl.PreparedData, options: Optimization, model: type = recmtl.MMOE) -> list[Tensor]:
    torch.manual_seed(0)
    sizes = {} if model is recmtl.ESMM else {"layers": [8]}
    trainer = recmtl.Trainer(model(data.schema, **sizes), Sum(), run=recmtl.RunConfig(device="cpu"))
    trainer.model.double()
    step = Step(trainer.model, trainer.balancer, options, 10)
    for batch in list(Loader(data.train, 64, seed=0).epoch())[:10]:
        step(Batch(batch.ids, batch.numeric.double(), batch.labels, batch.weight))
    return [p.detach() for p in trainer.model.parameters()]


@pytest.mark.parametrize("model", [recmtl.MMOE, recmtl.ESMM, recmtl.PLE])
def test_sgd_is_the_same_in_dense_and_row_mode(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch, model: type
) -> None:
    """Under plain SGD a row without a gradient does not change in either mode; clipping sees the same gradients."""
    options = Optimization(optimizer=partial(torch.optim.SGD, lr=1.0), clip_norm=0.05, schedule="cosine", warmup=0.2)
    dense = steps(aliexpress, options, model)
    monkeypatch.setattr(step_module, "ROW_MODE", 0)
    for a, b in zip(dense, steps(aliexpress, options, model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_large_table_is_trained_by_rows(aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW decays every row in dense mode, and only the batch's in row mode."""
    options = Optimization(optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=1.0))
    dense = steps(aliexpress, options)
    monkeypatch.setattr(step_module, "ROW_MODE", 0)
    assert not any(torch.allclose(a, b) for a, b in zip(dense[:1], steps(aliexpress, options)[:1], strict=True))
