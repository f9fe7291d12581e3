"""Exported weights in bf16 and int8."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl.cli.main import main
from recmtl.serving import export, graph
from recmtl.serving.manifest import read_manifest
from recmtl.serving.network import ServedNetwork, inputs_of
from recmtl.serving.probe import probe_columns, probe_table
from recmtl.serving.weights import has_fewer_bits, stored_parts
from recmtl.serving.written import WrittenNetwork


def restored(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0].float() if len(parts) == 1 else parts[0].float() * parts[1]


def test_weights_are_rounded_to_the_nearest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 16) * torch.logspace(-6, 6, 50)[:, None]
    weight[3] = 0
    bf16 = restored(stored_parts(weight, "bf16", -1))
    assert ((bf16 - weight).abs() <= weight.abs() * 2.0**-8).all()
    for axis in (-1, -2):
        values, scale = stored_parts(weight, "int8", axis)
        assert values.dtype == torch.int8
        assert scale.numel() == weight.shape[-3 - axis]
        assert ((restored([values, scale]) - weight).abs() <= scale / 2 * 1.0001).all()
    assert (restored(stored_parts(weight, "int8", -1))[3] == 0).all()


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    item, history = rng.integers(0, 40, 600), [rng.integers(0, 40, n).tolist() for n in rng.integers(0, 4, 600)]
    label = (rng.random(600) < 0.2 + 0.6 * (item % 2)).astype(int)
    return pd.DataFrame({"item": item.astype(str), "history": history, "price": rng.normal(size=600), "click": label})


@pytest.fixture(scope="module")
def trainer(rows: pd.DataFrame) -> recmtl.Trainer:
    lists = recmtl.MultiCategorical("history", share_with="item")
    schema = recmtl.Schema([recmtl.Categorical("item"), lists, recmtl.Numeric("price")], [recmtl.Task("ctr", "click")])
    data = recmtl.prepare(schema, rows, holdout=0)
    torch.manual_seed(0)

    def encoder(fitted: recmtl.FittedSchema) -> recmtl.FeatureEncoder:
        return recmtl.FeatureEncoder(fitted, width=8, numeric=recmtl.PlainNumbers)

    return recmtl.Trainer(recmtl.SharedBottom(data.schema, layers=[16], tower_layers=[16], encoder=encoder))


@pytest.mark.parametrize(("form", "kind"), [("onnx", "int8"), ("torch", "bf16")])
def test_a_graph_computes_with_rounded_weights(
    trainer: recmtl.Trainer, form: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "EXTERNAL_BYTES", 0)  # weights of an ONNX model lie in a file beside it
    network = ServedNetwork(trainer.model)
    generated = export.encoded(
        trainer.model.schema, probe_table(trainer.model.schema, probe_columns(trainer.model.schema, 200))
    )
    written = WrittenNetwork(network, form, tmp_path)  # type: ignore[arg-type]
    size, exact = written.size, written.predictions(generated)["ctr"]
    written.store_weights(kind)  # type: ignore[arg-type]
    found = written.predictions(generated)["ctr"]
    stored = [p for p in network.parameters() if has_fewer_bits(p)]
    assert len(stored) == 3  # the table, the bottom and the tower
    with torch.no_grad():
        for weight in stored:
            axis = -1 if weight is network.model.encoder.tables[0].weight or weight.shape[1] >= weight.shape[0] else -2
            weight.copy_(restored(stored_parts(weight, kind, axis)))
    with torch.inference_mode():
        batches = [inputs_of(trainer.model.schema, batch) for batch in recmtl.Loader(generated, 200).epoch()]
        twin = network.probabilities(*batches[0].values())["ctr"].numpy()
    np.testing.assert_allclose(found, twin, rtol=0, atol=1e-6)
    assert np.abs(found - exact).max() > 1e-6
    assert (tmp_path / "network.onnx.data").exists() == (form == "onnx")
    fewer = sum(p.numel() for p in stored) * (4 - {"bf16": 2, "int8": 1}[kind])
    assert written.size <= size - 0.7 * fewer or form == "torch"


@pytest.fixture(scope="module")
def run_folder(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    csv = rows.drop(columns="history")
    csv[:400].to_csv(folder / "train.csv", index=False)
    csv[400:].to_csv(folder / "test.csv", index=False)
    data = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv"), "--label", "click"]
    options = ["--model", "SharedBottom", "--model.layers", "[16]", "--trainer.epochs", "1"]
    assert main(["train", *data, *options, "--trainer.run.progress", "false", "--run", str(folder / "run")]) == 0
    return folder / "run"


def test_the_command_prints_what_weights_cost(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The AUC is that of `recmtl evaluate` on the test rows, whose file the recipe names."""
    monkeypatch.setattr(export, "CHECK_ROWS", 150)
    capsys.readouterr()
    command = ["export", str(run_folder), "--format", "torch", "--weights", "int8"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    first, changed, auc, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("on 300 rows predictions differ from the run's by at most ")
    assert re.fullmatch(
        r"int8 weights change predictions by at most \d.\de-\d\d; in fp32 the network has [\d,]+ bytes", changed
    )
    frame = recmtl.load_run(run_folder).evaluate(run_folder.parent / "test.csv")
    assert re.fullmatch(
        rf"AUC of click on 200 test rows: {frame['auc'].iloc[0]:.4f} → 0\.\d{{4}} \([+−][\d.e-]+\)", auc
    )
    assert read_manifest(tmp_path / "a")["weights"] == "int8"
    (run_folder.parent / "test.csv").rename(run_folder.parent / "moved.csv")
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    said = capsys.readouterr()
    assert (
        "note: what int8 weights cost is not measured: give `--rows`, labelled ones; those of the run cannot"
        in said.err
    )
    assert "AUC" not in said.out
    manifest = (tmp_path / "b" / "manifest.json").read_text()
    assert read_manifest(tmp_path / "b")["measured"]["weights"]["about"] == "no labelled rows"
    assert "/" not in manifest  # no path: a server shows all of it
    rows = ["--rows", str(run_folder.parent / "moved.csv")]
    assert main([*command, *rows, "--out", str(tmp_path / "c")]) == 0
    assert auc.replace("test rows", "given rows") in capsys.readouterr().out
