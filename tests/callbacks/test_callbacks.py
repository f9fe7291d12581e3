"""Callbacks: what they see, and how they stop a training, fail, and resume."""

import json
import math
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from together import together

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.callbacks import Callback, TrainingContext
from recmtl.errors import CallbackError, Interrupted

STEPS = 10  # of an epoch
METHODS = ["on_fit_start", "on_record", "on_evaluation", "on_epoch_end", "on_checkpoint", "on_fit_end"]


def trainer(
    data: recmtl.PreparedData, *callbacks: Callback, folder: Path | None = None, seed: int = 0, **options: Any
) -> recmtl.Trainer:
    torch.manual_seed(seed)
    model = recmtl.SharedBottom(data.schema, layers=[8], style=recmtl.LayerStyle(dropout=0.2))
    run = recmtl.RunConfig(folder, progress=False, tensorboard=False, device="cpu", log_every=4)
    options = {"epochs": 2, "stopping": recmtl.EarlyStopping(evaluations=2), **options}
    optimization = recmtl.Optimization(batch_size=256)
    return recmtl.Trainer(model, optimization=optimization, run=run, callbacks=callbacks, **options)


class Seen(Callback):
    """Notes which methods are called, at which steps, and counts records in its state."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[tuple[str, int]] = []
        self.records: list[dict[str, Any]] = []
        self.contexts: list[TrainingContext] = []
        self.stop_at = stop_at
        self.closed = 0

    def _note(self, method: str, context: TrainingContext) -> None:
        self.calls.append((method, context.step))
        self.contexts.append(context)

    def on_fit_start(self, context: TrainingContext) -> None:
        self._note("on_fit_start", context)

    def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
        self._note("on_record", context)
        self.records.append(dict(record))
        if context.step == self.stop_at:
            context.stop("enough")

    def on_evaluation(self, context: TrainingContext, metrics: Mapping[str, Any]) -> None:
        self._note("on_evaluation", context)
        assert context.value == pytest.approx((metrics["ctr"].values["auc"] + metrics["ctcvr"].values["auc"]) / 2)

    def on_epoch_end(self, context: TrainingContext) -> None:
        self._note("on_epoch_end", context)

    def on_checkpoint(self, context: TrainingContext) -> None:
        self._note("on_checkpoint", context)

    def on_fit_end(self, context: TrainingContext, result: Any) -> None:
        self._note("on_fit_end", context)
        self.result = result

    def close(self) -> None:
        self.closed += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": len(self.records), "calls": [list(call) for call in self.calls]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.records = [{} for _ in range(state["seen"])]
        self.calls = [(method, step) for method, step in state["calls"]]


def test_a_callback_sees_the_training(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    seen = Seen()
    fit = trainer(aliexpress, seen, folder=tmp_path).fit(aliexpress.train, aliexpress.valid)
    of_epoch = [("on_record", 4), ("on_record", 5), ("on_evaluation", 5), ("on_record", 8), ("on_record", 10)]
    of_epoch += [("on_record", 10), ("on_evaluation", 10), ("on_epoch_end", 10), ("on_checkpoint", 10)]
    second = [(method, step + STEPS) for method, step in of_epoch]
    assert seen.calls == [("on_fit_start", 0), *of_epoch, *second, ("on_fit_end", 20)]
    assert seen.closed == 1
    assert seen.records == list(fit.result.records) == fit.folder.records()
    assert len(fit.history) == len(seen.records)
    assert seen.result.best == fit.result.best == seen.contexts[-1].best
    assert fit.result.stopped is None
    last = seen.contexts[-1]
    assert (last.folder, last.epoch, last.epochs, last.steps, last.monitor) == (tmp_path, 2, 2, 20, "auc")
    assert last.higher_is_better
    assert last.options["model"] == "SharedBottom"
    assert last.model is fit.model
    assert last.records == seen.records
    metrics = last.measure(aliexpress.valid)
    assert metrics["ctr"].values["auc"] == fit.predictor.measure(aliexpress.valid)["ctr"].values["auc"]
    assert len(trainer(aliexpress).fit(aliexpress.train, aliexpress.valid).history) == len(seen.records)


@pytest.mark.parametrize("step", [4, 5, 10])
def test_a_stop_ends_training_with_the_best_weights(step: int, aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    """The weights at the stop are measured, whether or not an evaluation was due."""
    seen = Seen(stop_at=step)
    fit = trainer(aliexpress, seen, folder=tmp_path / "run").fit(aliexpress.train, aliexpress.valid)
    assert fit.result.stopped == "enough"
    assert seen.calls[-2:] == [("on_checkpoint", step), ("on_fit_end", step)]
    assert [record["step"] for record in fit.result.records if "valid" in record][-1] == step
    assert fit.result.best == max(context.value for context in seen.contexts if context.value is not None)
    # What ended stays ended: a resumed training does no further step.
    again = Seen()
    resumed = trainer(aliexpress, again, folder=tmp_path / "run", seed=9)
    resumed.fit(aliexpress.train, aliexpress.valid, resume=True)
    assert resumed.result.stopped == "enough"
    assert again.calls[-2:] == [("on_fit_start", step), ("on_fit_end", step)]
    assert all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in fit.model.state_dict().items())


class Raises(Callback):
    """Raises in one method at a step."""

    def __init__(self, method: str, step: int = 0) -> None:
        self.step = step
        setattr(type(self), method, self._raise)

    def _raise(self, *arguments: Any) -> None:
        if not arguments or not isinstance(arguments[0], TrainingContext) or arguments[0].step >= self.step:
            raise ZeroDivisionError("one by zero")


@pytest.mark.parametrize(
    ("method", "step"),
    [("on_fit_start", 0), *((m, 4) for m in METHODS[1:5]), ("on_fit_end", 20), ("state_dict", 10), ("close", 20)],
)
def test_one_that_raises_is_named_and_the_training_resumes(
    method: str, step: int, aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    raises: Callback = type("Raises", (Raises,), {})(method, step)
    whole = trainer(aliexpress, folder=tmp_path / "whole").fit(aliexpress.train, aliexpress.valid)
    other = Seen()
    with pytest.raises(CallbackError, match=f"^the callback Raises failed in `{method}`: .*one by zero") as error:
        trainer(aliexpress, raises, other, folder=tmp_path / "run").fit(aliexpress.train, aliexpress.valid)
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    assert other.closed == 1
    if method != "on_fit_start":
        assert f"up to step {error.value.step} is saved in {tmp_path / 'run'}" in str(error.value)
        assert recmtl.train.RunFolder(tmp_path / "run").steps()
    resumed = trainer(aliexpress, folder=tmp_path / "run", seed=9 if step else 0)
    notes: list[str] = []
    resumed.fit(aliexpress.train, aliexpress.valid, resume=True, note=notes.append)
    assert notes == (
        ["the checkpoint has a state of Seen, which is not among the callbacks: it is left out"] if step else []
    )
    mine, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
    assert [lasting(r) for r in resumed.folder.records()] == [lasting(r) for r in whole.folder.records()]


def lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "rows_per_second"}


def test_without_a_folder_one_that_raises_says_what_is_lost(aliexpress: recmtl.PreparedData) -> None:
    raises: Callback = type("Raises", (Raises,), {})("on_evaluation")
    with pytest.raises(CallbackError, match=r"one by zero; without a run folder the training cannot be resumed$"):
        trainer(aliexpress, raises).fit(aliexpress.train, aliexpress.valid)


class Kill(Callback):
    """Copies the run folder within a step, as a killed process would leave it."""

    def __init__(self, copy: Path, step: int) -> None:
        self.copy, self.step = copy, step

    def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
        if context.step == self.step:
            shutil.copytree(context.folder, self.copy, dirs_exist_ok=True)


def test_a_killed_training_resumes_callbacks_and_log_exactly(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    seen, kill = Seen(), Kill(tmp_path / "killed", step=18)
    whole = trainer(aliexpress, seen, kill, folder=tmp_path / "run").fit(aliexpress.train, aliexpress.valid)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')  # half a line
    found = Seen()
    resumed = trainer(aliexpress, found, Kill(tmp_path / "again", 99), folder=tmp_path / "killed", seed=9)
    resumed.fit(aliexpress.train, aliexpress.valid, resume=True)
    # The checkpoint is that of step 10: it was written before `on_checkpoint`, and `on_fit_start` is called anew.
    ends = seen.calls.index(("on_checkpoint", 10))
    assert found.calls == [*seen.calls[:ends], ("on_fit_start", 10), *seen.calls[ends + 1 :]]
    assert len(found.records) == len(seen.records)
    assert [lasting(r) for r in resumed.result.records] == [lasting(r) for r in whole.result.records]
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [lasting(json.loads(line)) for line in lines] == [lasting(r) for r in whole.result.records]


def test_state_survives_a_signal(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    class Signal(Seen):
        def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
            super().on_record(context, record)
            if context.step == 8:
                signal.raise_signal(signal.SIGTERM)

    first, second = Signal(), type("Signal", (Seen,), {})()
    with pytest.raises(Interrupted):
        trainer(aliexpress, first, folder=tmp_path / "run").fit(aliexpress.train, aliexpress.valid)
    assert first.closed == 1
    resumed = trainer(aliexpress, second, folder=tmp_path / "run", seed=9)
    resumed.fit(aliexpress.train, aliexpress.valid, resume=True)
    assert len(second.records) == len(resumed.result.records)
    assert second.calls.count(("on_fit_start", 8)) == 1


def test_a_state_must_be_plain(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"names": [{"ctr"}]}

    said = r"failed in `state_dict`: ValueError: a state must be a mapping of numbers, text, .* got \{'ctr'\}"
    with pytest.raises(CallbackError, match=said):
        trainer(aliexpress, Odd(), folder=tmp_path / "run").fit(aliexpress.train, aliexpress.valid)
    trainer(aliexpress, folder=tmp_path / "run").fit(aliexpress.train, aliexpress.valid, resume=True)


def test_own_numbers_are_logged(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    class OtherRows(Callback):
        def on_evaluation(self, context: TrainingContext, metrics: Mapping[str, Any]) -> None:
            context.log({"test": {name: m.to_dict() for name, m in context.measure(aliexpress.test).items()}})

    fit = trainer(aliexpress, OtherRows(), folder=tmp_path).fit(aliexpress.train, aliexpress.valid)
    assert fit.history["test/ctr/auc"].notna().sum() == 4
    assert [r for r in fit.folder.records() if "test" in r] == [r for r in fit.result.records if "test" in r]
    whole = trainer(aliexpress).fit(aliexpress.train, aliexpress.valid)
    assert all(torch.equal(value, fit.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


class Logs(Callback):
    """Logs something at an evaluation."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def on_evaluation(self, context: TrainingContext, metrics: Mapping[str, Any]) -> None:
        context.log(self.content)


def test_numbers_that_are_not_finite_are_logged_as_null(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    content = {"own": {"loss": np.float32("nan"), "up": [math.inf, 1], "rows": np.int64(3), "reason": "none"}}
    fit = trainer(aliexpress, Logs(content), folder=tmp_path, epochs=1).fit(aliexpress.train, aliexpress.valid)
    found = [record["own"] for record in fit.folder.records() if "own" in record]
    assert found == 2 * [{"loss": None, "up": [None, 1], "rows": 3, "reason": "none"}]
    assert [record["own"] for record in fit.result.records if "own" in record] == found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"own": {"loss": torch.ones(2)}}, r"takes numbers, text, lists and mappings, got tensor\(\[1., 1.\]\)"),
        ({"own": {3: 4}}, "takes text as names, got 3"),
        ({"step": 3}, "adds 'step' itself: leave it out"),
        (0.5, "takes a mapping of numbers by name, got 0.5"),
    ],
)
def test_a_callback_that_logs_something_else_is_named(
    content: Any, said: str, aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    said = f"the callback Logs failed in `on_evaluation`: ValueError: `context.log` {said}; the training up to step 5"
    with pytest.raises(CallbackError, match=said):
        trainer(aliexpress, Logs(content), folder=tmp_path).fit(aliexpress.train, aliexpress.valid)


def test_a_callback_that_exits_is_named(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    class Exits(Callback):
        def on_evaluation(self, context: TrainingContext, metrics: Mapping[str, Any]) -> None:
            raise SystemExit(4)

    with pytest.raises(CallbackError, match="callback Exits failed in `on_evaluation`: SystemExit: 4; the training"):
        trainer(aliexpress, Exits(), folder=tmp_path).fit(aliexpress.train, aliexpress.valid)


@pytest.mark.parametrize("given", [Seen, [Seen], ["PrintMetrics"]])
def test_what_is_no_callback_is_refused(given: Any, aliexpress: recmtl.PreparedData) -> None:
    model = recmtl.SharedBottom(aliexpress.schema, layers=[8])
    with pytest.raises(ValueError, match=r"`callbacks` must hold callbacks such as `recmtl.PrintMetrics\(\)`, got "):
        recmtl.Trainer(model, callbacks=given)


def fitted(processes: ProcessGroup, csv: Path, folder: Path, what: str) -> tuple[Any, ...]:
    data = recmtl.prepare(recmtl.card("aliexpress"), csv / "train.csv", csv / "valid.csv", csv / "test.csv")
    seen = Seen(stop_at=4 if what == "stop" else None)
    callbacks = [seen, Raises("on_record", 4)] if what == "raise" else [seen]
    fit = trainer(data, *callbacks, folder=folder, seed=processes.rank)
    failure = None
    try:
        fit.fit(data.train, data.valid)
    except CallbackError as error:
        failure = str(error)
    return seen.calls, fit.result.stopped, failure, fit.model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["stop", "raise"])
def test_the_first_of_several_processes_calls_them_and_all_obey(csv: Path, tmp_path: Path, what: str) -> None:
    first, second = together(2, tmp_path / "2", fitted, csv, tmp_path / "run", what)
    assert second[0] == []
    assert first[1:3] == second[1:3]
    assert all(torch.equal(value, second[3][name]) for name, value in first[3].items())
    if what == "stop":
        assert first[1] == "enough"
        assert first[0][-1] == ("on_fit_end", 8)  # processes tell each other every eight steps
    else:
        assert "failed in `on_record`: ZeroDivisionError: one by zero; the training up to step 8 is saved" in first[2]
