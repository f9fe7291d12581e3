"""A step that is measured: how it was recorded, and its seconds, waits and memory."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from recmtl.data import Batch
from recmtl.train import Step
from recmtl.train.cuda_graph import WARM_UP_STEPS, GraphedStep, noted_waits

NOT_RECORDED = "the step is not recorded, each of its operations is launched: "  # begins the warning that says why
BURST = 10  # steps in a row, of which the host awaits the last alone


class Contender:
    """A step on batches that lie on the device, warmed up and recorded, unless it cannot be.

    Args:
        step: The step.
        batches: Batches of one size, taken in turns.

    Attributes:
        step: The step.
        recorded: ``yes``, or why it was not recorded.
        flop: Operations of the products of one step, in the forward and backward passes and in the balancer.
        peak_gib: The most memory that building, recording and running the step took, beside what was taken before.
    """

    def __init__(self, build: Callable[[], tuple[Step, Sequence[Batch]]]) -> None:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.step, batches = build()
        self._ready = itertools.cycle(batches)
        self.rows = len(batches[0])
        with caught_texts() as texts:
            self()
            with FlopCounterMode(display=False) as counter:
                self()
            for _ in range(WARM_UP_STEPS):
                self()
        self.flop = counter.get_total_flops()
        self.recorded = recorded(self.step, texts)
        torch.cuda.synchronize()
        self.peak_gib = (torch.cuda.max_memory_allocated() - before) / 2**30

    def __call__(self) -> Tensor:
        """Take a step on the next batch."""
        return self.step(next(self._ready))

    def burst(self) -> None:
        """Take a few steps without waiting for one."""
        for _ in range(BURST):
            self()

    def waits(self) -> list[str]:
        """Return where the host waits for the device in a step."""
        with noted_waits() as places:
            self()
        return places


@contextmanager
def caught_texts() -> Iterator[list[str]]:
    """Catch all warnings within the block; afterwards the list holds their texts."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught]


def recorded(step: Step, texts: Sequence[str]) -> str:
    """Return ``yes``, or why a step was not recorded, given the warnings of its first steps."""
    for text in texts:
        if text.startswith(NOT_RECORDED):
            return f"no: {text.removeprefix(NOT_RECORDED)}"
    return "yes" if isinstance(step._plain_or_recorded, GraphedStep) else "no: launched as asked"


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of a work, which is awaited."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of a work, after it was done twice."""
    return statistics.median([seconds(work) for _ in range(rounds + 2)][2:])


def beside(contender: Contender, plain: Contender, rounds: int) -> dict[str, Any]:
    """Return times of a contender and their ratio to a plain one's, with which it takes turns; a single step each."""
    both = [(seconds(contender), seconds(plain)) for _ in range(rounds + 2)][2:]
    taken = statistics.median(own for own, _ in both)
    pipelined = median_seconds(contender.burst, max(1, rounds // 3)) / BURST
    return {
        "recorded": contender.recorded,
        "step_ms": 1000 * taken,
        "pipelined_ms": 1000 * pipelined,
        "ratio": statistics.median(own / other for own, other in both),
        "rows_per_second": contender.rows / taken,
        "rows_per_second_pipelined": contender.rows / pipelined,
        "tflop_per_second": contender.flop / pipelined / 1e12,
        "peak_gib": contender.peak_gib,
    }


def free() -> None:
    """Free what recorded steps computed in."""
    gc.collect()
    torch.cuda.empty_cache()
