"""Metrics, tasks and groups that do not exist are refused before rows are prepared; those that exist are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl.cli.main import main
from recmtl.errors import DataError

KNOWN = "auc, logloss, pr_auc, ne, ece, gauc, ndcg@10, recall@10"
REFUSED = {
    "ctr.auuc": f"`monitor` must name one of the metrics {KNOWN}, got 'ctr.auuc'",
    "auuc": f"`monitor` must name one of the metrics {KNOWN}, got 'auuc'",
    "ctrr.auc": "`monitor` must name one of the tasks ctr, cvr, ctcvr, got 'ctrr.auc'",
}
METRICS = """
def hits(predictions, labels, weights, groups):
    return float((predictions.round() == labels).mean())
"""


@pytest.fixture
def rows(csv: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of the generated rows, where preparing them is an error."""

    def prepare(*_: object) -> None:
        raise DataError("rows were prepared")

    monkeypatch.setattr("recmtl.recipe.data.prepare_cached", prepare)
    return ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--data.test", f"{csv}/test.csv"]


def said(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    return line.removeprefix("recmtl: ")


@pytest.mark.parametrize("monitor", REFUSED)
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--run"],
        ["train", "--model", "ESMM", "--run"],
        ["tune", "--out"],
        ["compare", "--models", "MMOE", "--baselines", "logistic", "--out"],
        ["compare", "--models", "MMOE", "--tuned", "--out"],
    ],
    ids=["train", "ESMM", "tune", "compare", "tuned"],
)
def test_a_monitor_that_does_not_exist(
    command: list[str], monitor: str, rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*command, str(tmp_path / "out"), *rows, "--trainer.stopping.monitor"]
    assert said([*options, monitor], capsys) == REFUSED[monitor]
    assert not [*(tmp_path / "out").glob("*")]
    assert said([*options, "cvr.auc"], capsys) == "rows were prepared"


def test_a_group_that_does_not_exist(rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(["train", "--run", str(tmp_path / "run"), *rows, "--trainer.stopping.group", "user"], capsys)
    assert found.startswith("`trainer.stopping.group` must be the group or a key of the schema")


@pytest.mark.parametrize("tuned", [[], ["--tuned"]], ids=["grid", "tuned"])
def test_a_metric_of_tables_that_does_not_exist(
    tuned: list[str], rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "--models", "MMOE", *tuned, "--out", str(tmp_path / "out"), *rows, "--metric"]
    assert said([*command, "auuc"], capsys).startswith("`metric` must be one of auc, ")
    assert said([*command, "logloss"], capsys) == "rows were prepared"


def test_own_metrics_can_be_monitored(
    rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metrics_of_test.py").write_text(METRICS)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["train", "--run", str(tmp_path / "run"), *rows, "--trainer.stopping.metrics"]
    command += ['{"ctr": ["own_metrics_of_test.hits"]}', "--trainer.stopping.monitor"]
    assert said([*command, "ctr.hits"], capsys) == "rows were prepared"
    assert said([*command, "ctcvr.hits"], capsys) == f"`monitor` must name one of the metrics {KNOWN}, got 'ctcvr.hits'"


def test_a_model_of_ones_own_may_have_objectives_that_the_schema_does_not_know(
    rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_model_of_test.py").write_text("import recmtl\n\n\nclass Own(recmtl.MMOE):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--model", "own_model_of_test.Own", "--trainer.stopping.monitor", "other.auc"]
    assert said(["train", "--run", str(tmp_path / "run"), *rows, *options], capsys) == "rows were prepared"


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ("number", "must be a function, got 3"),
        ("Loss", "must be a function, got <class 'own_loss_of_test.Loss'>"),
        ("gone", "module 'own_loss_of_test' has no function 'gone'"),
        ("loss", None),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--run"],
        ["tune", "--out"],
        ["compare", "--models", "SharedBottom", "--out"],
        ["compare", "--models", "SharedBottom", "--tuned", "--out"],
    ],
    ids=["train", "tune", "compare", "tuned"],
)
def test_a_loss_that_is_no_function(
    command: list[str],
    loss: str,
    reason: str | None,
    rows: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_loss_of_test.py").write_text("number = 3\nclass Loss: pass\ndef loss(z, y): return z\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    card = tmp_path / "card.yaml"
    card.write_text(f"features: [numeric: x]\ntasks: [{{name: y, label: y, loss: own_loss_of_test.{loss}}}]\n")
    found = said([*command, str(tmp_path / "out"), *rows, "--data.card", str(card)], capsys)
    named = f"the loss 'own_loss_of_test.{loss}' of task 'y'"
    assert found in ("rows were prepared" if reason is None else f"{named} {reason}", f"{named}: {reason}")
