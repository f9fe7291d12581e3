"""A rotation predicts the same in the trainer, in a saved run, in the command, and folded into the towers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.models.base import IdentityFork

CLOSE = 1e-5


@pytest.mark.parametrize(("model", "size"), [("SharedBottom", 6), ("MMOE", None), ("ESMM", 6)])
def test_command_trainer_and_folded_model_predict_the_same(
    csv: Path, tmp_path: Path, model: str, size: int | None
) -> None:
    run, rows = tmp_path / "run", str(csv / "test.csv")
    files = [
        "--data.card",
        "aliexpress",
        "--data.train",
        str(csv / "train.csv"),
        "--data.valid",
        str(csv / "valid.csv"),
    ]
    layers = [] if model == "ESMM" else ["--model.layers", "[16,8]"]
    rotation = ["--balancer", "RotoGrad", "--balancer.rotation_size", "null" if size is None else str(size)]
    fast = ["--trainer.optimization.batch_size", "128", "--trainer.optimization.balancer_rate", "0.05"]
    training = ["--trainer.epochs", "2", *fast, "--trainer.run.device", "cpu", "--run", str(run)]
    assert main(["train", *files, "--model", model, *layers, *rotation, *training]) == 0
    assert main(["predict", str(run), "--rows", rows, "--out", str(tmp_path / "predicted.parquet")]) == 0

    trainer = recmtl.load_run(run)
    expected = trainer.predict(rows)
    predicted = pd.read_parquet(tmp_path / "predicted.parquet").drop(columns=["label_click", "label_conversion"])
    pd.testing.assert_frame_equal(predicted, expected, check_dtype=False, check_exact=True)  # keys are int64, or Int64

    folded = trainer.model.fold()
    assert isinstance(folded.fork, IdentityFork)
    assert folded.schema is trainer.model.schema  # vocabularies may be large
    assert not any(name.startswith("fork") for name in folded.state_dict())
    assert [p.shape for p in folded.heads.parameters()] == [p.shape for p in trainer.model.heads.parameters()]
    predicted = recmtl.Trainer(folded, run=recmtl.RunConfig(device="cpu")).predict(rows)
    assert np.abs(predicted - expected).to_numpy().max() < CLOSE

    trainer.model.fork = IdentityFork()
    without = recmtl.Trainer(trainer.model, run=recmtl.RunConfig(device="cpu")).predict(rows)
    assert np.abs(without - expected).to_numpy().max() > 10 * CLOSE  # the rotation does something


def test_the_trainer_and_its_run_predict_the_same(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    def built() -> recmtl.Trainer:
        model = recmtl.MMOE(aliexpress.schema, layers=[16, 8])
        options = recmtl.Optimization(batch_size=128, balancer_rate=0.05)
        run = recmtl.RunConfig(folder=tmp_path / "run", progress=False, device="cpu")
        return recmtl.Trainer(model, recmtl.RotoGrad(), epochs=1, optimization=options, run=run)

    trainer = built().fit(aliexpress.train, aliexpress.valid)
    expected = trainer.predict(aliexpress.test)
    pd.testing.assert_frame_equal(built().load().predict(aliexpress.test), expected)
    folded = recmtl.Trainer(trainer.model.fold(), run=recmtl.RunConfig(device="cpu"))
    assert np.abs(folded.predict(aliexpress.test) - expected).to_numpy().max() < CLOSE
