"""Bit flips on disk: a damaged file is named, and what is accepted is unchanged."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Tally
from forker import Forker, is_line

import recmtl
from recmtl.data import DataError, PreparedData
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.runs.checkpoints import Checkpoints
from recmtl.train import Optimization, RunConfig, RunError, RunFolder


def flip(path: Path, random: np.random.Generator) -> None:
    """Flip a random bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


@pytest.fixture(scope="module")
def data(aliexpress: recmtl.PreparedData) -> recmtl.PreparedData:
    """Return a dataset of few rows."""
    rows = {
        name: recmtl.Rows(aliexpress.schema, aliexpress.splits[name].table.slice(0, 300)) for name in ("train", "valid")
    }
    return recmtl.PreparedData(aliexpress.schema, rows)


def trainer(data: recmtl.PreparedData, folder: Path) -> recmtl.Trainer:
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[8])
    run = RunConfig(folder, progress=False, tensorboard=False, device="cpu", checkpoint_every=3)
    return recmtl.Trainer(model, recmtl.PCGrad(), 2, optimization=Optimization(batch_size=60), run=run)


@pytest.fixture(scope="module")
def whole(data: recmtl.PreparedData, tmp_path_factory: pytest.TempPathFactory) -> recmtl.Trainer:
    """Train a run with two checkpoints, at steps 9 and 10."""
    found = trainer(data, tmp_path_factory.mktemp("whole") / "run").fit(data.train, data.valid)
    assert list(found.folder.steps()) == [9, 10]
    return found


@pytest.mark.fault("bit flips over checkpoints")
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("part", range(5))
def test_checkpoints(
    part: int,
    both: bool,
    whole: recmtl.Trainer,
    data: recmtl.PreparedData,
    tmp_path: Path,
    random: np.random.Generator,
    tally: Tally,
) -> None:
    """The run resumes from the older checkpoint and ends as before; if both are damaged, that is an error."""
    for number in range(10):
        folder, notes = RunFolder(tmp_path / str(number)), []
        shutil.copytree(whole.folder.path, folder.path)
        steps = folder.steps()
        for step in steps if both else [10]:
            flip(random.choice(sorted(path for path in steps[step].rglob("*") if path.is_file())), random)
        tally.tried()
        if both:
            with pytest.raises(RunError, match=f"all checkpoints of '{folder.path}' are damaged"):
                Checkpoints(folder).restore(notes.append)
        elif number:
            assert Checkpoints(folder).restore(notes.append)["done"] == 9
        else:
            again = trainer(data, folder.path).fit(data.train, data.valid, resume=True, note=notes.append)
            states = again.model.state_dict(), whole.model.state_dict()
            assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
        assert len(notes) == 1 + both
        assert all(f"{folder.path}/checkpoints/step-" in note and " is damaged" in note for note in notes)
        tally.survived(lost=0 if both else 1, unit="checkpoints")
        shutil.rmtree(folder.path)


def flips(folder: Path, random: np.random.Generator, tally: Tally, number: int = 25) -> Iterator[Path]:
    """Flip a bit of one file of a dataset after the other, and restore it."""
    paths = sorted(folder.iterdir())
    for i in range(number):
        path = paths[i % len(paths)]
        content = path.read_bytes()
        flip(path, random)
        tally.tried()
        yield path
        path.write_bytes(content)


@pytest.mark.fault("bit flips over prepared datasets")
@pytest.mark.parametrize("part", range(4))
def test_prepared(
    part: int, rows: Path, tmp_path: Path, random: np.random.Generator, forker: Forker, tally: Tally
) -> None:
    """Open the dataset in a process of its own, as damage might crash it."""
    out, unseen = tmp_path / "out", []
    recmtl.prepare(recmtl.card("aliexpress"), *(rows / f"{name}.csv" for name in ("train", "valid", "test")), out=out)
    before = forker.run("digest", out).printed
    for path in flips(out, random, tally):
        job = forker.run("digest", out)
        if (job.status == 0 and job.printed == before) or (
            job.status == 2 and is_line(job.said) and str(out) in job.said
        ):
            tally.survived()
        else:
            unseen.append(f"{path.name}: {job.status} {job.said[-200:]}")
    assert unseen == []


@pytest.mark.fault("bit flips over the cache")
@pytest.mark.parametrize("part", range(2))
def test_cached(
    part: int, rows: Path, tmp_path: Path, random: np.random.Generator, forker: Forker, tally: Tally
) -> None:
    def open_cached() -> PreparedData:
        files = [str(rows / f"{name}.csv") for name in ("train", "valid", "test")]
        return prepare_cached(recmtl.card("aliexpress"), *files, cache=tmp_path / "cache")

    open_cached()
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
    before = forker.run("digest", folder).printed
    for _ in flips(folder, random, tally):
        said = ""
        try:
            open_cached()
            assert forker.run("digest", folder).printed == before
        except DataError as error:
            said = str(error)
        assert not said or str(folder) in said
        tally.survived()
