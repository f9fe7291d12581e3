"""No command writes over a file that no command wrote: it is refused in one sentence, and the file stays."""

import json
from pathlib import Path

import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.io.files import locked, new_file, new_folder
from recmtl.runs.folder import RunFolder

SMALL = ["--model.layers", "[4]", "--trainer.epochs", "1", "--trainer.run.progress", "false"]
MINE = "mine\n"


def train(csv: Path, run: Path, *options: str) -> int:
    rows = ["--data.train", f"{csv}/train.csv", "--data.test", f"{csv}/test.csv"]
    return main(["train", "--data.card", "aliexpress", *rows, *SMALL, "--run", str(run), *options])


def write(path: Path, text: str = MINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


NAMES = [
    "predictions/test.parquet",
    "metrics.jsonl",
    "usage.json",
    "checksums.json",
    "plots/learning_curves.png",
    "schema/notes.txt",
    "checkpoints/best/other",
]


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, ()) for name in [*NAMES, "metrics.json", "events.out.tfevents.1"]), *((n, ("--resume",)) for n in NAMES)],
)
def test_a_run_leaves_files_of_others(
    csv: Path, tmp_path: Path, name: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write(tmp_path / "run" / name)
    assert train(csv, tmp_path / "run", *options) == 2
    assert "which a run would write over: choose another folder" in capsys.readouterr().err
    assert mine.read_text() == MINE
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [mine]


def test_a_recipe_of_ones_own_stays_as_it_is(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(tmp_path / "run" / "recipe.yaml", "model: MMOE\n")
    assert train(csv, tmp_path / "run", "--config", str(recipe)) == 2
    assert "holds 'recipe.yaml', which a run would write over" in capsys.readouterr().err
    assert recipe.read_text() == "model: MMOE\n"


def test_a_trainer_leaves_a_recipe_of_others(tmp_path: Path) -> None:
    recipe = write(tmp_path / "run" / "recipe.yaml")
    frame = pd.DataFrame({"x": range(40), "click": [0, 1] * 20})
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("click", "click")])
    dataset = recmtl.prepare(schema, frame)
    model = recmtl.SharedBottom(dataset.schema, layers=[4])
    trainer = recmtl.Trainer(model, epochs=1, run=recmtl.RunConfig(folder=tmp_path / "run", progress=False))
    with pytest.raises(recmtl.RunError, match=r"holds 'recipe.yaml', which a run would write over"):
        trainer.fit(dataset.train)
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [recipe]


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_file_with_the_name_of_a_lock_stays(
    csv: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write(tmp_path / "run" / ".lock")
    rows = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--data.test", f"{csv}/test.csv"]
    grid = ["--models", "SharedBottom", "--seeds", "1", "--out"] if command == "compare" else ["--run"]
    assert main([command, *rows, *grid, str(tmp_path / "run")]) == 2
    assert ".lock' is no lock file of recmtl" in capsys.readouterr().err
    assert mine.read_text() == MINE


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "file")
    for path in (tmp_path / "file" / "x.csv", tmp_path / "file" / "a" / "x.csv"):
        for opened in (new_file, new_folder, locked):
            with pytest.raises(recmtl.DataError, match="file' is a file, not a folder"), opened(path):
                pass


def test_other_files_do_no_harm(csv: Path, tmp_path: Path) -> None:
    notes = write(tmp_path / "run" / "notes.md")
    assert train(csv, tmp_path / "run") == 0
    assert notes.read_text() == MINE
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_prediction_is_never_written_over(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(csv, tmp_path / "run") == 0
    out = write(tmp_path / "mine.csv")
    assert main(["predict", str(tmp_path / "run"), "--rows", f"{csv}/test.csv", "--out", str(out)]) == 2
    assert "mine.csv' exists already: give `--out` another name or remove it" in capsys.readouterr().err
    assert out.read_text() == MINE


def test_a_report_is_written_over_reports_alone(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(csv, tmp_path / "run") == 0
    out = write(tmp_path / "report.html")
    command = ["report", str(tmp_path / "run"), "--out", str(out), "--draws", "0"]
    assert main(command) == 2
    assert "report.html' exists already and is no report" in capsys.readouterr().err
    assert out.read_text() == MINE
    out.unlink()
    assert main(command) == 0
    assert main(command) == 0


@pytest.mark.parametrize("name", ["train.csv", "truth.json", "item_test.csv"])
def test_generated_rows_are_written_over_generated_ones_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write(tmp_path / name)
    assert main(["synth", "--rows", "100", "--out", str(tmp_path)]) == 2
    assert f"{name}' exists already and was not generated" in capsys.readouterr().err
    assert mine.read_text() == MINE
    mine.unlink()
    assert main(["synth", "--rows", "100", "--out", str(tmp_path)]) == 0
    assert main(["synth", "--rows", "200", "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize("content", [{"a": 1}, [], "x", {"data": "x"}])
def test_a_comparison_leaves_folders_of_others(
    csv: Path, tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write(tmp_path / "out" / "comparison.json", json.dumps(content)).parent
    mine = write(out / "cells" / "SharedBottom-Sum-0" / "mine.txt")
    rows = ["--data.train", f"{csv}/train.csv", "--data.test", f"{csv}/test.csv"]
    grid = ["--models", "SharedBottom", "--seeds", "1", "--out", str(out)]
    assert main(["compare", "--data.card", "aliexpress", *rows, *grid, *SMALL[2:]]) == 2
    assert "comparison.json' is no record of a comparison, or a damaged one" in capsys.readouterr().err
    assert mine.read_text() == MINE


@pytest.mark.parametrize("command", ["prepare", "describe", "demo"])
def test_a_new_folder_or_card_must_not_exist(
    csv: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write(tmp_path / "out" / "manifest.json")
    out = str(mine if command == "describe" else mine.parent)
    options = {
        "prepare": ["--card", "aliexpress", "--train", f"{csv}/train.csv"],
        "describe": [f"{csv}/train.csv", "--label", "click"],
        "demo": [],
    }
    assert main([command, *options[command], "--out", out]) == 2
    assert "exists already" in capsys.readouterr().err
    assert mine.read_text() == MINE


@pytest.mark.parametrize("reached", ["nothing", "recipe", "a part of the schema", "the schema"])
def test_a_folder_in_which_a_start_was_killed_is_trained_into_again(csv: Path, tmp_path: Path, reached: str) -> None:
    """The process dies without any clean-up after the recipe of a new run was written."""
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    folder.begin("# recmtl\nmodel: MMOE\n")
    if reached == "nothing":
        (folder.path / "recipe.yaml").unlink()
    elif reached != "recipe":
        write(folder.path / "schema" / "schema.json")
        if reached == "the schema":
            write(folder.path / "schema" / "vocabularies.arrow")
    assert train(csv, folder.path) == 0
    assert folder.finished
    assert not (folder.path / ".begun").exists()


def test_a_recipe_that_was_edited_after_a_killed_start_stays(csv: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    folder.begin("model: MMOE\n")
    recipe = write(folder.path / "recipe.yaml")
    assert train(csv, folder.path) == 2
    assert recipe.read_text() == MINE
