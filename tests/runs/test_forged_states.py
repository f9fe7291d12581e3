"""Checkpoints of strangers, sealed as honest ones are: what does not fit is told in one line before any step."""

import math
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import recmtl
from recmtl.runs.serialization import MOST_VALUES, check_state, read_checkpoint, seal
from recmtl.train import Interrupted, Optimization, RunConfig, RunError, RunFolder, Step
from recmtl.train import step as step_module
from recmtl.train.optimizers import fused, load_optimizer

Change = Callable[[dict[str, Any]], Any]


def trainer(data: recmtl.PreparedData, folder: Path) -> recmtl.Trainer:
    model = recmtl.SharedBottom(data.schema, layers=[6, 4], tower_layers=[4])
    options = Optimization(batch_size=100, schedule="linear")
    run = RunConfig(folder, progress=False, tensorboard=False, device="cpu", log_every=1)
    return recmtl.Trainer(model, recmtl.RotoGrad(), epochs=3, optimization=options, run=run)


def stopped(data: recmtl.PreparedData, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A run that is stopped after its second step."""
    taken, plain = [], Step.__call__

    def call(self: Step, *arguments: Any) -> torch.Tensor:
        taken.append(1)
        if len(taken) == 2:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *arguments)

    with patch.context() as patched:
        patched.setattr(Step, "__call__", call)
        with pytest.raises(Interrupted):
            trainer(data, folder).fit(data.train, data.valid)


@pytest.fixture(scope="module")
def runs(small: recmtl.PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run whose tables are trained as a whole, and one whose tables are trained by rows."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("dense", 1_000_000), ("rows", 0)):
            patch.setattr(step_module, "ROW_MODE", size)
            stopped(small, folder / name, patch)
    return folder


def forge(run: Path, change: Change) -> None:
    """Change the state in the last checkpoint of a run and seal it anew, as a stranger can."""
    file = RunFolder(run).checkpoint("last")
    state = read_checkpoint(file)
    change(state)
    torch.save(state, file)
    seal(file)


def of_a_weight(**values: Any) -> Change:
    return lambda state: state["training"]["optimizers"][0]["state"][0].update(values)


def of_a_group(**values: Any) -> Change:
    return lambda state: state["training"]["optimizers"][0]["param_groups"][0].update(values)


def part(name: str, **values: Any) -> Change:
    return lambda state: state[name].update(values)


def shaped(make: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """A tensor in the place of a moment, made of it."""

    def change(state: dict[str, Any]) -> None:
        moments = state["training"]["optimizers"][0]["state"][0]
        moments["exp_avg"] = make(moments["exp_avg"])

    return change


OPTIMIZER = {
    "a moment of one number": (of_a_weight(exp_avg=torch.zeros(1)), "'exp_avg' of .* is a tensor of .*, expected a"),
    "a moment of no strides": (shaped(lambda t: torch.zeros(()).expand(t.shape)), "lacks numbers of its own"),
    "a moment of many numbers": (of_a_weight(exp_avg=torch.zeros(1).expand(3 * 10**9)), "lacks numbers of its own"),
    "a moment without numbers": (shaped(lambda t: t.to("meta")), "it holds a tensor on the device meta"),
    "a moment of another type": (shaped(torch.Tensor.double), "is a tensor of torch.float64"),
    "a moment that is text": (of_a_weight(exp_avg="x"), "'exp_avg' of .* is str 'x', expected a tensor of"),
    "another moment": (of_a_weight(momentum=torch.zeros(1)), "is a dict of step, exp_avg, exp_avg_sq, momentum, exp"),
    "a count of no number": (of_a_weight(step=torch.zeros(0)), r"'step' of .*\[0\], expected .* \[\]"),
    "another weight": (lambda s: s["training"]["optimizers"][0]["state"].update({-1: {}}), "state of the optimizer"),
    "rates": (of_a_group(lr=torch.zeros(3)), "'lr' of a group of the optimizer is a tensor"),
    "no rate": (of_a_group(lr=math.nan), "'lr' of a group of the optimizer is float nan"),
    "a list for a rate": (of_a_group(lr=[1.0]), "'lr' of a group of the optimizer is a list of 1, expected float"),
    "betas": (of_a_group(betas="x"), "'betas' of a group of the optimizer is str 'x', expected a tuple of 2"),
    "one beta": (of_a_group(betas=(0.9, None)), "1 of 'betas' of a group of the optimizer is NoneType"),
    "other weights": (of_a_group(params=[0]), "'params' of a group of the optimizer is a list of 1"),
    "no groups": (lambda s: s["training"]["optimizers"][0].update(param_groups=[]), "argument 2 is shorter"),
    "no optimizers": (lambda s: s["training"].update(optimizers=[]), "shorter"),
}
OTHERS = {
    "a schedule": (lambda s: s["training"]["schedules"][0].update(last_epoch="x"), "'last_epoch' of the schedule"),
    "too few incidents": (part("training", incidents={}), "what was not finite is a dict of nothing"),
    "incidents of text": (lambda s: s["training"]["incidents"].update(counts="x"), "'counts' of what was not finite"),
    "one incident": (
        lambda s: s["training"]["incidents"].update(counts=torch.zeros(1, dtype=torch.int64)),
        "'counts' of what was not finite is a tensor",
    ),
    "steps": (lambda s: s.update(done=10**12), "it is not that of a training of"),
    "no steps": (lambda s: s.update(done=-1), "it is not that of a training"),
    "a window": (lambda s: s.update(window=0), "it is not that of a training"),
    "a log": (lambda s: s.update(log="x"), "it is not that of a training"),
    "unmeasured": (lambda s: s.update(unmeasured="x"), "0 of what was done is str 'x', expected bool False"),
    "seconds": (lambda s: s.update(seconds=None), "1 of what was done is NoneType None"),
    "what was watched": (lambda s: s.update(watch={"best": None}), "what was watched is a dict of best"),
    "patience": (part("watch", waited=torch.zeros(2)), "'waited' of what was watched"),
    "losses": (part("meter", sum=torch.zeros(9)), "'sum' of the meter is a tensor of torch.float32"),
    "sums": (part("meter", sum="x"), "'sum' of the meter is str 'x'"),
    "a time": (part("meter", seconds=math.nan), "'seconds' of the meter is float nan"),
    "rows": (part("meter", rows=10**400), "'rows' of the meter is int 1000"),
    "a start": (part("soundness", losses=[]), "'losses' of what the model was is a list of 0, expected a list of 3"),
    "words": (part("soundness", said=[1]), "0 of 'said' of what the model was is int 1"),
    "generators": (lambda s: s.update(rng_state=[{"cpu": torch.zeros(3)}]), "RNG state"),
    "no generators": (lambda s: s.update(rng_state=None), "object of type 'NoneType' has no len"),
    "conditions": (lambda s: s.update(run_fingerprint=None), "must be an iterable"),
    "a weight": (
        lambda s: s["model"].update({next(iter(s["model"])): torch.zeros(1).expand(3 * 10**9)}),
        "lacks numbers of its own",
    ),
}
ROWS = {
    "a row": (lambda s: s["training"]["rows"][0]["elements"].update(exp_avg=torch.zeros(1)), "'exp_avg' of 'elements'"),
    "rows": (
        lambda s: s["training"]["rows"][0]["elements"].update(
            exp_avg=s["training"]["rows"][0]["elements"]["exp_avg"][1:].clone()
        ),
        "'exp_avg' of 'elements' of the state of a table is a tensor",
    ),
    "a moment among counts": (
        lambda s: s["training"]["rows"][0]["counts"].update(s["training"]["rows"][0]["elements"]),
        "'counts' of the state of a table is a dict of step, exp_avg",
    ),
    "no counts": (
        lambda s: s["training"]["rows"][0].update(counts={}),
        "'counts' of the state of a table is a dict of",
    ),
    "not started": (lambda s: s["training"]["rows"][0].update(started=False), "'counts' of the state of a table"),
}
CASES = [("dense", *case) for case in (OPTIMIZER | OTHERS).values()] + [("rows", *case) for case in ROWS.values()]


@pytest.mark.parametrize(("kind", "change", "reason"), CASES, ids=[*OPTIMIZER, *OTHERS, *(f"rows: {n}" for n in ROWS)])
def test_a_state_that_does_not_fit(
    kind: str,
    change: Change,
    reason: str,
    runs: Path,
    small: recmtl.PreparedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if kind == "rows" else 1_000_000)
    shutil.copytree(runs / kind, tmp_path / "run")
    forge(tmp_path / "run", change)
    monkeypatch.setattr(Step, "__call__", None)  # no step is taken
    notes: list[str] = []
    with pytest.raises(RunError) as error:
        trainer(small, tmp_path / "run").fit(small.train, small.valid, resume=True, note=notes.append)
    said = "\n".join([str(error.value), *notes])
    assert f"the checkpoint {RunFolder(tmp_path / 'run').checkpoint('last')} is damaged: " in said
    assert "\n" not in str(error.value)
    assert re.search(reason, said), said


def made(optimizer: Any, seed: int) -> torch.optim.Optimizer:
    """An optimizer after some steps on a matrix and a bias, beside a weight that no loss reaches."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator).requires_grad_() for size in ((3, 4), (4,), (2,))]
    made = fused(optimizer(weights))
    for _ in range(seed):
        for weight in weights[:2]:
            weight.grad = torch.randn(weight.shape, generator=generator)
        made.step()
    return made


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "ASGD", "RMSprop")),
    *((name, {}) for name in ("Rprop", "Adafactor", "SGD")),
    ("Adam", {"amsgrad": True, "lr": torch.tensor(0.1)}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "lr": 1}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[f"{n}({', '.join(o)})" for n, o in OPTIMIZERS])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_honest_optimizer_goes_on(name: str, options: dict[str, Any], steps: int) -> None:
    """Whatever it keeps, and from the first step on."""

    def factory(weights: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, name)(weights, **options)

    saved, found = made(factory, steps).state_dict(), made(factory, 0)
    load_optimizer(found, saved, factory)
    goes_on = found.state_dict()
    for state in (goes_on, saved):
        state["param_groups"][0]["lr"] = float(state["param_groups"][0]["lr"])
    torch.testing.assert_close(goes_on, saved, rtol=0, atol=0)


def test_a_state_without_an_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    wide = [0] * 100
    for _ in range(10):
        wide = [wide] * 100
    for values in (endless, wide):
        with pytest.raises(ValueError, match=f"it holds more than {MOST_VALUES:,} values"):
            check_state({"values": values})


def test_tensors_have_numbers_of_their_own() -> None:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    for tensor in (whole, whole.permute(2, 0, 1), whole[:, :0], whole[1], torch.tensor(1)):
        check_state({"tensor": tensor})
    for tensor in (
        whole[:, ::2],
        whole.as_strided((5, 5), (1, 4)),
        whole[:1].expand(2, 3, 4),
        torch.zeros(1).expand(2),
    ):
        with pytest.raises(ValueError, match=r"it holds a tensor \[[\d, ]+\] that lacks numbers of its own"):
            check_state({"tensor": tensor})
    short = torch.zeros(8)
    short.untyped_storage().resize_(4)
    nested = torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged)
    for tensor in (short, torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), nested):
        with pytest.raises(ValueError, match="it holds a tensor "):
            check_state({"tensor": tensor})
