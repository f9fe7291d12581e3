"""Sums over the parts of a shared tensor on a GPU: those of a loop, each part by itself, without atomic additions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import recmtl
from recmtl.balance import SharedTensor
from recmtl.balance import shared as shared_module
from recmtl.data import Batch, Loader
from recmtl.features import EmbeddingTable
from recmtl.features import table_rows as rows_module
from recmtl.features.table_rows import padded
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "on_host", lambda _: False)


def by_loop(values: Tensor, part_of_row: Tensor, parts: int) -> Tensor:
    return torch.stack([values[part_of_row == part].sum() for part in range(parts)])


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_the_sums_are_those_of_a_loop(as_on_a_gpu: None, ordered: bool, rows: int) -> None:
    random = torch.Generator().manual_seed(rows)
    part_of_row = 2 * torch.randint(0, 4, (rows,), generator=random)  # every other part has no row
    values = torch.randn(rows, generator=random, dtype=torch.float64)
    bounds = None
    if ordered:
        part_of_row = part_of_row.sort().values
        bounds = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(part_of_row, minlength=9).cumsum(0)])
    shared = SharedTensor(torch.zeros(rows, 1), 9, part_of_row, bounds)
    torch.testing.assert_close(shared.sums(values), by_loop(values, part_of_row, 9), rtol=1e-13, atol=1e-14)


def test_a_part_is_not_touched_by_the_values_of_others(as_on_a_gpu: None) -> None:
    """Differences of one cumulative sum would be NaN behind a NaN, and lose a small part behind a large one."""
    part_of_row = torch.arange(6).repeat_interleave(100)
    values = torch.tensor([1e30, 1e-30, float("nan"), 0.0, float("inf"), 1.0]).repeat_interleave(100)
    bounds = torch.arange(0, 700, 100)
    for given in (bounds, None):
        found = SharedTensor(torch.zeros(600, 1), 6, part_of_row, given).sums(values)
        expected = torch.tensor([1e32, 1e-28, float("nan"), 0.0, float("inf"), 100.0])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0, equal_nan=True)


def test_bounds_must_fit_the_parts() -> None:
    rows = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"`bounds` of it must have shape \(3,\), beside `part_of_row`, got \(2,\)"):
        SharedTensor(torch.zeros(3, 1), 2, rows, torch.zeros(2, dtype=torch.int64)).check("it")
    with pytest.raises(ValueError, match="beside `part_of_row`"):
        SharedTensor(torch.zeros(4, 1), 2, None, torch.zeros(3, dtype=torch.int64)).check("it")


@pytest.mark.parametrize("row_mode", [False, True])
def test_the_bounds_of_a_table_are_those_of_its_rows(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch, row_mode: bool
) -> None:
    """Also where spare slots repeat the last row, and where a feature's rows do not occur in the batch."""
    monkeypatch.setattr(rows_module, "distinct_ids", padded)
    table = EmbeddingTable(aliexpress.schema.id_blocks, 4)
    if row_mode:
        table.start_row_mode()
        table(next(Loader(aliexpress.train, 50, seed=0).epoch()).ids)
    (shared,) = table.shared_tensors()
    assert shared.bounds is not None
    shared.check("the table")
    assert shared.part_of_row.equal(torch.arange(shared.parts).repeat_interleave(shared.bounds.diff()))


class NoIndexAdd(TorchDispatchMode):
    """Refuses atomic additions of one number per row; the gradients of embeddings, `[rows, width]`, are added so."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "index_add" not in str(func) or args[0].dim() > 1
        self.sums += "segment_reduce" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("row_mode", [False, True])
def test_a_step_on_a_gpu_sums_no_parts_by_atomic_additions(
    aliexpress: recmtl.PreparedData, without_values: str, monkeypatch: pytest.MonkeyPatch, row_mode: bool
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    balancer = recmtl.PCGrad()
    trainer = recmtl.Trainer(recmtl.SharedBottom(aliexpress.schema), balancer, run=recmtl.RunConfig(device="cpu"))
    step = Step(trainer.model.to(without_values), trainer.balancer, Optimization(), 2)
    for batch in itertools.islice(Loader(aliexpress.train, 50).epoch(), 2):
        with NoIndexAdd() as seen:
            step(Batch(*(t.to(without_values) for t in (batch.ids, batch.numeric, batch.labels))))
    assert seen.sums > 0
