"""Values that are not finite are reported and skipped, or end training; so does a loss that stays too high."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from twins import BALANCERS

import recmtl
from recmtl.cli.main import main
from recmtl.data import Loader
from recmtl.features import EmbeddingTable
from recmtl.train import DivergenceError, Optimization, RunConfig, RunFolder
from recmtl.train import divergence as divergence_module
from recmtl.train.divergence import DivergenceMonitor, NonFiniteCounter, NonFiniteEvent

pytestmark = pytest.mark.filterwarnings("ignore:step [0-9]+:UserWarning")  # what is said where no progress is shown
BATCH = 256
STEPS = 10  # of an epoch of the generated rows


class Planted(nn.Module):
    """A tower that multiplies its output, or its gradient alone, by a value in training steps, counted from 1."""

    def __init__(self, features: int, steps: tuple[int, ...], value: float = torch.nan, behind: bool = False) -> None:
        super().__init__()
        self.linear, self.value, self.behind = nn.Linear(features, 1), value, behind
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.tensor(steps))

    def forward(self, view: Tensor) -> Tensor:
        self.calls += self.training
        chosen = torch.isin(self.calls, self.steps) & self.training
        factor, output = torch.where(chosen, self.value, 1.0), self.linear(view)
        if self.behind and output.requires_grad:
            output.register_hook(lambda gradient: gradient * factor)
        return output if self.behind else output * factor


class Poisoned(torch.optim.SGD):
    """Writes a value into the first parameter with so many rows after a step, counted from 1."""

    def __init__(self, parameters: Any, where: Callable[[Tensor], bool], row: int, step: int) -> None:
        super().__init__(parameters, lr=0.01)
        self.where, self.row, self.last, self.taken = where, row, step, 0

    def step(self, closure: Any = None) -> None:
        super().step()
        self.taken += 1
        if self.taken == self.last:
            (weight,) = (p for group in self.param_groups for p in group["params"] if self.where(p))
            with torch.no_grad():
                weight[self.row] = torch.inf


ENCODER = partial(recmtl.FeatureEncoder, width=16)


def is_table(parameter: Tensor) -> bool:
    return parameter.dim() == 2 and parameter.shape[1] == 16 and len(parameter) > 50


def trainer(
    data: recmtl.PreparedData,
    steps: tuple[int, ...] = (),
    value: float = torch.nan,
    balancer: recmtl.Balancer | None = None,
    folder: Path | None = None,
    log_every: int = 1,
    epochs: int = 1,
    learning_rate: float = 0.001,
    behind: bool = False,
    **optimization: Any,
) -> recmtl.Trainer:
    torch.manual_seed(0)
    towers = {"ctr": partial(Planted, steps=steps, value=value, behind=behind)} if steps else None
    model = recmtl.SharedBottom(data.schema, layers=[16, 8], towers=towers, encoder=ENCODER)
    adam = {"optimizer": partial(torch.optim.Adam, lr=learning_rate)}
    options = Optimization(batch_size=BATCH, **(adam | optimization))
    run = RunConfig(folder, device="cpu", log_every=log_every, tensorboard=False)
    return recmtl.Trainer(model, balancer, epochs, optimization=options, run=run)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "balancer", [recmtl.MetaBalance, recmtl.PCGrad, recmtl.NormalizedSplitter], ids=lambda b: b.__name__
)
def test_nonfinite_tasks_and_layers_are_reported_with_their_first_step(
    balancer: type, value: float, aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gradient of a task overflows: its layers and its shared gradient are left out, the rest is trained."""
    run = trainer(aliexpress, (3, 5), value, balancer(), log_every=5, behind=True)
    fitted = run.fit(aliexpress.train, aliexpress.valid)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "finite" in line]
    assert said.startswith("step 3: left out for not being finite: task ctr, heads.ctr.")
    assert "ctcvr" not in said
    assert fitted.result.skipped["ctr"] == 2
    assert fitted.result.skipped.keys() == {"ctr", "gradients"}
    assert all(p.isfinite().all() for p in fitted.model.parameters())


@pytest.mark.parametrize(
    ("balancer", "value"),
    [  # both with every balancer by itself: tests/balance/test_nonfinite.py
        *((balancer, torch.nan) for balancer in BALANCERS),
        *((balancer, torch.inf) for balancer in (recmtl.Sum, recmtl.FAMO, recmtl.PCGrad, recmtl.RotoGrad)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_a_loss_that_is_not_finite_leaves_out_its_task_alone(
    balancer: type, value: float, aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = (5, 9) if balancer.needs_losses_after_step else (3, 5)  # the first ones of steps 3 and 5
    fitted = trainer(aliexpress, passes, value, balancer(), log_every=5).fit(aliexpress.train, aliexpress.valid)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "finite" in line]
    assert said == "step 3: left out for not being finite: task ctr"
    assert fitted.result.skipped == {"ctr": 2}
    assert all(p.isfinite().all() for p in fitted.model.parameters())


def test_consecutive_nonfinite_steps_end_training(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    run = trainer(aliexpress, (2, 4, 5, 7, 8, 9), nonfinite_steps=3, folder=tmp_path / "run")
    with pytest.raises(DivergenceError, match=r"^not finite in 3 steps in a row, up to step 9: task ctr: "):
        run.fit(aliexpress.train, aliexpress.valid)
    assert RunFolder(tmp_path / "run").records()[-1]["step"] == 9
    trainer(aliexpress, (2, 4, 5, 7, 8), nonfinite_steps=3).fit(aliexpress.train)


def test_with_error_the_first_nonfinite_step_ends_training(aliexpress: recmtl.PreparedData) -> None:
    run = trainer(aliexpress, (4,), log_every=5, nonfinite="error")
    with pytest.raises(
        DivergenceError, match=r'^not finite in step 4: task ctr: .*or leave it out by `nonfinite` "skip"'
    ):
        run.fit(aliexpress.train)
    assert run.balancer.skipped.tolist() == [1, 0]


def test_counts_worked_by_hand() -> None:
    """A task, and a layer, that are bad in the steps marked."""
    model, balancer = nn.Linear(2, 1, bias=False), recmtl.Sum()
    balancer.setup(objectives=2, heads=2, features=2, parts=1, names=["ctr", "cvr"])
    counter = NonFiniteCounter(model, balancer, [model.weight], [], limit=3)
    for task, layer in zip("x.xx.xxx.", ".....x.x.", strict=True):
        balancer.skipped += torch.tensor([task == "x", False])
        model.weight.grad = torch.tensor([[1.0, -torch.inf if layer == "x" else 0.0]])
        counter.update([model.weight])
        assert model.weight.grad.tolist() == [[1.0, 0.0]]
    assert counter.events() == [NonFiniteEvent("task ctr", 6, 1, 8), NonFiniteEvent("weight", 2, 6, 0)]
    assert counter.skipped_steps() == {"ctr": 6, "gradients": 2}
    balancer.skipped.zero_()  # another training's, which this one does not count
    again = NonFiniteCounter(model, balancer, [model.weight], [], limit=3)
    assert again.events() == []
    again.load_state_dict(counter.state_dict())
    assert again.events() == counter.events()


@pytest.mark.parametrize("row_mode", [False, True], ids=["dense", "rows"])
def test_a_nonfinite_embedding_gradient_is_traced_to_its_feature(row_mode: bool, small: recmtl.PreparedData) -> None:
    table = EmbeddingTable(small.schema.id_blocks, 4)
    owners = ["user", "genres"]
    assert table.owners == owners
    batch = next(Loader(small.train, 50).epoch())
    for owner in owners:
        if row_mode:
            table.start_row_mode()
        embedded = table(batch.ids, batch.lists)
        sum(part.sum() for part in (embedded.singles, *(own.values for own in embedded.lists))).backward()
        tensor = table.gathered.rows if row_mode else table.weight
        first = int(table.bounds[owners.index(owner)])
        row = int((table.gathered.places >= first).nonzero()[0]) if row_mode else first
        tensor.grad[row, 1] = -torch.inf
        assert [name for name, norm in zip(owners, table.gradient_norms(), strict=True) if not norm.isfinite()] == [
            owner
        ]
        table.weight.grad = None


def test_training_reports_the_feature_of_an_infinite_gradient(
    aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(aliexpress)
    table = run.model.encoder.tables[0]
    row = int(table.bounds[table.owners.index("categorical_7")]) + 2
    table.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([row]), torch.inf))
    run.fit(aliexpress.train)
    note = "step 1: left out for not being finite: encoder.tables.0.weight, feature categorical_7"
    assert note in capsys.readouterr().err.splitlines()
    assert run.result.skipped == {"gradients": STEPS}


@pytest.mark.parametrize(
    ("where", "row", "named"),
    [
        (is_table, -1, r"feature categorical_16"),
        (lambda p: p.shape == (8,) and p.ndim == 1, 0, r"bottom\.layers\.2\.bias"),
    ],
    ids=["table", "layer"],
)
@pytest.mark.parametrize("policy", ["skip", "error"])
def test_nonfinite_weights_end_training_and_are_not_saved(
    policy: str, where: Any, row: int, named: str, aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    """In the second epoch, in the last of five steps between two checks."""
    optimizer = partial(Poisoned, where=where, row=row, step=STEPS + 5)
    run = trainer(aliexpress, optimizer=optimizer, nonfinite=policy, folder=tmp_path, log_every=5, epochs=3)
    kept = re.escape(str(tmp_path / "checkpoints" / "step-0000000010"))
    said = rf"^the weights of {named} became NaN or infinite in one of the steps 11 to 15"
    with pytest.raises(
        DivergenceError, match=rf"{said}: lower the learning rate \(0\.01 .*; {kept} holds the last good weights$"
    ):
        run.fit(aliexpress.train, aliexpress.valid)
    for name in ("best", "last"):
        weights = RunFolder(tmp_path).load_checkpoint(name)["model"].values()
        assert all(tensor.isfinite().all() for tensor in weights)


def test_large_tables_are_checked_before_a_checkpoint(
    aliexpress: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row has the category: no loss shows it, and the table is too large for the check of each log record."""
    monkeypatch.setattr(divergence_module, "SMALL_TENSOR", 3000)
    missing = int(EmbeddingTable(aliexpress.schema.id_blocks, 16).bounds[-2]) + 1
    optimizer = partial(Poisoned, where=is_table, row=missing, step=2)
    run = trainer(aliexpress, optimizer=optimizer, folder=tmp_path)
    with pytest.raises(DivergenceError, match=r"feature categorical_16 became .* in one of the steps 1 to 10: "):
        run.fit(aliexpress.train, aliexpress.valid)
    assert not (tmp_path / "checkpoints").exists()


HIGH = r"the training has diverged by step (76|114): the loss of 'ct.*, and was 0\.\d+ in the first step.*: "
SKIPPED = (
    r"the last 7\d steps, up to step 76, trained nothing because losses or gradients were not finite \(task ctr, .*\): "
    "look at labels and numbers, "
)
RATES = [
    (recmtl.MMOE, torch.optim.Adam, 1e3, HIGH),
    (recmtl.SharedBottom, torch.optim.Adam, 1e3, HIGH),
    (recmtl.SharedBottom, torch.optim.Adam, 1e12, SKIPPED),
    (recmtl.SharedBottom, torch.optim.SGD, 1e12, SKIPPED),
]


@pytest.mark.parametrize(("cls", "optimizer", "rate", "message"), RATES)
def test_a_far_too_high_learning_rate_ends_training(
    cls: type, optimizer: type, rate: float, message: str, aliexpress: recmtl.PreparedData
) -> None:
    torch.manual_seed(0)
    options = Optimization(batch_size=64, optimizer=partial(optimizer, lr=rate))
    stopping = recmtl.EarlyStopping(patience=None)
    run = RunConfig(device="cpu", progress=False)
    run = recmtl.Trainer(cls(aliexpress.schema), None, 3, optimization=options, stopping=stopping, run=run)
    advice = re.escape(f"lower the learning rate ({rate:g} by now), or set `clip_norm`")
    with pytest.raises(DivergenceError, match=f"^{message}{advice}$"):
        run.fit(aliexpress.train, aliexpress.valid)


def test_a_loss_that_stays_too_high_ends_training(
    aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    high = tuple(range(11, 99))
    with pytest.raises(DivergenceError, match=r"^the training has diverged by step 31: the loss of 'ctr' is .*e\+"):
        trainer(aliexpress, high, 1e6, epochs=4, learning_rate=0.0).fit(aliexpress.train, aliexpress.valid)
    noted = [line for line in capsys.readouterr().err.splitlines() if "too high" in line]
    assert len(noted) == 1
    assert noted[0].startswith("step 11: the loss is far too high: ctr (")
    for steps in (high[:19], (*high[:19], *high[20:22])):  # not for 20 steps without a pause
        trainer(aliexpress, steps, 1e6, epochs=4, learning_rate=0.0).fit(aliexpress.train, aliexpress.valid)


def test_limits_worked_by_hand(small: recmtl.PreparedData) -> None:
    """100 times the first loss or that of the label rate; 10,000 times for a squared loss; none without either."""
    model = recmtl.SharedBottom(small.schema, layers=[4])
    run = recmtl.Trainer(model, run=RunConfig(device="cpu", progress=False))
    counter = NonFiniteCounter(model, run.balancer, [], [], limit=1)
    monitor = DivergenceMonitor(run.setup, counter, torch.optim.SGD(model.parameters()), lambda _: 0, pytest.fail)
    p = small.schema.rate(model.objectives[0]).mean
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    for first, expected in {
        (0.1, 5.0, 7.0): (100 * entropy, 500.0, 70_000.0),
        (9.0, np.nan, 0.0): (900.0, None, np.inf),
    }.items():
        _, limits = monitor._first_and_limits(torch.tensor(first))
        for limit, right in zip(limits.values(), expected, strict=True):
            assert right is None or limit == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize(
    ("cls", "rate"),  # of rates that move less, one model each
    [(recmtl.SharedBottom, 0.03), (recmtl.MMOE, 0.03), (recmtl.ESMM, 0.03), (recmtl.MMOE, 1e-4), (recmtl.ESMM, 0.0)],
)
def test_nothing_is_noted_at_a_sane_rate(
    cls: type, rate: float, aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even with small batches, each of them checked."""
    torch.manual_seed(0)
    options = Optimization(batch_size=64, optimizer=partial(torch.optim.Adam, lr=rate))
    run = RunConfig(device="cpu", log_every=1, tensorboard=False)
    recmtl.Trainer(cls(aliexpress.schema), epochs=2, optimization=options, run=run).fit(
        aliexpress.train, aliexpress.valid
    )
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == ["rows", "features", "model", "device", "run folder"]
    assert all(line.startswith("epoch ") for line in lines[5:])


def test_the_command_reports_divergence_in_one_line(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--data.test", f"{csv}/test.csv"]
    options = ["--trainer.optimization.optimizer", "torch.optim.Adam", "--trainer.optimization.optimizer.lr", "1000"]
    quick = [
        "--trainer.run.progress",
        "false",
        "--trainer.optimization.batch_size",
        "64",
        "--run",
        str(tmp_path / "run"),
    ]
    assert main(["train", *files, *options, *quick]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recmtl: ")]
    assert line.startswith("recmtl: the training has diverged by step")
    assert not RunFolder(tmp_path / "run").finished


def test_nonfinite_values_are_reported_once_by_name(
    aliexpress: recmtl.PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    towers = {"ctcvr": partial(Planted, steps=tuple(range(3, 21)))}
    model = recmtl.SharedBottom(aliexpress.schema, layers=[8], towers=towers)
    run = recmtl.RunConfig(folder=tmp_path / "run", log_every=1, device="cpu")
    options = recmtl.Optimization(batch_size=256)
    trainer = recmtl.Trainer(model, recmtl.PCGrad(), 2, optimization=options, run=run).fit(aliexpress.train)
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said == ["step 3: left out for not being finite: task ctcvr"]
    assert trainer.result.skipped["ctcvr"] == 18
    assert "ctr" not in trainer.result.skipped
    records = [r for r in RunFolder(tmp_path / "run").records() if "skipped" in r]
    assert [r["step"] for r in records] == list(range(3, 21))
    assert records[0]["skipped"]["ctcvr"] == 1
    assert all(p.isfinite().all() for p in model.parameters())
