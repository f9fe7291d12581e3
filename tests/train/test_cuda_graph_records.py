"""Records that fail, and waits of the host: with a stand-in for torch.cuda, as every machine lacks a GPU at times."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable

import pytest
import tape
import torch
from cuda_stand_in import CudaStandIn
from torch import Tensor

from recmtl.data import Batch
from recmtl.train import cuda_graph
from recmtl.train.cuda_graph import WARM_UP_STEPS, CudaGraph, GraphedStep, sync_debug_mode


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaStandIn:
    monkeypatch.setattr(cuda_graph, "LIBRARIES", (*cuda_graph.LIBRARIES, tape.__file__))  # a part of the stand-in
    return CudaStandIn(monkeypatch)


def batch(rows: int = 4, weight: bool = False, sampling_weight: bool = False) -> Batch:
    ones = torch.ones(rows)
    return Batch(
        torch.ones(rows, 2, dtype=torch.int32),
        torch.arange(rows * 3.0).view(rows, 3),
        torch.zeros(rows, 1),
        ones if weight else None,
        sampling_weight=2 * ones if sampling_weight else None,
    )


def graphed(step: Callable[[Batch], Tensor]) -> GraphedStep:
    return GraphedStep(step, CudaGraph(torch.device("cuda")))


def total(batch: Batch) -> Tensor:
    return batch.numeric.sum()


def looking(batch: Batch) -> Tensor:
    found = total(batch)
    return found if found.item() > 0 else -found  # a look at a value


def looking_while_handled(batch: Batch) -> Tensor:
    try:
        raise LookupError("not in the cache")
    except LookupError:
        return looking(batch)


class BuggyError(ValueError):
    """An error of a user's module."""


def run(step: GraphedStep, steps: int = 8) -> list[float]:
    return [float(step(batch())) for _ in range(steps)]


def test_a_record_after_a_failed_one_works(cuda: CudaStandIn) -> None:
    with pytest.warns(UserWarning, match="the step is not recorded"):
        assert run(graphed(looking)) == [66.0] * 8
    torch.cuda.empty_cache()
    assert (cuda.open, cuda.users.total()) == ([], 0)
    again = graphed(total)
    assert run(again) == [66.0] * 8  # a warning would be an error
    assert (cuda.open, cuda.users.total()) == ([], 1)


def test_garbage_is_collected_before_a_record_not_within(cuda: CudaStandIn) -> None:
    """It may hold the graph of an earlier training."""
    gc.disable()
    try:
        garbage = graphed(total)
        garbage.itself = garbage  # type: ignore[attr-defined]
        left, found = weakref.ref(garbage), []
        del garbage
        run(graphed(lambda batch: found.append(left() is None) or total(batch)))
    finally:
        gc.enable()
    assert found == [False] * WARM_UP_STEPS + [True]


def test_without_the_release_the_allocator_stays_in_capture(cuda: CudaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in can fail."""
    monkeypatch.setattr(cuda_graph, "_release", lambda *_: None)
    with pytest.warns(UserWarning, match="the step is not recorded"):
        run(graphed(looking))
    with pytest.raises(RuntimeError, match="captures_underway"):
        torch.cuda.empty_cache()


def test_the_pool_of_a_graph_that_was_ended_is_released_once(cuda: CudaStandIn) -> None:
    """An error that is Python's leaves the capture valid: torch ends and releases it."""
    calls: list[int] = []

    def buggy(batch: Batch) -> Tensor:
        calls.append(1)
        if len(calls) == WARM_UP_STEPS + 1:
            raise RuntimeError("not in a record")
        return total(batch)

    with pytest.warns(UserWarning, match=r"not in a record \(in buggy, .*test_cuda_graph_records.py:\d+\)$"):
        assert run(graphed(buggy)) == [66.0] * 8
    assert (cuda.open, cuda.users.total()) == ([], 0)


def test_an_error_that_is_no_refusal_is_raised(cuda: CudaStandIn) -> None:
    def buggy(batch: Batch) -> Tensor:
        if cuda.open:
            raise BuggyError("a bug")
        return total(batch)

    step = graphed(buggy)
    for _ in range(WARM_UP_STEPS):
        step(batch())
    with pytest.raises(BuggyError, match="a bug"):
        step(batch())
    assert (cuda.open, cuda.users.total()) == ([], 0)


@pytest.mark.parametrize("step", [looking, looking_while_handled])
def test_the_warning_says_why_and_where_the_work_failed(cuda: CudaStandIn, step: Callable[[Batch], Tensor]) -> None:
    """Not that the record could not be ended, which is the second error, nor the error that a handler was at."""
    line = looking.__code__.co_firstlineno + 2
    place = rf"\(in looking, .*test_cuda_graph_records.py:{line}\)$"
    reason = "operation not permitted when a tape is recording"
    with pytest.warns(UserWarning, match=f"each of its operations is launched: {reason} {place}") as caught:
        run(graphed(step))
    assert len(caught) == 1


def test_waits_are_found_and_other_warnings_given(cuda: CudaStandIn) -> None:
    """Those of the debug mode itself, which torch gives once in a process, are not: here it is each time."""

    def waiting(batch: Batch) -> Tensor:
        if cuda.mode == "warn":
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
        return total(batch)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(graphed(waiting))
    texts = [str(warning.message) for warning in caught]
    assert texts[:-1] == ["something else"] * WARM_UP_STEPS
    line = waiting.__code__.co_firstlineno + 2
    assert f"launched: the host waits for the device in waiting, {__file__}:{line}" in texts[-1]


def test_the_sync_debug_mode_is_set_without_a_warning_and_put_back(cuda: CudaStandIn) -> None:
    with pytest.warns(UserWarning, match="prototype feature"):
        torch.cuda.set_sync_debug_mode(1)
    with sync_debug_mode("error"):
        assert cuda.mode == "error"
    assert cuda.mode == 1
    with pytest.raises(BuggyError), sync_debug_mode("warn"):
        raise BuggyError
    assert cuda.mode == 1


@pytest.mark.parametrize("first", [batch(2), batch(weight=True), batch(sampling_weight=True)])
def test_a_training_that_begins_with_another_layout_is_recorded(cuda: CudaStandIn, first: Batch) -> None:
    """As one that resumes at the short last batch of an epoch."""
    calls: list[int] = []
    step = graphed(lambda batch: calls.append(len(batch)) or total(batch))
    assert float(step(first)) == float(total(first))
    assert run(step) == [66.0] * 8
    assert calls[1:] == [4] * (WARM_UP_STEPS + 1)
    assert float(step(first)) == float(total(first))  # launched


def test_batches_with_other_weights_are_not_taken_for_those_of_the_record(cuda: CudaStandIn) -> None:
    """One with row weights has as many tensors, of the same shapes, as one with sampling weights."""

    def weighted(batch: Batch) -> Tensor:
        return batch.labels.sum() + sum(w.sum() for w in (batch.weight, batch.sampling_weight) if w is not None)

    step = graphed(weighted)
    found = [float(step(batch(weight=True))) for _ in range(6)]
    assert found == [4.0] * 6
    assert float(step(batch(sampling_weight=True))) == 8.0
