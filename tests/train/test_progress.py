"""What a training prints: a summary first, a line every ten seconds, and the time left."""

import re
import time
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
import torch
from together import place

import recmtl
from recmtl.evaluate import Metrics
from recmtl.features import EmbeddingTable
from recmtl.io import display as display_module
from recmtl.schema import Categorical, IdBlock
from recmtl.train import Optimization, RunConfig, Step
from recmtl.train import describe as describe_module
from recmtl.train import progress as progress_module
from recmtl.train.describe import describe_setup, spread_note
from recmtl.train.progress import TrainingProgress, duration


def trainer(data: recmtl.PreparedData, **run: object) -> recmtl.Trainer:
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[16, 8])
    options = Optimization(batch_size=256)
    return recmtl.Trainer(model, recmtl.PCGrad(), 2, optimization=options, run=RunConfig(device="cpu", **run))


def test_the_setup_in_five_lines(
    aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe_module, "describe_precision", lambda device, precision: f"{precision} by oneDNN")
    ready = trainer(aliexpress)
    tables = sum(table.weight.numel() for table in ready.model.encoder.tables)
    dense = sum(p.numel() for p in ready.model.parameters()) - tables
    expected = [
        "rows: 2,400 for training in batches of 256, 300 for validation",
        "features: 16 Categorical, 63 Numeric",
        f"model: SharedBottom with PCGrad, {tables:,} parameters in embedding tables and {dense:,} dense ones",
        "device: cpu, 1 thread, fp32 by oneDNN",
        "run folder: none",
    ]
    assert describe_setup(ready.setup, aliexpress.train, aliexpress.valid) == expected
    ready.fit(aliexpress.train, aliexpress.valid)
    assert capsys.readouterr().err.splitlines()[:5] == expected
    assert (
        describe_setup(ready.setup, aliexpress.train, None)[0]
        == "rows: 2,400 for training in batches of 256, none for validation"
    )


def test_the_setup_says_that_no_table_is_spread(aliexpress: recmtl.PreparedData) -> None:
    setup = trainer(aliexpress).setup
    whys = {1: "there is one process", 2: "no table has more than 1,000,000 elements"}
    for (processes, why), option in product(whys.items(), (True, "torchrec")):
        several = replace(setup, processes=place(0, processes), shard_tables=option)
        assert spread_note(several) == [f"tables: none is spread by `shard_tables`, as {why}"]
    assert spread_note(setup) == []


def test_a_table_that_one_process_holds_alone(aliexpress: recmtl.PreparedData) -> None:
    rows = 300_000
    table = EmbeddingTable([IdBlock(Categorical("user", hash_buckets=rows), rows, 0, 1)], width=4)
    setup = trainer(aliexpress).setup
    table.shard(setup.processes)
    setup.model.add_module("user", table)
    (note,) = spread_note(setup)
    assert note == "tables: 1,200,000 of these parameters are spread over 1 process"


def test_the_setup_names_tasks_whose_labels_say_nothing() -> None:
    tasks = [recmtl.Task("a", "a"), recmtl.Task("b", "b", weight_column="w"), recmtl.Task("c", "c", kind="amount")]
    rows = pd.DataFrame({"x": ["i", "j"] * 4, "a": 0, "b": [0, 1] * 4, "c": 0.0, "w": 0.0})
    data = recmtl.prepare(recmtl.Schema([recmtl.Categorical("x")], tasks), rows, holdout=0)
    found = describe_setup(trainer(data).setup, data.train, None)
    assert [line for line in found if line.startswith("task")] == [
        "task 'a' has one class in the training rows: every label is 0",
        "task 'b' has no training row with a label and a weight above 0",
        "task 'c' has no amount in the training rows: every label is 0",
    ]


def test_nothing_is_printed_unless_asked_for(
    aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(aliexpress, progress=False).fit(aliexpress.train, aliexpress.valid)
    assert capsys.readouterr() == ("", "")


def test_a_slow_step_is_shown_whatever_the_interval_of_the_log(
    aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With lines that are due at once; the log has one record per epoch."""
    for module in (display_module, progress_module):
        monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    trainer(aliexpress).fit(aliexpress.train)
    lines = [line for line in capsys.readouterr().err.splitlines() if " step " in line and "loss" in line]
    assert len(lines) == 20
    pattern = r"epoch 1/2 step 1/10 · loss ctr [\d.]+ ctcvr [\d.]+ · [\d,]+ rows/s · at most \d+ s left"
    assert re.fullmatch(pattern, lines[0])
    assert lines[-1].endswith("at most 0 s left")


def test_a_slow_first_step_is_shown_before_it_ends(
    aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, plain = [], Step.__call__

    def slow(self: Step, *arguments: object) -> torch.Tensor:
        if not shown:
            time.sleep(0.5)
            shown.extend(capsys.readouterr().err.splitlines())
        return plain(self, *arguments)

    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.1)
    monkeypatch.setattr(Step, "__call__", slow)
    trainer(aliexpress).fit(aliexpress.train)
    assert shown[-1] == "epoch 1/2 step 0/10 · the first step takes long"
    assert "takes long" not in capsys.readouterr().err


def test_the_log_does_not_depend_on_what_is_shown(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trainer(aliexpress, progress=False).fit(aliexpress.train)
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    shown = trainer(aliexpress).fit(aliexpress.train)
    losses = [[r["loss"] for r in fitted.result.records] for fitted in (plain, shown)]
    assert losses[0] == losses[1]


def test_the_time_left_is_that_of_the_steps_since_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run resumes after 100 of 300 steps and takes 50 steps in 60 seconds: 150 steps are left."""
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with TrainingProgress(shown=True) as progress:
        progress.start(epochs=3, steps=100, done=100)
        assert not progress.due(1)
        now[0] += 60
        assert progress.due(50)
        progress.show_step(2, 50, {"ctr": 0.5}, 1234.5)
        assert not progress.due(51)
        progress.show_metrics(2, 100, {"ctr": Metrics({"auc": 0.75}, 10), "cvr": Metrics({"auc": None}, 0)}, best=True)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 2/3 step 50/100 · loss ctr 0.5000 · 1,234 rows/s · at most 3 min left",
        "epoch 2/3 · valid ctr auc 0.7500 cvr auc – · best",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3899, "1 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
