"""What a log reads of the device: everything by one copy, with a few operations for all weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from twins import BALANCERS

import recmtl
from recmtl.balance import Balancer
from recmtl.runs.folder import RunFolder
from recmtl.train import divergence, gradient_stats, loop, monitor
from recmtl.train.divergence import finite_by_tensor
from recmtl.train.monitor import host_copies

READS = ("tolist", "item", "__float__", "__int__", "__bool__", "__array__", "numpy")


class OnHost(Tensor):
    """What `host_copies` returned, and what is computed from it; all other tensors are taken for those of a GPU."""


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (divergence, monitor):
        monkeypatch.setattr(module, "on_host", lambda _: False)


def test_copies_are_exact_and_of_the_same_types(as_on_a_gpu: None) -> None:
    values: dict[str, Any] = {
        "counts": torch.tensor([[0, 2**53 - 1], [-1, 7]]),
        "losses": torch.tensor([1e-45, 3.4e38, float("nan"), float("-inf")]),
        "wide": torch.tensor(1 / 3, dtype=torch.float64),
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "finite": torch.tensor([True, False]),
        "none": None,
        "rate": 0.1,
        "empty": torch.ones(0, dtype=torch.bool),
    }
    found = host_copies(values)
    assert list(found) == list(values)
    for name, value in values.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
        else:
            assert found[name] is value


def test_on_a_cpu_nothing_is_copied() -> None:
    values = {"losses": torch.ones(2), "none": None, "rate": 0.1}
    assert all(found is value for found, value in zip(host_copies(values).values(), values.values(), strict=True))


@pytest.fixture
def reads(as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reads of the device while a step is logged: one for all that is copied together, and one for each other."""
    found: list[str] = []
    logging = [False]

    def copies(values: Mapping[str, Any]) -> dict[str, Any]:
        found.append("copies")
        logging[0], before = False, logging[0]
        read = host_copies(values)
        logging[0] = before
        return {name: v.as_subclass(OnHost) if isinstance(v, Tensor) else v for name, v in read.items()}

    def noted(name: str, self: Tensor, *arguments: Any) -> Any:
        if logging[0] and not isinstance(self, OnHost):
            found.append(name)
        return originals[name](self, *arguments)

    def logged(function: Callable[..., Any], *arguments: Any) -> Any:
        logging[0] = True
        try:
            return function(*arguments)
        finally:
            logging[0] = False

    originals = {name: getattr(Tensor, name) for name in READS}
    for module in (loop, gradient_stats):
        monkeypatch.setattr(module, "host_copies", copies)
    for name in READS:
        monkeypatch.setattr(Tensor, name, lambda self, *arguments, name=name: noted(name, self, *arguments))
    record_step = loop.TrainingLoop._record_step
    monkeypatch.setattr(loop.TrainingLoop, "_record_step", lambda self: logged(record_step, self))
    monkeypatch.setattr(loop, "diagnosis", partial(logged, gradient_stats.diagnosis))
    return found


def records(data: recmtl.PreparedData, method: type[Balancer], folder: Path) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    run = recmtl.RunConfig(folder=folder, device="cpu", log_every=2, progress=False)
    options = recmtl.Optimization(batch_size=300, optimizer=partial(torch.optim.Adam, lr=0.01))
    model = recmtl.MMOE(data.schema, layers=[8], tower_layers=[4], experts=2)
    trainer = recmtl.Trainer(model, method(), epochs=1, optimization=options, run=run, gradient_stats_every=4)
    trainer.fit(data.train)
    logged = RunFolder(folder).records()
    return [{k: v for k, v in record.items() if k != "rows_per_second"} for record in logged]


@pytest.mark.parametrize("method", BALANCERS, ids=lambda method: method.__name__)
def test_a_log_reads_the_device_once(
    method: type[Balancer], aliexpress: recmtl.PreparedData, reads: list[str], tmp_path: Path
) -> None:
    """8 steps, logged every second time, with gradient statistics in two of them."""
    found = records(aliexpress, method, tmp_path / "read")
    assert [name for name in reads if name != "copies"] == []
    assert len(reads) == len(found) == 6


def test_what_is_logged_is_the_same(
    aliexpress: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = records(aliexpress, recmtl.GradNorm, tmp_path / "cpu")
    for module in (divergence, monitor):
        monkeypatch.setattr(module, "on_host", lambda _: False)
    assert records(aliexpress, recmtl.GradNorm, tmp_path / "gpu") == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), float("-inf")])
def test_finite_tensors_are_told_from_others(as_on_a_gpu: None, dtype: torch.dtype, bad: float | None) -> None:
    """Large numbers, whose squares overflow, are finite."""
    tensors = [torch.zeros(3, dtype=dtype), torch.full((2, 2), 1e30, dtype=dtype), torch.ones((), dtype=torch.float64)]
    if bad is not None:
        tensors[1][0, 1] = bad
    assert finite_by_tensor(tensors).tolist() == [True, bad is None, True]
    assert finite_by_tensor([]).tolist() == []


class Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "detach" not in str(func)
        return func(*args, **(kwargs or {}))


def test_weights_are_looked_at_by_one_operation_for_all(without_values: str) -> None:
    """Four for each tensor before."""
    tensors = [torch.zeros(4, 4, device=without_values) for _ in range(50)]
    with Launches() as seen:
        finite_by_tensor(tensors)
    assert seen.count <= 6, seen.count
