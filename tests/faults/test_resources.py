"""Memory that runs out and missing permissions: a one-line error before any work."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Tally
from forker import Forker, Job, is_line
from subject import OPTIONS, data

MEMORY = {"RLIMIT_AS": 5 << 30}  # address space that torch only reserves counts as well: 2 GiB and more


def refusal(job: Job, tally: Tally) -> str:
    """Return the error of a command, which must fail with one line."""
    tally.tried()
    assert (job.status, is_line(job.said)) == (2, True), job.said
    tally.survived()
    return job.said.splitlines()[-1].removeprefix("recmtl: ")


@pytest.fixture
def place(rows: Path, tmp_path: Path) -> Iterator[Path]:
    """Create a folder with the rows, a writable and a read-only folder."""
    shutil.copytree(rows, tmp_path / "rows")
    (tmp_path / "ours").mkdir()
    (tmp_path / "mine").mkdir(mode=0o555)
    yield tmp_path
    os.chmod(tmp_path / "mine", 0o755)


@pytest.mark.fault("folders and files that may not be touched")
def test_permissions(place: Path, forker: Forker, tally: Tally) -> None:
    small = ["train", *data(place / "rows"), *OPTIONS]
    cache = {"cache": str(place / "ours/cache")}
    said = refusal(forker.run(*small, "--run", place / "mine/run", powerless=True, **cache), tally)
    assert said == f"'{place}/mine/run' cannot be written: Permission denied"
    assert not (place / "ours/cache").exists()
    said = refusal(
        forker.run(*small, "--run", place / "ours/run", powerless=True, cache=str(place / "mine/cache")), tally
    )
    assert said.startswith(f"the cache '{place}/mine/cache' cannot be written: Permission denied: name a folder with")
    prepare = ["prepare", "--card", "aliexpress", "--train", place / "rows/train.csv", "--out"]
    said = refusal(forker.run(*prepare, place / "mine/out", powerless=True), tally)
    assert said == f"'{place}/mine/out' cannot be written: Permission denied"
    grid = ["--models", "MMOE", "--seeds", "1", "--out", place / "mine/compared"]
    said = refusal(forker.run("compare", *small[1:], *grid, powerless=True, **cache), tally)
    assert said == f"'{place}/mine/compared' cannot be written: Permission denied"
    said = refusal(forker.run(*small, "--run", place / "rows/train.csv/run", powerless=True, **cache), tally)
    file = f"'{place}/rows/train.csv'"
    assert said == f"'{place}/rows/train.csv/run' cannot be written: {file} is a file, not a folder"
    os.chmod(place / "rows/train.csv", 0)
    for command in ([*small, "--run", place / "ours/run"], [*prepare, place / "ours/out"]):
        said = refusal(forker.run(*command, powerless=True, **cache), tally)
        assert said.startswith(f"{place}/rows/train.csv cannot be read: ")
        assert "Permission denied" in said
    assert [path.name for path in (place / "ours").iterdir() if path.name != "cache"] == []


@pytest.mark.fault("folders and files that may not be touched")
def test_a_run_that_may_not_be_written(place: Path, forker: Forker, tally: Tally) -> None:
    run, cache = place / "run", {"cache": str(place / "ours/cache")}
    small = ["train", *data(place / "rows"), *OPTIONS, "--run", run]
    assert forker.run(*small, **cache).status == 0
    (run / "metrics.json").unlink()
    os.chmod(run, 0o555)
    said = refusal(forker.run(*small, "--resume", powerless=True, **cache), tally)
    assert said == f"'{run}' cannot be written: Permission denied"
    os.chmod(run, 0o755)
    assert forker.run(*small, "--resume", **cache).status == 0
    predict = ["predict", run, "--rows", place / "rows/test.csv", "--out", place / "mine/p.parquet"]
    said = refusal(forker.run(*predict, powerless=True, **cache), tally)
    assert said == f"'{place}/mine/p.parquet' cannot be written: Permission denied"
    os.chmod(run / "recipe.yaml", 0)
    refusal(forker.run(*predict, powerless=True, **cache), tally)


@pytest.mark.fault("memory that runs out")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--model", "SharedBottom", "--model.layers", "[50000,50000]"],
            "memory does not hold the model recmtl.Shared",
        ),
        (["--model", "MMOE", "--model.experts", str(10**9)], "memory does not hold the model recmtl.MMOE"),
        (
            ["--model.layers", "[150000]", "--trainer.optimization.batch_size", str(10**9)],
            "memory does not hold training on batches of 1,000,000,000 rows",
        ),
    ],
)
def test_memory(options: list[str], said: str, rows: Path, tmp_path: Path, forker: Forker, tally: Tally) -> None:
    small = ["train", *data(rows), *OPTIONS, "--model", "SharedBottom", *options, "--run", tmp_path / "run"]
    assert refusal(forker.run(*small, limits=MEMORY), tally).startswith(said)


@pytest.mark.fault("memory that runs out")
def test_a_table(rows: Path, tmp_path: Path, forker: Forker, tally: Tally) -> None:
    features = [{"categorical": "categorical_1", "hash_buckets": 10**9}, {"categorical": "categorical_2"}]
    card = {"features": features, "tasks": [{"name": "ctr", "label": "click"}]}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    small = ["train", *data(rows), *OPTIONS, "--data.card", tmp_path / "card.yaml", "--model", "SharedBottom"]
    said = refusal(forker.run(*small, "--run", tmp_path / "run", limits=MEMORY), tally)
    assert said.startswith("memory does not hold an embedding table of 1,000,0")
    assert "rows × 16, 1,000,000,002 of them for 'categorical_1'" in said
    assert ": give the feature fewer `hash_buckets`, a larger `min_count` or a smaller `width`" in said
    assert said.endswith("with `--trainer.shard_tables true`, which spreads the table over the processes")
