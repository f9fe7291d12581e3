"""Metrics as lines of text."""

import pytest

import recmtl
from recmtl.evaluate import Metrics


def test_a_line_per_task(context, capsys: pytest.CaptureFixture[str]) -> None:
    callback = recmtl.PrintMetrics(every=2)
    metrics = {"ctr": Metrics({"auc": 0.71234, "logloss": None}, 10), "cvr": Metrics({"auc": 0.5}, 10)}
    for step in (3, 6, 9):
        callback.on_evaluation(context(step=step), metrics)
    lines = ["epoch 1/2 step 6/10 · ctr: auc 0.7123, logloss –", "epoch 1/2 step 6/10 · cvr: auc 0.5000"]
    assert capsys.readouterr().out.splitlines() == lines
    with pytest.raises(ValueError, match="`every` must be at least 1, got 0"):
        recmtl.PrintMetrics(every=0)
