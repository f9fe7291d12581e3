"""Losses of one's own: as a function, by import path from a card, and what is said of those that fail."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import recmtl
from recmtl.cli.train import train_command
from recmtl.data import Batch, Loader
from recmtl.data.store.prepared import PreparedData
from recmtl.models import Losses

ROWS = pd.DataFrame({"x": np.random.default_rng(0).normal(size=80), "y": np.arange(80) % 2})
QUIET = recmtl.RunConfig(progress=False, device="cpu")


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def prepared(loss: object, **options: object) -> recmtl.PreparedData:
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("y", "y", loss=loss, **options)])
    return recmtl.prepare(schema, ROWS, holdout=0)


def trained(data: recmtl.PreparedData, **options: object) -> recmtl.Trainer:
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[4], tower_layers=[4], **options)
    return recmtl.Trainer(model, run=QUIET, epochs=1).fit(data.train)


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize("options", [{}, {"pos_weight": 3.0, "label_smoothing": 0.1}], ids=["plain", "weighted"])
def test_a_function_trains_like_the_loss_it_equals(ensemble: int, options: dict) -> None:
    """It gets rows `[B]`, also those of the members of an ensemble."""
    shapes = set()

    def own(logits: Tensor, labels: Tensor) -> Tensor:
        shapes.add((logits.dim(), labels.shape == logits.shape))
        return entropy(logits, labels)

    style = recmtl.LayerStyle(ensemble=ensemble)
    found, expected = (trained(prepared(loss, **options), style=style) for loss in (own, "bce"))
    for mine, theirs in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert shapes == {(1, True)}


def batch_of(data: recmtl.PreparedData) -> Batch:
    (batch,) = Loader(data.train, 80).epoch()
    return batch


def failing(logits: Tensor, labels: Tensor) -> Tensor:
    raise KeyError("rate")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (failing, r"the loss '.*test_own_loss.failing' of task 'y' raised KeyError: 'rate'"),
        (
            lambda z, y: entropy(z, y).mean(),
            r"must return a float for each row, of shape \[80\], got torch.float32 \[\]",
        ),
        (lambda z, y: z[:, None] - y, r"of shape \[80\], got torch.float32 \[80, 80\]"),
        (lambda z, y: z > y, r"of shape \[80\], got torch.bool \[80\]"),
        (lambda z, y: 1.0, r"of shape \[80\], got float"),
        ("no_such_module.loss", r"'no_such_module.loss' of task 'y': there is no module 'no_such_module'"),
        (f"{__name__}.entropi", r"entropi' of task 'y': module '.*' has no function 'entropi'; did you mean 'entropy'"),
    ],
)
def test_a_loss_that_fails_is_named_in_one_sentence(loss: object, said: str) -> None:
    data = prepared(loss)
    with pytest.raises(recmtl.RunError, match=said) as found:
        Losses(data.schema, data.schema.schema.tasks)({"y": torch.zeros(80)}, batch_of(data))
    assert "\n" not in str(found.value)


def test_a_loss_of_nan_ends_the_training_with_its_name() -> None:
    def bad(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sqrt() * torch.nan

    options = recmtl.Optimization(nonfinite="error")
    data = prepared(bad)
    trainer = recmtl.Trainer(recmtl.SharedBottom(data.schema, layers=[4]), optimization=options, run=QUIET)
    with pytest.raises(recmtl.DivergenceError, match=r"not finite in step 1: task y, by its loss .*bad"):
        trainer.fit(data.train)


def test_a_name_that_is_none_lists_the_losses() -> None:
    said = r"'y': `loss` of a binary task must be one of bce, focal, or the import path of your own .*, got 'bces'"
    with pytest.raises(recmtl.SchemaError, match=said):
        recmtl.Task("y", "y", loss="bces")


def test_memory_that_runs_out_is_no_fault_of_the_loss() -> None:
    def greedy(logits: Tensor, labels: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    data = prepared(greedy)
    with pytest.raises(torch.OutOfMemoryError):
        Losses(data.schema, data.schema.schema.tasks)({"y": torch.zeros(80)}, batch_of(data))


MODULE = """
import torch

def asymmetric(logits, labels):
    return torch.nn.functional.softplus(torch.where(labels > 0.5, -2 * logits, logits))
"""


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A card with a loss of a module in the working directory; called, the module is gone."""
    (tmp_path / "mine_losses.py").write_text(MODULE)
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    prepared("mine_losses.asymmetric").schema.schema.save(tmp_path / "card.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def remove() -> None:
        sys.modules.pop("mine_losses", None)
        (tmp_path / "mine_losses.py").unlink(missing_ok=True)

    yield remove
    sys.modules.pop("mine_losses", None)


TRAIN = ["--data.card", "card.yaml", "--data.train", "rows.csv", "--model", "SharedBottom", "--model.layers", "[4]"]
TRAIN += ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--trainer.run.device", "cpu"]


def test_a_card_names_a_loss(card: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    """From its card it is trained with; a run or prepared rows must be trusted to train on, and not to predict."""
    assert train_command([*TRAIN, "--run", "run"]) == 0
    run = recmtl.load_run("run")
    before = run.predict("rows.csv")
    untrusted = "of task 'y': 'mine_losses.asymmetric' was named by a file and is not trusted: .* `--trust mine_losses`"
    with pytest.raises(recmtl.RunError, match=untrusted):
        run.fit(recmtl.prepare(run.model.schema.schema, ROWS, holdout=0, extend="run").train)
    options = [
        "--continue",
        "run",
        "--data.train",
        "more.csv",
        "--trainer.epochs",
        "1",
        "--trainer.run.progress",
        "false",
    ]
    ROWS.assign(x=ROWS.x + 1).to_csv("more.csv", index=False)
    with pytest.raises(ValueError, match=untrusted):
        train_command([*options, "--run", "next"])
    assert train_command([*options, "--run", "next", "--trust", "mine_losses"]) == 0
    trusting = recmtl.load_run("run", trust="mine_losses")
    assert trusting.model.task_losses({"y": torch.zeros(80)}, batch_of(prepared("bce")))["y"].item() > 0
    card()
    pd.testing.assert_frame_equal(recmtl.load_run("run").predict("rows.csv"), before)


def test_prepared_rows_are_trusted_by_name(card: Callable[[], None], tmp_path: Path) -> None:
    recmtl.prepare(recmtl.Schema.load("card.yaml"), ROWS, holdout=0, out=tmp_path / "data")
    for trust, fails in (((), True), (("mine_losses",), False)):
        data = PreparedData.open(tmp_path / "data", trust)
        losses = Losses(data.schema, data.schema.schema.tasks)
        if fails:
            with pytest.raises(recmtl.RunError, match="not trusted"):
                losses({"y": torch.zeros(80)}, batch_of(data))
        else:
            losses({"y": torch.zeros(80)}, batch_of(data))


def test_a_function_is_saved_by_its_path(tmp_path: Path) -> None:
    trainer = trained(prepared(entropy))
    schema = trainer.model.schema.schema
    assert schema.to_dict()["tasks"][0]["loss"] == f"{__name__}.entropy"
    schema.save(tmp_path / "card.yaml")
    loaded = recmtl.Schema.load(tmp_path / "card.yaml")
    assert loaded.tasks[0].loss == f"{__name__}.entropy"
    named = prepared(loaded.tasks[0].loss)
    assert named.schema.fingerprint == trainer.model.schema.fingerprint
    for mine, theirs in zip(trained(named).model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert dataclasses.replace(loaded.tasks[0], weight=2.0).own_loss


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: (z - y).detach() ** 2,
        lambda z, y: y**2,
        lambda z, y: torch.ones_like(z),
        torch.no_grad()(entropy),
    ],
    ids=["detached", "labels", "constant", "no_grad"],
)
def test_a_loss_without_a_gradient_is_refused(loss: object) -> None:
    with pytest.raises(recmtl.RunError, match=r"the loss .* of task 'y' has no gradient: compute it from the logits"):
        trained(prepared(loss))


def test_a_loss_of_nothing_but_zeros_needs_no_gradient() -> None:
    """Such as one of pairs has it in a batch without any."""

    def odd(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(len(z))
        return entropy(z, y) if len(calls) % 2 else torch.zeros_like(y)

    calls: list[int] = []
    trained(prepared(odd))
    assert len(calls) > 2


def test_a_loss_is_measured_without_a_gradient() -> None:
    """Rows are measured without gradients, and so is a frozen model."""
    data = prepared(entropy)
    losses = Losses(data.schema, data.schema.schema.tasks)
    logits = torch.zeros(80, requires_grad=True)
    with torch.inference_mode():
        assert losses({"y": logits}, batch_of(data))["y"].item() > 0
    assert losses({"y": logits.detach()}, batch_of(data))["y"].item() > 0


@pytest.mark.parametrize("options", [{}, {"pos_weight": 3.0, "label_smoothing": 0.1}], ids=["plain", "weighted"])
def test_a_loss_may_change_what_it_gets(options: dict) -> None:
    def doubled(logits: Tensor, labels: Tensor) -> Tensor:
        return entropy(2 * logits, labels / 2)

    def in_place(logits: Tensor, labels: Tensor) -> Tensor:
        return entropy(logits.mul_(2), labels.div_(2))

    found, expected = (trained(prepared(loss, **options)) for loss in (in_place, doubled))
    for mine, theirs in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_loss_that_exits_is_named() -> None:
    def leaving(logits: Tensor, labels: Tensor) -> Tensor:
        sys.exit(3)

    with pytest.raises(recmtl.RunError, match=r"leaving' of task 'y' raised SystemExit: 3"):
        trained(prepared(leaving))


def test_an_interrupt_is_no_fault_of_the_loss() -> None:
    def interrupted(logits: Tensor, labels: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(prepared(interrupted))


def test_a_class_is_no_loss() -> None:
    with pytest.raises(recmtl.SchemaError, match=r"or the import path of your own .*, got <class 'torch.nn"):
        recmtl.Task("y", "y", loss=torch.nn.BCEWithLogitsLoss)
