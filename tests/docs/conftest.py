"""Where a reader would be: folders with generated rows and a finished run."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from recmtl.cli.main import main
from recmtl.data.synthetic.generate import synthesize

ROWS = 4_000


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages need: `rows`, `aliexpress` and `run`, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("places")
    synthesize(folder / "rows" / "rows", ROWS, seed=1, click_rate=0.2, conversion_rate=0.3)
    (folder / "aliexpress" / "AliExpress_NL").mkdir(parents=True)
    for name in ("train.csv", "test.csv"):
        shutil.copy(folder / "rows" / "rows" / name, folder / "aliexpress" / "AliExpress_NL" / name)
    synthesize(folder / "raw", 1000, layout="raw")
    shutil.make_archive(str(folder / "aliexpress" / "AliExpress_NL"), "zip", folder / "raw")
    shutil.copytree(folder / "rows" / "rows", folder / "run" / "rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECMTL_CACHE", str(folder / "cache"))
        patch.chdir(folder / "run")
        options = "--config demo --data.train rows/train.csv --data.test rows/test.csv --run runs/first"
        small = "--trainer.epochs 1 --model.layers [32,16] --trainer.gradient_stats_every 1"
        assert main(["train", *options.split(), *small.split()]) == 0
    return folder


@pytest.fixture
def reader(
    places: Path, tmp_path: Path, warm_jobs: None, warm_workers: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Sequence[str]], Path]:
    """Return a function that puts what a page needs into a new working directory."""

    def settle(needs: Sequence[str]) -> Path:
        here = tmp_path / "here"
        here.mkdir()
        for need in needs:
            shutil.copytree(places / need, here, dirs_exist_ok=True)
        monkeypatch.chdir(here)
        return here

    return settle
