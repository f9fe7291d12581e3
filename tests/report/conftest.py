"""Two finished runs on rows whose names and values are as bad as they come."""

import json
from pathlib import Path

import pytest
from bad_names import CARD, USAGE, rows

import recmtl
from recmtl.cli import main
from recmtl.evaluate import Predictions
from recmtl.recipe import load_run
from recmtl.report import ReportedRun
from recmtl.report.data import RunData


def finish(folder: Path) -> None:
    """Leave predictions and what the gates take in a run folder."""
    trainer, run = load_run(folder), recmtl.train.RunFolder(folder)
    recipe = (folder / "recipe.yaml").read_text()
    bare = ReportedRun("", folder, run.schema(), recipe, (), "test", None, {})  # type: ignore[arg-type]
    data = RunData.open(bare, lambda what, rows: None).data
    assert data is not None
    for split in (data.valid, data.test):
        file = folder / "predictions" / f"{split.name}.parquet"
        file.parent.mkdir(exist_ok=True)
        predicted = trainer.predictions(split)
        Predictions(data.schema.schema, predicted, split.labels, split.weight, split.keys).write(file)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the rows, their card and two runs lie."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "card.yaml").write_text(CARD)
    for name, count, seed in (("train", 1200, 0), ("valid", 400, 1), ("test", 600, 2)):
        rows(count, seed).to_csv(folder / f"{name}.csv", index=False)
    data = [f"--data.{name}={folder}/{name}.csv" for name in ("train", "valid", "test")]
    options = [f"--data.card={folder}/card.yaml", f"--data.cache={folder}/cache", "--trainer.run.progress=false"]
    options += ["--trainer.epochs=2", "--trainer.diagnose_every=2", "--trainer.optimization.batch_size=200"]
    options += ["--trainer.run.log_every=3", "--model.layers=[8]"]
    for name, model in (("<b>first&1", "MMOE"), ("second", "SharedBottom")):
        assert main(["train", f"--run={folder}/{name}", f"--model={model}", *data, *options]) == 0
        finish(folder / name)
    (folder / "<b>first&1" / "usage.json").write_text(json.dumps({"experts": USAGE}))
    return folder


@pytest.fixture(scope="session")
def first(folder: Path) -> Path:
    """An MMOE, of which one expert is hardly used."""
    return folder / "<b>first&1"


@pytest.fixture(scope="session")
def page(folder: Path, first: Path) -> Path:
    """The report on both runs."""
    out = folder / "out.html"
    arguments = ["report", str(first), str(folder / "second"), "--out", str(out), "--draws", "20"]
    slices = ["--slice", "shop", "--slice", "genres", "--slice", "price"]
    assert main([*arguments, *slices, "--title", "</title><script>alert(2)</script>"]) == 0
    return out
