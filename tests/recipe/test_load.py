"""Runs that were trained on another machine than the one that loads them."""

import warnings
from pathlib import Path

import pytest
import torch

import recmtl
from recmtl.cli.main import main
from recmtl.recipe.load import without_gpu_options


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_run_from_a_gpu_predicts_in_fp32_on_a_cpu(
    precision: str, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = tmp_path / "run"
    data = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--data.test", f"{csv}/test.csv"]
    options = ["--model", "SharedBottom", "--trainer.epochs", "1", "--trainer.run.progress", "false"]
    assert main(["train", *data, *options, "--trainer.run.threads", "3", "--run", str(folder)]) == 0
    recipe = (folder / "recipe.yaml").read_text()
    assert "# 3 threads\n" in recipe
    expected = recmtl.load_run(folder).predict(csv / "test.csv")
    changed = recipe.replace("precision: fp32", f"precision: {precision}")
    changed = changed.replace("cuda_graph: null", f"cuda_graph: {'true' if precision == 'tf32' else 'null'}")
    (folder / "recipe.yaml").write_text(changed)
    with pytest.warns(UserWarning, match=f"the run was trained in '{precision}' on a GPU: predictions are computed in"):
        loaded = recmtl.load_run(folder)
    assert loaded.setup.run.threads is None  # of the machine that trained
    assert loaded.predict(csv / "test.csv").equals(expected)


def test_the_precision_of_a_run_stays_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    recipe = {"trainer": {"optimization": {"precision": "fp16", "cuda_graph": True}}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without_gpu_options(recipe)
    assert recipe == {"trainer": {"optimization": {"precision": "fp16", "cuda_graph": True}}}
