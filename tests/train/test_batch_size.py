"""The batch size: as given, or by the number of training rows."""

import json
from pathlib import Path

import pytest
import torch

import recmtl
from recmtl.train import Optimization, RunConfig, setup
from recmtl.train.setup import default_batch_size


def trainer(data: recmtl.PreparedData, folder: Path | None = None, **optimization: object) -> recmtl.Trainer:
    torch.manual_seed(0)
    return recmtl.Trainer(
        recmtl.SharedBottom(data.schema, layers=[4]),
        epochs=1,
        optimization=Optimization(**optimization),
        run=RunConfig(folder, progress=False, tensorboard=False, device="cpu"),
    )


def test_many_rows_have_batches_of_2048() -> None:
    assert default_batch_size(40_000_000) == 2048


def test_the_default_follows_the_training_rows(small: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "BATCH_SIZES", {0: 16, 100: 32, 1000: 64})
    assert [default_batch_size(rows) for rows in (1, 99, 100, 999, 1000, 10**9)] == [16, 16, 32, 32, 64, 64]
    rows = len(small.train)
    fitted = trainer(small).fit(small.train)
    assert fitted.result.batch_size == 32
    assert fitted.setup.batch_size(small.train) == 32
    assert 100 <= rows < 1000


def test_a_given_batch_size_is_kept(small: recmtl.PreparedData) -> None:
    assert trainer(small, batch_size=7).fit(small.train).result.batch_size == 7


def test_a_run_records_its_batch_size_and_resumes_with_no_other(
    small: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "BATCH_SIZES", {0: 50})
    first = trainer(small, tmp_path / "run").fit(small.train, small.valid)
    monkeypatch.setattr(setup, "BATCH_SIZES", {0: 40})
    again = trainer(small, tmp_path / "run")
    with pytest.raises(recmtl.RunError, match="was begun with `batch_size` 50, which is 40 now"):
        again.fit(small.train, small.valid, resume=True)
    first.finish({"valid": small.valid})
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["batch_size"] == 50
