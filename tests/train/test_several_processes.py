"""Training in several processes: evaluations, weights, checkpoints and files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from together import place, together
from torch import nn

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.data import Loader
from recmtl.evaluate import Metrics, Predictions
from recmtl.train import RunFolder, predictor
from recmtl.train.distributed import (
    average_statistics,
    frozen_batch_norms,
    local_rank,
)
from recmtl.train.predictor import BATCH, Predictor, process_rows

STYLE = recmtl.LayerStyle(normalization="batch", dropout=0.2)


def prepared(csv: Path) -> recmtl.PreparedData:
    return recmtl.prepare(recmtl.card("aliexpress"), csv / "train.csv", csv / "valid.csv", csv / "test.csv")


def trainer(data: recmtl.PreparedData, folder: Path | None, rank: int = 0, **options: Any) -> recmtl.Trainer:
    torch.manual_seed(rank)  # the first process's weights count
    model = recmtl.MMOE(data.schema, layers=[16, 8], tower_layers=[8], **options)
    run = recmtl.RunConfig(folder, device="cpu", progress=False, tensorboard=False)
    return recmtl.Trainer(model, recmtl.PCGrad(), 2, optimization=recmtl.Optimization(batch_size=500), run=run)


def fitted(processes: ProcessGroup, csv: Path, folder: Path, style: recmtl.LayerStyle) -> tuple[Any, ...]:
    data = prepared(csv)
    fit = trainer(data, folder, processes.rank, style=style)
    assert (fit.setup.processes.rank, fit.setup.processes.size) == (processes.rank, processes.size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "BATCH", 70)  # rows: each process has some
        fit.fit(data.train, data.valid)
        measured = fit.finish({"valid": data.valid, "test": data.test})
        check_shares(fit, data.test, measured["test"], folder)
        return fit.model.state_dict(), measured, fit.predictor.outputs(data.test), fit.result.best


def check_shares(fit: recmtl.Trainer, rows: recmtl.Rows, measured: dict[str, Metrics], folder: Path) -> None:
    """Shares give what a process gives alone that predicts all rows."""
    alone, processes = Predictor(fit.setup).predict(rows), fit.setup.processes
    for task, metrics in alone.metrics().items():
        found, expected = measured[task].to_dict(), metrics.to_dict()
        assert found["auc"] == expected["auc"]
        assert found == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(fit.evaluate(rows)["logloss"], [m.values["logloss"] for m in measured.values()])
    own = fit.predict(rows)
    assert len(own) == len(process_rows(rows, processes.rank, processes.size))
    frames = [alone.table().to_pandas()[own.columns.tolist()], pd.concat(processes.all_gather_object(own))]
    pd.testing.assert_frame_equal(frames[0], frames[1].reset_index(drop=True), check_dtype=False)
    if processes.first:
        read = Predictions.read(rows.schema.schema, RunFolder(folder).predictions("test"))
        for task, values in alone.values.items():
            np.testing.assert_array_equal(read.values[task], values)
    told = fit.calibrate(rows, "platt")
    assert all(told.equals(other) for other in processes.all_gather_object(told))
    calibrated = Predictor(fit.setup).predict(rows)
    assert {*calibrated.uncalibrated} == {"ctr", "cvr"}
    assert fit.predictor.measure(rows)["ctr"].values["auc"] == calibrated.metrics()["ctr"].values["auc"]
    fit.model.calibration = None


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [1, 3])
def test_two_processes_evaluate_all_rows_once_and_end_with_one_model(csv: Path, tmp_path: Path, ensemble: int) -> None:
    style = recmtl.LayerStyle(ensemble=ensemble)
    ((_, measured, predictions, best),) = together(1, tmp_path / "1", fitted, csv, tmp_path / "one", style)
    several = together(2, tmp_path / "2", fitted, csv, tmp_path / "two", style)
    for found in several:
        assert all(found[0][name].equal(value) for name, value in several[0][0].items())
        assert found[3] == pytest.approx(best, abs=1e-3)
        for split, tasks in measured.items():
            for task, metrics in tasks.items():
                other, one = found[1][split][task].to_dict(), metrics.to_dict()
                assert (other["rows"], other["positives"]) == (one["rows"], one["positives"])
                assert other["auc"] == pytest.approx(one["auc"], abs=1e-3)
    for name, value in predictions.items():
        np.testing.assert_allclose(np.concatenate([found[2][name] for found in several]), value, atol=1e-5)
    files = [{str(path.relative_to(tmp_path / run)) for path in (tmp_path / run).rglob("*")} for run in ("one", "two")]
    assert files[0] == files[1]
    logs = [recmtl.train.RunFolder(tmp_path / run).records() for run in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert two.keys() == one.keys()
        if "loss" in one:
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.slow
def test_processes_end_with_one_model_despite_batch_norms_and_dropout(csv: Path, tmp_path: Path) -> None:
    """Each process has its own dropout masks and measures its own rows; the statistics are averaged."""
    several = together(2, tmp_path / "2", fitted, csv, tmp_path / "run", STYLE)
    for name, value in several[0][0].items():
        assert several[1][0][name].equal(value), name
    norms = [value for name, value in several[0][0].items() if name.endswith("running_mean")]
    assert norms
    assert all(norm.abs().max() > 0 for norm in norms)


def exchanged(processes: ProcessGroup) -> list[Any]:
    letters = ["a", "b"][processes.rank]
    norm = nn.BatchNorm1d(1, momentum=1.0).train()
    statistics = []
    for rows in ([2, 2], [2, 1], [0, 1]):  # of each process
        norm(torch.tensor([[1.0], [3.0]]) + 10 * processes.rank)
        average_statistics(processes, norm, rows[processes.rank])
        statistics.append(norm.running_mean.item())
    return [
        processes.broadcast_object(letters),
        processes.all_gather_object(letters),
        statistics,
        local_rank(processes),
    ]


def differing(processes: ProcessGroup, csv: Path) -> str:
    data = prepared(csv)
    rows = data.train if processes.first else data.test
    message = "process 0 trains with `training rows` 2400, process 1 with 300"
    with pytest.raises(recmtl.RunError, match=message) as error:
        trainer(data, None).fit(rows, data.valid)
    return str(error.value)


def exchanged_and_differing(processes: ProcessGroup, csv: Path) -> tuple[list[Any], str]:
    return exchanged(processes), differing(processes, csv)


@pytest.mark.slow
def test_processes_exchange_objects_and_check_that_they_agree(csv: Path, tmp_path: Path) -> None:
    assert exchanged(ProcessGroup()) == ["a", ["a"], [2.0] * 3, (0, 1)]
    (first, said), (other, said_too) = together(2, tmp_path / "2", exchanged_and_differing, csv)
    assert first == ["a", ["a", "b"], [7.0, 2.0, 2.0], (0, 2)]
    assert other == ["a", ["a", "b"], [7.0, 2.0, 12.0], (1, 2)]  # nobody has measured: each keeps its own
    assert said == said_too


def test_a_lost_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise RuntimeError("[/place/pair.cc:553] Connection closed by peer [127.0.0.1]:29. Check the logs!\nmore")

    processes = ProcessGroup()
    monkeypatch.setattr(processes, "size", 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", closed)
    with pytest.raises(recmtl.balance.LostRankError, match=r"in time: Connection closed by peer \[127.0.0.1\]:29$"):
        processes.sum(torch.ones(3))


@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_shares_make_the_batch(aliexpress: recmtl.PreparedData, rows: int) -> None:
    whole = next(Loader(aliexpress.train, rows, seed=3).epoch())
    parts = [next(Loader(aliexpress.train, rows, seed=3, processes=place(rank, 4)).epoch()) for rank in range(4)]
    for name in ("ids", "numeric", "labels"):
        assert torch.cat([getattr(part, name) for part in parts]).equal(getattr(whole, name))
        assert torch.cat([getattr(whole.part(place(rank, 4)), name) for rank in range(4)]).equal(getattr(whole, name))
    assert {part.total_rows for part in parts} == {len(whole)}
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1, 3 * BATCH - 1])
def test_processes_predict_whole_batches(aliexpress: recmtl.PreparedData, count: int) -> None:
    table = aliexpress.train.table
    rows = recmtl.Rows(aliexpress.schema, table.take(np.arange(count) % len(table)))
    parts = [process_rows(rows, rank, 2).table for rank in range(2)]
    assert len(parts[0]) % BATCH == 0 or not len(parts[1])
    assert [len(part) for part in parts] == [len(parts[0]), count - len(parts[0])]
    for part, start in zip(parts, (0, len(parts[0])), strict=True):
        assert part.equals(rows.table.slice(start, len(part)))


@pytest.mark.parametrize("count", [1, BATCH, 3 * BATCH - 1])
def test_processes_predict_in_step(
    aliexpress: recmtl.PreparedData, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All run the same number of batches, as they look up rows of spread tables together; each row counts once."""
    rows = recmtl.Rows(aliexpress.schema, aliexpress.train.table.take(np.arange(count) % len(aliexpress.train)))
    setup = trainer(aliexpress, None).setup
    found = []
    for rank in range(3):
        processes = ProcessGroup()
        monkeypatch.setattr(processes, "rank", rank)
        monkeypatch.setattr(processes, "size", 3)
        found.append([(len(batch), counts) for batch, counts in Predictor(setup, processes)._batches(rows)])
    assert len({len(batches) for batches in found}) == 1
    assert sum(rows for batches in found for rows, counts in batches if counts) == count
    assert all(rows == 1 for batches in found for rows, counts in batches if not counts)


def test_batch_norms_are_frozen_for_a_single_row() -> None:
    norm = nn.BatchNorm1d(2)
    before = norm.running_mean.clone()
    with frozen_batch_norms(nn.Sequential(norm), 1):
        assert norm(torch.ones(1, 2)).allclose(torch.ones(1, 2))
    assert norm.training
    assert norm.running_mean.equal(before)
    with frozen_batch_norms(norm, None), pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.ones(1, 2))


def test_a_gradient_that_would_stay_local_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    balancer = recmtl.Sum()
    balancer.processes = ProcessGroup()
    monkeypatch.setattr(balancer.processes, "size", 2)
    with pytest.raises(ValueError, match=r"`private` must hold all leaves .* a tensor of shape \(3,\) is missing"):
        balancer.backward([x.sum() + y.sum()], [x])
