"""`recmtl train --continue`: the recipe of a run on the rows of another day."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import recmtl
from recmtl.cli.main import main
from recmtl.errors import UsageError
from recmtl.runs.folder import RunFolder
from recmtl.schema.serialization import LAYOUT
from recmtl.train import Step
from recmtl.train.trained_run import TrainedRun

QUIET = ("--trainer.run.progress", "false", "--trainer.run.tensorboard", "false")


def write_day(path: Path, number: int) -> Path:
    random = np.random.default_rng(number)
    items = [f"i{i}" for i in random.integers(3 * number, 3 * number + 12, 240)]
    click = random.integers(0, 2, 240)
    frame = pd.DataFrame({"item": items, "price": random.normal(size=240).round(3), "click": click})
    frame.to_csv(path / f"day{number}.csv", index=False)
    return path / f"day{number}.csv"


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days, and a run of the first one."""
    folder = tmp_path_factory.mktemp("days")
    for number in (1, 2, 3):
        write_day(folder, number)
    data = ["--data.train", f"{folder}/day1.csv", "--label", "click", "--kind", "item=categorical"]
    model = ["--model", "SharedBottom", "--model.layers", "[6]", "--trainer.optimization.batch_size", "60"]
    options = [*model, "--balancer", "GradNorm", "--trainer.epochs", "1", "--data.cache", f"{folder}/cache", *QUIET]
    assert main(["train", *data, *options, "--run", f"{folder}/first"]) == 0
    return folder


def test_the_command_and_the_function_continue_a_run_alike(days: Path, tmp_path: Path) -> None:
    command = ["train", "--continue", f"{days}/first", "--data.train", f"{days}/day2.csv"]
    test = ["--data.test", f"{days}/day3.csv"]
    assert main([*command, *test, "--run", f"{tmp_path}/second"]) == 0
    notes = list[str]()
    trainer = recmtl.continue_run(
        days / "first", days / "day2.csv", test=days / "day3.csv", folder=tmp_path / "same", note=notes.append
    )
    by_command = recmtl.load_run(tmp_path / "second")
    rows = days / "day3.csv"
    assert trainer.predict(rows).equals(by_command.predict(rows))
    assert any("column 'item' has" in note and "new" in note for note in notes)
    recipe = yaml.safe_load((tmp_path / "second" / "recipe.yaml").read_text())
    assert recipe["data"]["extend"] == recipe["trainer"]["init_from"] == f"{days}/first"
    assert (recipe["data"]["labels"], recipe["model"]["init_args"]["layers"]) == ([], [6])
    assert RunFolder(tmp_path / "second").parent() == TrainedRun.open(days / "first").record()
    frames = [pd.read_csv(days / f"day{number}.csv") for number in (2, 3)]
    in_memory = recmtl.continue_run(
        days / "first", frames[0], test=frames[1], folder=tmp_path / "frames", note=notes.append
    )
    assert in_memory.predict(rows).equals(trainer.predict(rows))


def test_seen_files_are_named(days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copy(days / "day1.csv", tmp_path / "copy.csv")
    with pytest.raises(recmtl.DataError, match=r"rows of .*copy.csv already \(as .*day1.csv\): give new"):
        recmtl.prepare(None, copy, extend=days / "first")
    data = recmtl.prepare(None, days / "day2.csv", days / "day3.csv", copy, extend=days / "first")
    (note,) = [note for note in data.notes if "the model was trained on the" in note]
    assert note.startswith(f"the model was trained on the test rows of {copy} (as {days / 'day1.csv'}): their metrics")
    data = recmtl.prepare(None, days / "day3.csv", days / "day2.csv", extend=data)
    assert [note for note in data.notes if "the model was trained on the valid rows" in note]
    assert main(["evaluate", f"{days}/first", "--rows", f"{days}/day1.csv"]) == 0
    assert "the model was trained on the given rows of" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", f"{days}/first", "--rows", f"{days}/day3.csv"]) == 0
    assert "was trained on" not in capsys.readouterr().err


def test_a_monitor_that_does_not_exist_is_refused_before_rows_are_prepared(
    days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmtl.recipe.data.prepare_cached", lambda *_: pytest.fail("rows were prepared"))
    options = ["--trainer.stopping.monitor=click.auuc"]
    with pytest.raises(UsageError, match=r"`monitor` must name one of the metrics .*, got 'click.auuc'"):
        recmtl.continue_run(days / "first", days / "day2.csv", folder=tmp_path / "next", options=options)


def test_a_continuation_is_continued(days: Path, tmp_path: Path) -> None:
    second = recmtl.continue_run(
        days / "first", days / "day2.csv", folder=tmp_path / "2", max_age=2, note=lambda sentence: None
    )
    third = recmtl.continue_run(tmp_path / "2", days / "day3.csv", folder=tmp_path / "3", note=lambda sentence: None)
    before, now = (t.model.schema.vocabularies["item"].to_pylist() for t in (second, third))
    assert len([c for c in before if c not in now]) > 0  # not seen on two days, by the option of the run
    assert [c for c, d in zip(before, now, strict=False) if c in now and c != d] == []
    history = third.model.schema.history
    assert (len(history.files), len(history.parents)) == (3, 2)
    with pytest.raises(recmtl.DataError, match=r"the run was trained on the rows of .*day1.csv already"):
        recmtl.continue_run(tmp_path / "3", days / "day1.csv", folder=tmp_path / "4")
    assert not (tmp_path / "4").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--data.train", "day1.csv"],
            "the run was trained on the rows of day1.csv already: give new ones, or let them count",
        ),
        (["--data.train", "other.csv"], "column 'price' is not in other.csv"),
        ([], "there are no training rows: give `--data.train`"),
        (["--data.train", "day2.csv", "--balancer", "PCGrad"], "was balanced by GradNorm, not PCGrad: leave out the"),
        (["--data.train", "day2.csv", "--model.layers", "[7]"], "does not fit the model: "),
        (["--data.train", "day2.csv", "--data.statistics", "new"], "statistics"),
    ],
)
def test_bad_input_gives_one_sentence(
    options: list[str],
    said: str,
    days: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(days)
    pd.DataFrame({"item": ["a", "b"], "click": [0, 1]}).to_csv("other.csv", index=False)
    assert main(["train", "--continue", "first", *options, *QUIET, "--run", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1]
    assert "Traceback" not in "".join(error)
    assert not (tmp_path / "new" / "recipe.yaml").exists()


def test_runs_that_cannot_be_continued_give_one_sentence(
    days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(days / "first", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "metrics.json").unlink()
    shutil.copytree(days / "first", tmp_path / "older")
    schema = tmp_path / "older" / "schema" / "schema.json"
    schema.write_text(schema.read_text().replace(f'"layout": {LAYOUT}', f'"layout": {LAYOUT - 1}'))
    for name, said in (
        ("unfinished", "holds an unfinished run: resume it first"),
        ("older", "was written by another version: fit it again"),
        ("nothing", "is not a run: there is no recipe.yaml"),
    ):
        command = ["train", "--continue", f"{tmp_path}/{name}", "--data.train", f"{days}/day2.csv", *QUIET]
        assert main([*command, "--run", f"{tmp_path}/new"]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_stopped_continuation_resumes_to_the_same_bits(
    days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "--continue", f"{days}/first", "--data.train", f"{days}/day2.csv", *QUIET]
    assert main([*command, "--trainer.run.checkpoint_every", "2", "--run", f"{tmp_path}/whole"]) == 0
    taken, plain = [], Step.__call__

    def die(self: Step, *arguments: object) -> torch.Tensor:
        taken.append(1)
        if len(taken) == 4:
            raise KeyError("killed")
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", die)
        with pytest.raises(KeyError):
            main([*command, "--trainer.run.checkpoint_every", "2", "--run", f"{tmp_path}/killed"])
    assert main(["train", "--run", f"{tmp_path}/killed", "--resume"]) == 0
    for name in ("best", "optimizers"):
        one, other = (RunFolder(tmp_path / run).load_checkpoint(name) for run in ("whole", "killed"))
        assert one.keys() == other.keys()
        torch.testing.assert_close(tensors(one), tensors(other), rtol=0, atol=0)


def tensors(state: object) -> list[torch.Tensor]:
    """Return the tensors in a checkpoint, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [tensor for value in inside for tensor in tensors(value)]


def test_a_prepared_day_is_trained_on(days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare = ["prepare", "--out", f"{tmp_path}/day2", "--train", f"{days}/day2.csv", "--extend", f"{days}/first"]
    assert main(prepare) == 0
    command = ["train", "--continue", f"{days}/first", "--data.train", f"{tmp_path}/day2", *QUIET]
    assert main([*command, "--run", f"{tmp_path}/run"]) == 0
    assert main(["prepare", "--out", f"{tmp_path}/alone", "--train", f"{days}/day2.csv", "--label", "click"]) == 0
    command[-len(QUIET) - 1] = f"{tmp_path}/alone"
    capsys.readouterr()
    assert main([*command, "--run", f"{tmp_path}/other"]) == 2
    assert "the model's schema does not extend that of" in capsys.readouterr().err
