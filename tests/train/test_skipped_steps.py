"""A training, or an epoch, of which every step is skipped is an error; steps that are skipped now and then are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from together import together
from torch import Tensor, nn

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.callbacks import TrainingContext
from recmtl.data import Batch, Loader
from recmtl.train import DivergenceError, EarlyStopping, Optimization, RunConfig, RunFolder
from recmtl.train import step as step_module

pytestmark = pytest.mark.filterwarnings("ignore:step [0-9]+:UserWarning")
STEPS = 10  # of an epoch of the generated rows
ALL = tuple(range(1, 1000))
WHY = "trained nothing because losses or gradients were not finite"
ADVICE = r"look at labels and numbers, lower the learning rate \(0.001 by now\), or set `clip_norm`"


class Planted(nn.Module):
    """A tower whose output, or its gradient alone, is NaN in training steps, counted from 1."""

    def __init__(self, features: int, steps: tuple[int, ...], behind: bool) -> None:
        super().__init__()
        self.linear, self.steps, self.behind, self.calls = nn.Linear(features, 1), {*steps}, behind, 0

    def forward(self, view: Tensor) -> Tensor:
        self.calls += self.training
        factor = torch.nan if self.training and self.calls in self.steps else 1.0
        output: Tensor = self.linear(view)
        if self.behind and output.requires_grad:
            output.register_hook(lambda gradient: gradient * factor)
        return output if self.behind else output * factor


def trainer(
    data: recmtl.PreparedData,
    steps: tuple[int, ...],
    balancer: recmtl.Balancer | None = None,
    folder: Path | None = None,
    epochs: int = 3,
    behind: bool = False,
    stopping: EarlyStopping | None = None,
    callbacks: Sequence[recmtl.Callback] = (),
    log_every: int = 50,
    **options: Any,
) -> recmtl.Trainer:
    """Both towers are NaN in these steps; an epoch has 10."""
    torch.manual_seed(0)
    towers = dict.fromkeys(("ctr", "ctcvr"), partial(Planted, steps=steps, behind=behind))
    model = recmtl.SharedBottom(data.schema, layers=[16, 8], towers=towers)
    optimization = Optimization(**({"batch_size": 256} | options))
    run = RunConfig(folder, device="cpu", progress=False, tensorboard=False, log_every=log_every)
    given: dict[str, Any] = {
        "optimization": optimization,
        "stopping": stopping or EarlyStopping(),
        "run": run,
        "callbacks": callbacks,
    }
    return recmtl.Trainer(model, balancer, epochs, **given)


@pytest.mark.parametrize("behind", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize(
    "balancer", [recmtl.Sum, recmtl.FAMO, recmtl.PCGrad, recmtl.RotoGrad], ids=lambda balancer: balancer.__name__
)
def test_a_training_whose_steps_are_all_skipped_is_an_error(
    balancer: type, behind: bool, aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    run = trainer(aliexpress, ALL, balancer(), tmp_path / "run", behind=behind)
    with pytest.raises(DivergenceError, match=rf"^all 10 steps {WHY} \(.*ctr.*\): {ADVICE}$"):
        run.fit(aliexpress.train, aliexpress.valid)
    folder = RunFolder(tmp_path / "run")
    assert not folder.finished
    assert not (folder.path / "checkpoints").exists()
    assert {record["step"] for record in folder.records()} == {10}
    trainer(aliexpress, (), balancer(), folder.path).fit(aliexpress.train, aliexpress.valid, resume=True)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_epoch_whose_steps_are_all_skipped_is_an_error_in_every_precision(
    precision: Any, aliexpress: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmtl.train.device.times_fp32", lambda *_: 1.0)  # bf16 is slower on some CPUs
    run = trainer(aliexpress, ALL[10:], folder=tmp_path / "run", precision=precision)
    other = "" if precision == "fp32" else ", or train in `precision` 'fp32' instead of 'bf16'"
    kept = f"; {tmp_path}/run/checkpoints/step-0000000010 holds the last good weights"
    with pytest.raises(
        DivergenceError,
        match=rf"^the last 10 steps, up to step 20, {WHY} \(task ctr, task ctcvr\): {ADVICE}{other}{kept}$",
    ):
        run.fit(aliexpress.train, aliexpress.valid)
    again = trainer(aliexpress, ALL, folder=tmp_path / "run", precision=precision)
    with pytest.raises(DivergenceError, match=r"^the last 10 steps, up to step 20, "):
        again.fit(aliexpress.train, aliexpress.valid, resume=True)


def test_steps_that_are_skipped_now_and_then_are_no_error(aliexpress: recmtl.PreparedData) -> None:
    """All but one of an epoch; two in a row in epochs of one step each."""
    fitted = trainer(aliexpress, (*range(1, 10), *range(12, 21)), epochs=2).fit(aliexpress.train, aliexpress.valid)
    assert fitted.result.skipped["ctr"] == 18
    run = trainer(aliexpress, (2, 3), epochs=4, batch_size=len(aliexpress.train))
    assert run.fit(aliexpress.train).result.skipped["ctr"] == 2


def test_weights_that_predict_nothing_at_the_end_are_an_error(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    """The first step trains, to weights so large that nothing after it is finite: no checkpoint holds good ones."""
    for epochs, found in {1: "the last 9 steps, up to step 10", 2: "the last 19 steps, up to step 20"}.items():
        for again in (False, True):
            folder, adam = tmp_path / f"{epochs}", partial(torch.optim.Adam, lr=1e30)
            run = trainer(aliexpress, (), folder=folder, epochs=epochs, optimizer=adam)
            with pytest.raises(DivergenceError, match=rf"^{found}, {WHY} .*, or set `clip_norm`$"):
                run.fit(aliexpress.train, aliexpress.valid, resume=again)
        assert not RunFolder(tmp_path / f"{epochs}").finished


def test_the_last_epoch_and_an_early_end_count(aliexpress: recmtl.PreparedData) -> None:
    """Patience that runs out within the first epoch, and a callback that stops within it."""
    stopping = EarlyStopping(patience=2, evaluations=5)
    with pytest.raises(DivergenceError, match=f"^all [0-9] steps {WHY}"):
        trainer(aliexpress, ALL, stopping=stopping).fit(aliexpress.train, aliexpress.valid)

    class Stop(recmtl.Callback):
        def on_record(self, context: TrainingContext, record: Any) -> None:
            context.stop("enough")

    with pytest.raises(DivergenceError, match=f"^all 4 steps {WHY}"):
        trainer(aliexpress, ALL, callbacks=[Stop()], log_every=4).fit(aliexpress.train, aliexpress.valid)


def test_fp16_may_skip_its_first_steps(aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale starts at 2**16, and is below 1 after 17 steps."""
    monkeypatch.setattr(step_module, "autocast", lambda *_: nullcontext())
    monkeypatch.setattr("recmtl.train.device.times_fp32", lambda *_: 1.0)
    monkeypatch.setattr("recmtl.train.setup.check_gpu_options", lambda *_: None)
    fitted = trainer(aliexpress, ALL[:15], precision="fp16").fit(aliexpress.train, aliexpress.valid)
    assert fitted.result.best is not None
    for epochs, found in {1: "all 10 steps", 2: "all 20 steps", 5: "all 20 steps"}.items():
        run = trainer(aliexpress, ALL, precision="fp16", epochs=epochs)
        with pytest.raises(
            DivergenceError, match=f"^{found} {WHY}.*: {ADVICE}, or train in `precision` 'fp32' instead"
        ):
            run.fit(aliexpress.train, aliexpress.valid)


def ended(processes: ProcessGroup, csv: Path) -> str:
    data = recmtl.prepare(recmtl.card("aliexpress"), csv / "train.csv", csv / "valid.csv")
    try:
        trainer(data, ALL, recmtl.PCGrad()).fit(data.train, data.valid)
    except DivergenceError as error:
        return str(error)
    return "no error"


@pytest.mark.slow
def test_all_processes_agree(csv: Path, tmp_path: Path) -> None:
    found = together(2, tmp_path / "two", ended, csv)
    assert found[0] == found[1]
    assert found[0].startswith(f"all {STEPS} steps {WHY} (task ctr, task ctcvr): ")


def with_labels(monkeypatch: pytest.MonkeyPatch, ctr: set[int], ctcvr: set[int]) -> None:
    """Leave each task its labels in some of the ten batches of an epoch alone."""
    labelled, epoch = {0: ctr, 1: ctcvr}, Loader.epoch

    def some(self: Loader, *args: Any) -> Iterator[Batch]:
        for number, batch in enumerate(epoch(self, *args)):
            labels = batch.labels.clone()
            for column, numbers in labelled.items():
                if number not in numbers:
                    labels[:, column] = torch.nan
            yield dataclasses.replace(batch, labels=labels)

    monkeypatch.setattr(Loader, "epoch", some)


EVEN, BOTH = {0, 2, 4, 6, 8}, {*range(10)}


@pytest.mark.parametrize("behind", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("balancer", [recmtl.Sum, recmtl.FAMO, recmtl.PCGrad, recmtl.RotoGrad])
@pytest.mark.parametrize("ctcvr", [BOTH, EVEN, BOTH - EVEN], ids=["one absent", "all absent", "in turn"])
def test_steps_without_labels_do_not_end_a_run_of_skipped_steps(
    ctcvr: set[int], balancer: type, behind: bool, aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_labels(monkeypatch, EVEN, ctcvr)
    with pytest.raises(DivergenceError, match=f"^all 10 steps {WHY}"):
        trainer(aliexpress, ALL, balancer(), behind=behind).fit(aliexpress.train, aliexpress.valid)


def test_one_bad_step_among_those_without_labels_is_no_error(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is the only one that could have trained anything."""
    with_labels(monkeypatch, {0}, {0})
    run = trainer(aliexpress, (11,), epochs=2)
    assert run.fit(aliexpress.train, aliexpress.valid).result.skipped["ctr"] == 1
    run = trainer(aliexpress, (), epochs=2)
    assert "ctr" not in run.fit(aliexpress.train, aliexpress.valid).result.skipped
    with pytest.raises(DivergenceError, match=f"^all 10 steps {WHY}"):
        trainer(aliexpress, (1,), epochs=1).fit(aliexpress.train, aliexpress.valid)
    run = trainer(aliexpress, (1,), epochs=2)
    assert run.fit(aliexpress.train, aliexpress.valid).result.skipped["ctr"] == 1


def test_a_task_that_is_absent_now_and_then_reaches_its_limit(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps in a row of those with labels of the click."""
    with_labels(monkeypatch, EVEN, BOTH)
    with pytest.raises(DivergenceError, match=r"^not finite in 2 steps in a row, up to step 5: task ctr"):
        trainer(aliexpress, (3, 5), nonfinite_steps=2).fit(aliexpress.train, aliexpress.valid)


def test_fp16_counts_steps_without_labels_as_well(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "autocast", lambda *_: nullcontext())
    monkeypatch.setattr("recmtl.train.device.times_fp32", lambda *_: 1.0)
    monkeypatch.setattr("recmtl.train.setup.check_gpu_options", lambda *_: None)
    with_labels(monkeypatch, EVEN, EVEN)
    with pytest.raises(DivergenceError, match=f"^all 20 steps {WHY}"):
        trainer(aliexpress, ALL, precision="fp16", epochs=2).fit(aliexpress.train, aliexpress.valid)
