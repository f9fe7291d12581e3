"""Rows that a GPU's memory does not hold: gathered into two pinned buffers, copied on a stream of their own."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from cuda_stand_in import LazyDevice, LazyEvent, LazyStream
from torch import Tensor

from recmtl.data import Loader, Rows, prepare
from recmtl.data import loader as loader_module
from recmtl.schema import Categorical, Numeric, Schema, Task
from recmtl.train.cuda_graph import tensors_of

ROWS, SIZE = 23, 3  # the last batch is one of two
BATCHES = 8
ORDERS = [None, *range(4)]  # in which the device works: as late as it may, or by chance


@pytest.fixture(scope="module")
def rows() -> Rows:
    frame = pd.DataFrame({"row": np.arange(ROWS, dtype=float), "c": np.arange(ROWS) % 7, "y": np.arange(ROWS) % 2})
    frame["w"] = frame["row"] / 4
    schema = Schema([Numeric("row", transform="none"), Categorical("c")], [Task("t", "y")], weight="w")
    return prepare(schema, frame, holdout=0).train


def read(device: LazyDevice, loader: Loader, epochs: int = 2) -> list[list[Tensor]]:
    """What steps read that are replayed: each from the same static inputs, when the device comes to it."""
    static: list[Tensor] = []
    found: list[list[Tensor]] = []

    def step(given: list[Tensor]) -> None:
        static[:] = [tensor.clone() for tensor in given]
        found.append([tensor.clone() for tensor in static])

    for epoch in range(epochs):
        for batch in loader.epoch(epoch):
            device.launch("step", partial(step, tensors_of(batch)))
    device.run()
    return found


def expected(rows: Rows, **options: int | None) -> list[list[Tensor]]:
    loader = Loader(rows, SIZE, "cpu", **options)
    return [tensors_of(batch) for epoch in range(2) for batch in loader.epoch(epoch)]


def equal(found: list[list[Tensor]], wanted: list[list[Tensor]]) -> bool:
    return len(found) == len(wanted) and all(
        len(mine) == len(theirs) and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "options", [{"seed": 1}, {}, {"seed": 1, "window": 4}], ids=["shuffled", "in order", "windows"]
)
def test_the_device_reads_what_a_cpu_reads(
    rows: Rows, options: dict[str, int], inference: bool, order: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "BLOCK_ROWS", 2)
    wanted = expected(rows, **options)
    device = LazyDevice(monkeypatch, order)
    with torch.inference_mode(inference):
        assert equal(read(device, Loader(rows, SIZE, "cuda", **options)), wanted)
    assert device.users == [device.stream] * 2 * BATCHES  # none is freed for another while a step reads it


@pytest.mark.parametrize(("kind", "wait"), [(LazyEvent, "synchronize"), (LazyStream, "wait_event")])
def test_without_a_wait_it_does_not(rows: Rows, kind: type, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in can fail: a buffer is refilled before its copy has ended, or a step reads before it."""
    wanted = expected(rows, seed=1)
    monkeypatch.setattr(kind, wait, lambda *_: None)
    assert not equal(read(LazyDevice(monkeypatch), Loader(rows, SIZE, "cuda", seed=1)), wanted)


@pytest.mark.parametrize("order", ORDERS)
def test_few_batches_lie_on_the_device(rows: Rows, order: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    device = LazyDevice(monkeypatch, order)
    read(device, Loader(rows, SIZE, "cuda", seed=1), epochs=1)
    copied = np.cumsum([entry == "copy" for entry in device.log])
    stepped = np.cumsum([entry == "step" for entry in device.log])
    assert copied[-1] == stepped[-1] == BATCHES
    assert (copied - stepped).min() >= 0
    assert (copied - stepped).max() <= 2


def test_an_epoch_that_is_left_early_leaves_no_thread(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    device = LazyDevice(monkeypatch)
    loader = Loader(rows, SIZE, "cuda", seed=1)
    wanted = expected(rows, seed=1)
    batches = loader.epoch()
    next(batches)
    batches.close()
    assert equal(read(device, loader), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"seed": 1}, {"seed": 1, "window": 4}], ids=["shuffled", "windows"])
def test_a_gpu_reads_what_a_cpu_reads(rows: Rows, options: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "BLOCK_ROWS", 2)
    wanted = expected(rows, **options)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 0))
    loader = Loader(rows, SIZE, "cuda", **options)
    static = [tensor.cuda() for tensor in wanted[0]]
    found: list[list[Tensor]] = []
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            for own, given in zip(static, tensors_of(batch), strict=True):
                own[: len(given)].copy_(given)
            found.append([own[: len(batch)].clone() for own in static])
    assert equal([[tensor.cpu() for tensor in tensors] for tensors in found], wanted)
