"""Recorded steps held to launched ones, in float64: every balancer, and what happens beside whole batches."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import recmtl
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.contender import caught_texts, recorded
from benchmarks.gpu.sections import Row, attempted
from recmtl.data import Batch, Loader
from recmtl.train import Step
from recmtl.train import step as step_module
from recmtl.train.cuda_graph import WARM_UP_STEPS, CudaGraph, sync_debug_mode
from recmtl.train.device import attribute_set

ROWS, SHORT = 50, 17  # of whole batches, and of short ones
RTOL, ATOL = 1e-6, 1e-8  # float64, through steps whose sums on a GPU have no fixed order
# Rates that float32 holds exactly: those of recorded steps are float32 tensors.
ADAM, ROTATION_RATE = partial(torch.optim.Adam, lr=2**-7, eps=1e-6), 2**-13
STANDING = partial(torch.optim.SGD, lr=0.0)  # weights stay: losses differ by dropout alone
MODES = {"dense": 1 << 40, "rows": 0}  # elements of a table above which a step gathers its rows
Optimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Twin:
    """A small model in float64 and its step.

    Args:
        bench: The device and the rows.
        balancer: The name of the balancer.
        mode: ``dense`` or ``rows``.
        record: Record the step, or launch each operation.
        optimizer: Of the model.
        dropout: Of the model.
    """

    def __init__(
        self,
        bench: Bench,
        balancer: str,
        mode: str,
        record: bool,
        optimizer: Optimizer = ADAM,
        dropout: float = 0.0,
    ) -> None:
        torch.manual_seed(0)
        style = recmtl.LayerStyle(normalization="batch", dropout=dropout)
        model = recmtl.MMOE(bench.data.schema, 2, [16, 8], style=style)
        trainer = recmtl.Trainer(model, getattr(recmtl, balancer)(), run=recmtl.RunConfig(device="cpu", progress=False))
        self.model = trainer.model.to(bench.device, torch.float64)
        on_gpu = bench.device != "cpu"
        options = recmtl.Optimization(
            optimizer=optimizer, balancer_rate=ROTATION_RATE, cuda_graph=None if record or not on_gpu else False
        )
        graph = CudaGraph(torch.device(bench.device)) if record and not on_gpu else None
        with attribute_set(step_module, "ROW_MODE", MODES[mode]):
            self.step = Step(self.model, trainer.balancer, options, 1, graph)

    def steps(self, batches: Iterable[Batch], stats_every: int = 0) -> list[Tensor]:
        """Take steps; return the losses of each, and what is measured of gradients after every so many."""
        found = []
        for number, batch in enumerate(batches):
            with_stats = bool(stats_every) and number % stats_every == 0
            found.append(self.step(batch, with_stats))
            if with_stats and self.step.gradient_stats is not None:
                found += self.step.gradient_stats
        return found

    def state(self) -> dict[str, Any]:
        """Return a copy of the states of model and step."""
        return copy.deepcopy({"model": self.model.state_dict(), "step": self.step.state_dict()})

    def load(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.step.load_state_dict(state["step"])


def whole_batches(bench: Bench) -> list[Batch]:
    """Return batches in float64 on the device."""
    given = itertools.islice(Loader(bench.data.train, ROWS, seed=0).epoch(), 5)
    return [
        Batch(b.ids.to(bench.device), b.numeric.to(bench.device).double(), b.labels.to(bench.device).double())
        for b in given
        if len(b) == ROWS
    ]


def short(batch: Batch) -> Batch:
    return Batch(batch.ids[:SHORT], batch.numeric[:SHORT], batch.labels[:SHORT])


def held(bench: Bench, balancer: str, mode: str, batches: Sequence[Batch], stats_every: int = 0) -> dict[str, Any]:
    """Take the same steps recorded and launched; none after the record may wait. Return what differs."""
    first, then = batches[: WARM_UP_STEPS + 1], batches[WARM_UP_STEPS + 1 :]
    found, text = [], ""
    for record in (True, False):
        twin = Twin(bench, balancer, mode, record)
        with caught_texts() as texts:
            losses = twin.steps(first)
        if record:
            text = recorded(twin.step, texts)
            with sync_debug_mode("error"):
                losses += twin.steps(then, stats_every)
        else:
            losses += twin.steps(then, stats_every)
        found.append([*losses, *(t for t in twin.model.state_dict().values() if isinstance(t, Tensor))])
    return {"recorded": text, **differing(text, *found)}


def differing(text: str, own: Sequence[Tensor], other: Sequence[Tensor]) -> dict[str, Any]:
    """Return the largest difference, and what failed."""
    pairs = [(a.double(), b.double()) for a, b in zip(own, other, strict=True)]
    largest = max(float((a - b).abs().max()) for a, b in pairs if a.numel())
    apart = sum(not torch.allclose(a, b, rtol=RTOL, atol=ATOL) for a, b in pairs)
    values: dict[str, Any] = {"largest_difference": largest}
    if apart or text != "yes":
        values["failed"] = f"{apart} of {len(pairs)} tensors differ; recorded: {text}"
    return values


def balancers(bench: Bench) -> Iterator[Row]:
    """Hold every balancer to its launched twin, with whole tables and with gathered rows."""
    whole = whole_batches(bench)
    taken = list(itertools.islice(itertools.cycle(whole), WARM_UP_STEPS + 1 + bench.form.replays))
    for name in bench.balancers:
        for mode in MODES:
            yield attempted(f"{name}, {mode}", partial(held, bench, name, mode, taken))


def other_steps(bench: Bench) -> Iterator[Row]:
    """Take steps that are measured, short batches, steps after a resume, and steps with dropout."""
    whole = whole_batches(bench)
    taken = list(itertools.islice(itertools.cycle(whole), WARM_UP_STEPS + 21))
    with_short = [short(b) if number > WARM_UP_STEPS and number % 4 == 0 else b for number, b in enumerate(taken)]
    for name in bench.form.balancers:
        for mode in MODES:
            yield attempted(f"measured gradients, {name}, {mode}", partial(held, bench, name, mode, taken, 5))
            yield attempted(f"short batches, {name}, {mode}", partial(held, bench, name, mode, with_short))
            yield attempted(f"resumed, {name}, {mode}", partial(resumed, bench, name, mode, with_short))
    yield attempted("dropout", partial(dropped, bench, whole[0]))


def resumed(bench: Bench, balancer: str, mode: str, batches: Sequence[Batch]) -> dict[str, Any]:
    """Go on from a state with another model and step, at a short batch; hold them to the training that went on."""
    middle = next(number for number, batch in enumerate(batches) if len(batch) == SHORT)
    first, then = Twin(bench, balancer, mode, record=True), Twin(bench, balancer, mode, record=True)
    with caught_texts() as texts:
        first.steps(batches[:middle])
        then.load(first.state())
        own = then.steps(batches[middle:])
        other = first.steps(batches[middle:])
    text = recorded(then.step, texts)
    return {"recorded": text, **differing(text, own, other)}


def dropped(bench: Bench, batch: Batch) -> dict[str, Any]:
    """Replay a step with dropout whose weights stand still: each draws anew, and the mean is that of launched ones."""
    losses, texts_of = {}, []
    for record in (True, False):
        twin = Twin(bench, "Sum", "dense", record, STANDING, dropout=0.5)
        with caught_texts() as texts:
            twin.steps([batch] * (WARM_UP_STEPS + 1))
        texts_of.append(recorded(twin.step, texts))
        with sync_debug_mode("error"):
            found = twin.steps([batch] * bench.form.replays)
        losses[record] = torch.stack(found).sum(1)
    distinct = len(set(losses[True].tolist()))
    own, other = (float(losses[record].mean()) for record in (True, False))
    error = math.hypot(*(float(losses[record].std()) for record in (True, False))) / math.sqrt(bench.form.replays)
    values: dict[str, Any] = {"recorded": texts_of[0], "draws": distinct, "mean": own, "launched_mean": other}
    if texts_of[0] != "yes" or distinct < bench.form.replays or abs(own - other) > 5 * error:
        apart = abs(own - other) / error
        values["failed"] = f"recorded: {texts_of[0]}, {distinct} draws, means {apart:.1f} errors apart"
    return values


def five_steps(bench: Bench) -> Iterator[Row]:
    """Take three steps, a record and a replay, for a checker of memory accesses."""
    batches = list(itertools.islice(itertools.cycle(whole_batches(bench)), WARM_UP_STEPS + 2))
    for name in bench.form.balancers:
        for mode in MODES:
            yield attempted(f"five steps, {name}, {mode}", partial(held, bench, name, mode, batches))
