"""CUDA graphs: a replayed step equals a plain one, and steps that cannot be recorded run without a graph."""

from __future__ import annotations

import copy
import gc
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from tape import Tape
from torch import Tensor, nn
from twins import BALANCERS

import recmtl
from recmtl.balance import Balancer
from recmtl.data import Batch, Loader
from recmtl.features import table_rows as rows_module
from recmtl.features.table_rows import padded
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module
from recmtl.train.cuda_graph import WARM_UP_STEPS, GraphedStep, recordable

MODELS = [recmtl.SharedBottom, recmtl.MMOE, recmtl.ESMM]
# Every balancer is recorded with MMOE, and one of each kind with the others: what it records is a list of tensors.
KINDS = (recmtl.Sum, recmtl.GradNorm, recmtl.PCGrad, recmtl.NormalizedSplitter, recmtl.RotoGrad)
ADAM = partial(torch.optim.AdamW, lr=0.01, eps=1e-6)  # ε far above the rounding errors of gradients that are zero
OPTIONS = Optimization(optimizer=ADAM, schedule="cosine", warmup=0.1, clip_norm=1.0)
STEPS = 18  # with the batches of each kind
WITH_ROTATIONS = 26  # beyond their burn-in


@pytest.fixture(autouse=True)
def _on_a_device(on_a_device: None) -> None:
    """No step looks at values, as none may that a GPU records."""


def batches(data: recmtl.PreparedData) -> Iterator[Batch]:
    """Whole batches, a shorter one in between, one without a task, and one that is not a number; in float64."""
    for number, batch in enumerate(Loader(data.train, 50, seed=0).epoch()):
        rows = 9 if number == 8 else len(batch)
        labels = torch.full_like(batch.labels, torch.nan) if number == 12 else batch.labels
        numeric = batch.numeric * torch.nan if number == 16 else batch.numeric
        yield Batch(batch.ids[:rows], numeric[:rows].double(), labels[:rows].double())


class Unrecorded(Tape):
    """A graph that cannot be recorded; learning rates are float32 tensors, as for one that can."""

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        raise RuntimeError("none is made")


def steps_of(method: type[Balancer]) -> int:
    return WITH_ROTATIONS if method in (recmtl.RotoGrad, recmtl.balance.RotoGradNorm) else STEPS


def trained(
    data: recmtl.PreparedData, cls: type, method: type[Balancer], tape: Tape
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the losses of each step, and all state afterwards."""
    torch.manual_seed(0)
    style = recmtl.LayerStyle(normalization="batch", dropout=0.2)
    sizes: dict[str, Any] = {"layers": [8]} if cls is not recmtl.ESMM else {"tower_layers": [8]}
    model = cls(data.schema, style=style, **sizes)
    balancer = recmtl.Trainer(model, method(), run=recmtl.RunConfig(device="cpu")).balancer
    steps = steps_of(method)
    step = Step(model.double(), balancer, OPTIONS, steps, tape)
    torch.manual_seed(1)
    losses = [step(batch) for batch in itertools.islice(batches(data), steps)]
    state = {name: t for name, t in model.state_dict().items() if "_extra_state" not in name}
    return losses, state | step.nonfinite.state_dict()


@pytest.mark.parametrize(
    ("cls", "method"),
    [
        pytest.param(cls, method, id=f"{cls.__name__}-{method.__name__}")
        for cls in MODELS
        for method in BALANCERS
        if cls is recmtl.MMOE or method in KINDS
    ],
)
def test_a_replayed_step_equals_a_plain_step(
    cls: type, method: type[Balancer], aliexpress: recmtl.PreparedData
) -> None:
    """With dropout, batch normalisation, clipping and a changing learning rate."""
    tape = Tape()
    losses, state = trained(aliexpress, cls, method, tape)
    with pytest.warns(UserWarning, match="none is made"):
        plain_losses, plain_state = trained(aliexpress, cls, method, Unrecorded())
    assert (tape.rehearsed, tape.replayed) == (WARM_UP_STEPS, steps_of(method) - WARM_UP_STEPS - 1)
    torch.testing.assert_close(losses, plain_losses, rtol=1e-10, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(state, plain_state, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("method", [recmtl.PCGrad, recmtl.RotoGrad])
def test_a_replayed_step_with_large_tables_equals_a_plain_step(
    method: type[Balancer], aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With slots for all rows that can occur, as on a GPU, no shape depends on a batch; exact slots would differ."""
    monkeypatch.setattr(step_module, "ROW_MODE", 0)
    with pytest.warns(UserWarning, match="none is made"):
        plain_losses, plain_state = trained(aliexpress, recmtl.MMOE, method, Unrecorded())
    monkeypatch.setattr(rows_module, "distinct_ids", padded)
    losses, state = trained(aliexpress, recmtl.MMOE, method, Tape())
    torch.testing.assert_close(losses, plain_losses, rtol=1e-10, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(state, plain_state, rtol=1e-9, atol=1e-11, equal_nan=True)


def small_step(data: recmtl.PreparedData, cls: type) -> Step:
    model = cls(data.schema, layers=[8])
    balancer = recmtl.Trainer(model, recmtl.Sum(), run=recmtl.RunConfig(device="cpu")).balancer
    return Step(model.double(), balancer, OPTIONS, STEPS, Tape())


@pytest.mark.parametrize("cls", [recmtl.SharedBottom, recmtl.AITM])
def test_the_losses_of_the_balancer_are_those_of_the_last_step(cls: type, aliexpress: recmtl.PreparedData) -> None:
    """Of a launched step, of one that is measured, and of the replay after it, which runs no Python."""
    step = small_step(aliexpress, cls)
    balancer = step._balancer
    for number, batch in enumerate(itertools.islice(batches(aliexpress), 8)):
        losses = step(batch, with_stats=number == 6)
        assert balancer.losses is not None
        assert torch.equal(balancer.losses, losses[:2])
        assert (None if balancer.penalty is None else [balancer.penalty]) == (list(losses[2:]) or None)


def test_a_step_is_freed_with_its_graph(aliexpress: recmtl.PreparedData) -> None:
    """At once: the memory of a graph is that of all activations, and does not wait for the garbage collector."""
    gc.disable()
    try:
        for first in (True, False):  # what is loaded by a first step may keep it until then
            step = small_step(aliexpress, recmtl.SharedBottom)
            for batch in itertools.islice(batches(aliexpress), WARM_UP_STEPS + 2):
                step(batch)
            left = weakref.ref(step)
            del step
            assert first or left() is None
    finally:
        gc.enable()


class Looks(nn.Module):
    """A tower whose control flow depends on a value."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)

    def forward(self, view: Tensor) -> Tensor:
        output: Tensor = self.linear(view)
        return output if float(view.detach().sum()) > 0 else 2 * output


def test_a_step_that_cannot_be_recorded_runs_without_a_graph(aliexpress: recmtl.PreparedData) -> None:
    def losses(tape: Tape) -> list[Tensor]:
        torch.manual_seed(0)
        model = recmtl.SharedBottom(aliexpress.schema, layers=[8], towers={"ctr": Looks})
        balancer = recmtl.Trainer(model, recmtl.MetaBalance(), run=recmtl.RunConfig(device="cpu")).balancer
        step = Step(model.double(), balancer, OPTIONS, STEPS, tape)
        return [step(batch) for batch in itertools.islice(batches(aliexpress), STEPS)]

    with pytest.warns(UserWarning, match="the step is not recorded.*not permitted when") as caught:
        found = losses(Tape())
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="none is made"):
        expected = losses(Unrecorded())
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_unknown_modules_and_optimizers_are_recorded_only_on_request(aliexpress: recmtl.PreparedData) -> None:
    own = recmtl.SharedBottom(aliexpress.schema, layers=[8], towers={"ctr": Looks})
    plain = recmtl.SharedBottom(aliexpress.schema, layers=[8], style=recmtl.LayerStyle("batch", 0.1, "gelu"))
    adam, sgd, adagrad = (
        optimizer(plain.parameters(), lr=0.1) for optimizer in (torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad)
    )
    assert recordable([plain, recmtl.RotoGrad(heads=2, features=8)], [adam, sgd])
    assert not recordable([own], [adam])
    assert not recordable([plain], [adam, adagrad])
    hooked = copy.deepcopy(plain)
    hooked.bottom.register_forward_hook(lambda *_: None)
    assert not recordable([hooked], [])
    hooked = copy.deepcopy(plain)
    next(hooked.parameters()).register_post_accumulate_grad_hook(lambda *_: None)
    assert not recordable([hooked], [])

    class Own(torch.optim.SGD):
        pass

    assert not recordable([plain], [Own(plain.parameters(), lr=0.1)])


def test_the_record_is_for_batches_shaped_like_the_first(aliexpress: recmtl.PreparedData) -> None:
    """Here the first batch at recording time is the last, shorter one of an epoch."""
    whole = next(Loader(aliexpress.train, 50, seed=0).epoch())
    short = Batch(whole.ids[:7], whole.numeric[:7], whole.labels[:7])
    tape = Tape()
    recorded = GraphedStep(lambda batch: batch.numeric.sum() + 1, tape)
    for batch in [whole, whole, whole, short] * 4:
        torch.testing.assert_close(recorded(batch), batch.numeric.sum() + 1)
    assert (tape.rehearsed, tape.replayed) == (3, 9)


def test_a_python_counter_stands_still_in_a_replay(aliexpress: recmtl.PreparedData) -> None:
    """The check can fail: a counter of Python's stands still in a record."""
    batch = next(batches(aliexpress))
    calls: list[int] = []

    def step(batch: Batch) -> Tensor:
        calls.append(1)
        return batch.numeric.sum() * 0 + len(calls)

    recorded = GraphedStep(step, Tape())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [int(recorded(batch)) for _ in range(6)] == [1, 2, 3, 4, 4, 4]
