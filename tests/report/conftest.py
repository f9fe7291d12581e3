"""Two finished runs on rows with hostile names and values."""

from pathlib import Path

import pytest
from bad_names import CARD, USAGE, rows

from recmtl.cli.main import main
from recmtl.train import RunFolder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the rows, their card and two runs."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "card.yaml").write_text(CARD)
    for name, count, seed in (("train", 1200, 0), ("valid", 400, 1), ("test", 600, 2)):
        rows(count, seed).to_csv(folder / f"{name}.csv", index=False)
    data = [f"--data.{name}={folder}/{name}.csv" for name in ("train", "valid", "test")]
    options = [f"--data.card={folder}/card.yaml", f"--data.cache={folder}/cache", "--trainer.run.progress=false"]
    options += ["--trainer.epochs=2", "--trainer.gradient_stats_every=2", "--trainer.optimization.batch_size=200"]
    options += ["--trainer.run.log_every=3", "--model.layers=[8]"]
    for name, model in (("<b>first&1", "MMOE"), ("second", "SharedBottom")):
        assert main(["train", f"--run={folder}/{name}", f"--model={model}", *data, *options]) == 0
    run = RunFolder(folder / "<b>first&1")
    assert list(run.usage()) == ["ctr", "cvr", "stay"]
    run.save_usage(USAGE)  # with an expert that one task hardly uses
    run.finish(run.result())
    assert not (folder / "second" / "usage.json").exists()
    return folder


@pytest.fixture(scope="session")
def first(folder: Path) -> Path:
    """The MMOE run, in which one task hardly uses an expert."""
    return folder / "<b>first&1"


@pytest.fixture(scope="session")
def page(folder: Path, first: Path) -> Path:
    """The report of both runs."""
    out = folder / "out.html"
    arguments = ["report", str(first), str(folder / "second"), "--out", str(out), "--draws", "20"]
    slices = ["--slice", "shop", "--slice", "genres", "--slice", "price"]
    assert main([*arguments, *slices, "--title", "</title><script>alert(2)</script>"]) == 0
    return out
