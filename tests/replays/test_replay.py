"""`recmtl replay`: the runs of each day, what is measured, resuming, and what cannot be replayed."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.data.sources.open import has_rows
from recmtl.errors import DataError, RunError
from recmtl.evaluate import auc_interval, metrics_of
from recmtl.io.files import locked
from recmtl.replays.steps import ReplayStep, steps_of
from recmtl.report.replay_page import replay_html
from recmtl.runs.folder import LOCK_FILE, RunFolder
from recmtl.schema.text_format import TextFormat

ROOT = Path(__file__).parents[2]
DAYS = ["2024-01-01", "2024-01-02", "2024-01-03"]
OPTIONS = {
    "model.layers": "[4]",
    "trainer.epochs": "1",
    "trainer.optimization.batch_size": "200",
    "trainer.run.threads": "1",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("planted")
    recmtl.plant_days(out, rows=1200, days=3)
    return out


@pytest.fixture(scope="module")
def options(planted: Path) -> dict[str, str]:
    return {**OPTIONS, "data.card": str(planted / "card.yaml"), "data.train": str(planted / "days")}


@pytest.fixture(scope="module")
def finished(options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> recmtl.Replay:
    return recmtl.replay({}, tmp_path_factory.mktemp("replays") / "out", options=options, progress=False)


def arguments(options: dict[str, str], out: Path) -> list[str]:
    return ["replay", *(f"--{name}={value}" for name, value in options.items()), "--out", str(out)]


def copy(finished: recmtl.Replay, folder: Path) -> Path:
    return Path(shutil.copytree(finished.folder, folder / "out"))


def test_the_steps_of_each_mode() -> None:
    found = [
        (step.name, step.run, step.days, step.before)
        for step in steps_of(["a", "b", "c", "d"], ["warm", "anew", "frozen"])
    ]
    assert found == [
        ("warm-b", "first", ("a", "a"), None),
        ("anew-b", "first", ("a", "a"), None),
        ("frozen-b", "first", ("a", "a"), None),
        ("warm-c", "warm-b", ("b", "b"), "first"),
        ("anew-c", "anew-b", ("a", "b"), None),
        ("frozen-c", "first", ("a", "a"), None),
        ("warm-d", "warm-c", ("c", "c"), "warm-b"),
        ("anew-d", "anew-c", ("a", "c"), None),
        ("frozen-d", "first", ("a", "a"), None),
    ]


def test_each_day_is_measured_by_a_run_of_the_days_before(finished: recmtl.Replay, planted: Path) -> None:
    assert sorted(path.name for path in (finished.folder / "runs").iterdir() if path.is_dir()) == [
        "anew-2024-01-02",
        "first",
        "warm-2024-01-02",
    ]
    for step, rows in (
        (ReplayStep("anew", (DAYS[0], DAYS[1]), DAYS[2]), 800),
        (ReplayStep("frozen", (DAYS[0],), DAYS[2]), 400),
    ):
        run = recmtl.load_run(finished.folder / "runs" / step.run)
        shown = run.encode(recmtl.Partitions(planted / "days", step.day, step.day))
        measured = metrics_of(run.predictor.predict(shown).scores()["ctr"])
        (row,) = finished.metrics.query(f"mode == '{step.mode}' and task == 'ctr' and day == '{step.day}'").to_dict(
            "records"
        )
        assert row["value"] == measured.values["auc"]
        assert (row["rows"], row["positives"]) == (400, measured.positives)
        interval = auc_interval(finished.predictions(step).scores()["ctr"])
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        growth = finished.growth.query(f"mode == '{step.mode}' and day == '{step.day}'")
        assert growth["train_rows"].item() == pytest.approx(0.9 * rows, rel=0.1)  # a tenth is held out


def test_anew_is_what_train_makes(finished: recmtl.Replay, options: dict[str, str], tmp_path: Path) -> None:
    said = [f"--{name}={value}" for name, value in options.items()]
    command = ["train", *said, "--data.since", DAYS[0], "--data.until", DAYS[1], "--run", str(tmp_path / "run")]
    assert main(command) == 0
    ours, theirs = (RunFolder(f).result() for f in (finished.folder / "runs/anew-2024-01-02", tmp_path / "run"))
    assert ours["valid"] == theirs["valid"]


def test_tables_grow(finished: recmtl.Replay) -> None:
    sizes = {(row["mode"], row["day"]): row["table_rows"] for row in finished.growth.to_dict("records")}
    first = sizes["frozen", DAYS[1]]
    assert sizes["frozen", DAYS[2]] == sizes["warm", DAYS[1]] == first
    assert sizes["warm", DAYS[2]] > first
    assert sizes["anew", DAYS[2]] > first


def test_tables_and_report(finished: recmtl.Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = recmtl.Replay.open(finished.folder)
    assert again == finished
    auc = pd.read_csv(finished.folder / "metrics.csv")
    assert len(auc) == 3 * 2 * 2
    text = (finished.folder / "tables.md").read_text()
    assert f"| day | warm | anew | frozen |\n| --- | --- | --- | --- |\n| {DAYS[1]} | {auc['value'][0]:.4f} [" in text
    tables = json.loads((finished.folder / "tables.json").read_text())
    assert [len(tables[name]) for name in ("metrics", "differences", "growth")] == [12, 8, 6]
    same = [row for row in tables["differences"] if row["day"] == DAYS[1]]
    assert all(row["difference"] == 0 for row in same)  # all modes begin with one run
    assert main(["report", str(finished.folder), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == 2 + 2 * 1 + 3
    assert "ctr: AUC by day" in page
    assert main(["report", str(finished.folder), "--slice", "item", "--out", str(tmp_path / "q.html")]) == 2
    assert "a replay has a report of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "header", "found"),
    [("a,b\n", [], False), ("a,b\n1,2\n", [], True), ("a,b\n1,2,3\n", [], True), ("1,2\n", ["a", "b"], True)],
)
def test_which_files_have_rows(text: str, header: list[str], found: bool, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text)
    assert has_rows(tmp_path / "rows.csv", TextFormat(header=header)) is found


@pytest.mark.slow
def test_a_day_without_rows_is_left_out(options: dict[str, str], tmp_path: Path) -> None:
    """The third of four days, and the first of all: the others are trained and measured as if these were not there."""
    recmtl.plant_days(tmp_path, rows=1000, days=5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.replay.json.0.partial").touch()  # a start was killed before it had written its first file
    days = tmp_path / "days"
    begins = [f"{days}/date=2024-01-0{day}/rows.csv" for day in (1, 4)]
    for file in begins:
        Path(file).write_text(Path(file).read_text().splitlines()[0] + "\n")
    said = options | {"data.train": str(days)}
    found = recmtl.replay({}, tmp_path / "out", ["warm", "anew"], options=said, progress=False)
    assert (found.empty, found.days_with_rows[1]) == (("2024-01-01", "2024-01-04"), "2024-01-03")
    assert found == recmtl.Replay.open(tmp_path / "out")
    assert [found.growth[name].tolist() for name in ("until", "day")] == [
        ["2024-01-02"] * 2 + ["2024-01-03"] * 2,
        ["2024-01-03"] * 2 + ["2024-01-05"] * 2,
    ]
    assert found.by_day("ctr").query("day == '2024-01-04'")[["warm", "anew"]].to_numpy().tolist() == [["no rows"] * 2]
    assert found.metrics.query("rows == 0")["day"].tolist() == ["2024-01-01"] * 4 + ["2024-01-04"] * 4
    assert found.mean_differences()["days"].tolist() == [1, 1]  # both modes begin with one run
    page = replay_html(found)
    assert "There are no rows on 2024-01-01, 2024-01-04." in page
    assert "2 days, 2024-01-03 to 2024-01-05, are measured, by warm, anew." in page
    assert len(re.findall(r"the AUC of warm is (higher|lower) than that of anew by 0\.\d{4} in 1 day", page)) == 2
    for file in begins:
        shutil.rmtree(Path(file).parent)
    without = recmtl.replay({}, tmp_path / "without", ["warm", "anew"], options=said, progress=False)
    assert found.metrics.query("rows > 0")["value"].tolist() == without.metrics["value"].tolist()


@pytest.mark.slow
def test_a_day_that_cannot_be_read_leaves_the_tables_of_those_before(
    finished: recmtl.Replay, options: dict[str, str], tmp_path: Path
) -> None:
    rows = Path(shutil.copytree(options["data.train"], tmp_path / "days"))
    changed = rows / f"date={DAYS[2]}/rows.csv"
    changed.write_text(changed.read_text().replace("click", "other", 1))
    with pytest.raises((recmtl.SchemaError, DataError), match="click"):
        recmtl.replay({}, tmp_path / "out", ["warm"], options=options | {"data.train": str(rows)}, progress=False)
    table = pd.read_csv(tmp_path / "out/metrics.csv")
    assert table.equals(finished.metrics.query(f"mode == 'warm' and day == '{DAYS[1]}'").reset_index(drop=True))


def test_finished_steps_are_not_run_again(
    finished: recmtl.Replay, options: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy(finished, tmp_path)
    (out / "measured" / f"anew-{DAYS[2]}.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix == ".pt"}
    assert main(arguments(options, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix == ".pt"} == before
    said = capsys.readouterr()
    assert said.err.count(" of 6 · ") == 1
    assert "AUC of ctr on" in said.out
    assert (out / "report.html").is_file()
    assert pd.read_csv(out / "metrics.csv").equals(pd.read_csv(finished.folder / "metrics.csv"))


@pytest.mark.slow
def test_each_kind_of_task_has_its_main_metric(planted: Path, tmp_path: Path) -> None:
    """The second day has a class that the first has not: a run that knows it has no difference to one that does not."""
    rng = np.random.default_rng(0)
    for place, day in enumerate(DAYS):
        rows = pd.read_csv(planted / f"days/date={day}/rows.csv")
        rows["stars"] = rng.choice(["a", "b"] if place == 0 else ["a", "b", "c"], len(rows))
        rows["colour"], rows["views"] = rng.choice(["red", "green"], len(rows)), rng.poisson(2, len(rows))
        rows["paid"] = rng.normal(size=len(rows))
        (tmp_path / f"days/date={day}").mkdir(parents=True)
        rows.to_csv(tmp_path / f"days/date={day}/rows.csv", index=False)
    kinds = {"stars": "multiclass", "colour": "multiclass", "views": "amount", "paid": "regression"}
    card = recmtl.Schema.load(planted / "card.yaml")
    tasks = [recmtl.Task(name, name, kind=kind) for name, kind in kinds.items()]
    replace(card, tasks=tasks, funnel=None).save(tmp_path / "card.yaml")
    options = {**OPTIONS, "data.card": str(tmp_path / "card.yaml"), "data.train": str(tmp_path / "days")}
    found = recmtl.replay({}, tmp_path / "out", ["anew", "frozen"], options=options, progress=False)
    assert found.tasks == {"stars": "macro_auc", "colour": "macro_auc", "views": "gini", "paid": "mae"}
    assert found.metrics[["value", "low", "high"]].notna().all(axis=None)
    step = ReplayStep("anew", (DAYS[0], DAYS[1]), DAYS[2])
    measured = found.metrics.query(f"mode == 'anew' and day == '{DAYS[2]}'").set_index("task")["value"]
    for task, metrics in found.predictions(step).metrics().items():
        assert measured[task] == pytest.approx(metrics.values[found.tasks[task]])
    later = found.differences.query(f"day == '{DAYS[2]}'").set_index("task")
    assert list(later.index) == ["colour", "views", "paid"]
    assert ((later["low"] < later["difference"]) & (later["difference"] < later["high"])).all()
    text, page = (tmp_path / "out/tables.md").read_text(), replay_html(found)
    assert "## mean AUC of classes of colour by day" in text
    assert re.search(r"paid: the MAE of anew is (higher|lower) than .*, where lower is better", page)
    assert "views: difference of the Gini" in page


@pytest.mark.slow
def test_days_that_come_later_are_added(finished: recmtl.Replay, options: dict[str, str], tmp_path: Path) -> None:
    out = copy(finished, tmp_path)
    content = json.loads((out / "replay.json").read_text())
    content["rows"].pop(content["days"].pop())  # as if the third day had not been there
    (out / "replay.json").write_text(json.dumps(content))
    for mode in finished.modes:
        (out / "measured" / f"{mode}-{DAYS[2]}.json").unlink()
    shutil.rmtree(out / f"runs/warm-{DAYS[1]}")
    found = recmtl.replay({}, out, ["warm", "frozen"], options=options, progress=False)
    assert [step.name for step in found.steps][3:] == [f"warm-{DAYS[2]}", f"frozen-{DAYS[2]}"]
    ours, theirs = (one.metrics.query(f"mode == 'warm' and day == '{DAYS[2]}'") for one in (found, finished))
    assert list(ours["value"]) == list(theirs["value"])


@pytest.mark.slow
def test_a_killed_replay_goes_on(
    finished: recmtl.Replay, options: dict[str, str], warm_python: Path, tmp_path: Path
) -> None:
    """Killed while it trains, twice; the end is that of one that was never stopped."""
    out = tmp_path / "out"
    for run in ("first", f"anew-{DAYS[1]}"):
        command = [warm_python, "-m", "recmtl", *arguments(options, out)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out / "runs" / run / "recipe.yaml").exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
        free = False
        while not free:  # the process that was started warm ends a moment after the one that stands for it
            with locked(out / LOCK_FILE) as lock:
                free = lock is not None
        assert not (out / "runs" / run / "metrics.json").exists()
    found = recmtl.replay({}, out, options=options, progress=False)
    assert found.metrics.equals(finished.metrics)


@pytest.mark.slow
def test_a_model_of_ones_own(
    options: dict[str, str], warm_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module lies in the working folder; the runs that go on are the user's own, and trusted."""
    (tmp_path / "mine.py").write_text("import recmtl\n\n\nclass Mine(recmtl.SharedBottom):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    command = [warm_python, "-m", "recmtl", *arguments(options, tmp_path / "out"), "--model", "mine.Mine"]
    assert subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 0
    assert len(recmtl.Replay.open(tmp_path / "out").metrics) == 12


@pytest.mark.slow
def test_columns_are_read_as_on_the_first_day(planted: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "data.labels": '["click"]', "data.train": str(planted / "days"), "data.until": DAYS[1]}
    found = recmtl.replay({}, tmp_path / "out", ["frozen"], options=options, progress=False)
    schema = recmtl.Schema.load(found.folder / "card.yaml")
    assert "date" not in {feature.name for feature in schema.features}
    assert list(found.metrics["task"]) == ["click"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data.test_since": DAYS[2]}, "leave out `data.test_since`"),
        ({"data.valid": "valid.csv"}, "a replay measures on the day after those it trains on: leave out `data.valid`"),
        ({"data.until": DAYS[0]}, "a replay needs at least two days"),
        ({"data.train": "card.yaml"}, "lies in no folder named by its date"),
        ({"trainer.run.folder": "x"}, "leave out `trainer.run.folder`"),
        ({"warm_epochs": "0"}, "`warm_epochs` must be at least 1, got 0"),
        ({"out": "null"}, "give `--out`, the folder to write"),
        ({"out": "s3://b/x"}, "'s3://b/x' is not on this machine"),
    ],
)
def test_what_cannot_be_replayed(
    planted: Path,
    options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(planted)
    assert main([*arguments(options, tmp_path / "out"), *(f"--{name}={value}" for name, value in changed.items())]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("modes", [[], ["warm", "warm"], ["cold"]])
def test_modes_that_do_not_exist(options: dict[str, str], tmp_path: Path, modes: list[str]) -> None:
    with pytest.raises(ValueError, match="`modes` must be some of warm, anew, frozen, each once, got"):
        recmtl.replay({}, tmp_path / "out", modes, options=options, progress=False)


def test_another_replay_in_the_folder(finished: recmtl.Replay, options: dict[str, str], tmp_path: Path) -> None:
    def refused(out: Path, **changed: str) -> str:
        with pytest.raises((RunError, DataError)) as caught:
            recmtl.replay({}, out, options=options | changed, progress=False)
        return str(caught.value)

    out = copy(finished, tmp_path)
    assert "was begun with `trainer.epochs` 1, got 2: give another `--out`" in refused(out, **{"trainer.epochs": "2"})
    assert "was begun with 2024-01-03, which is no longer" in refused(out, **{"data.until": DAYS[1]})
    rows = Path(shutil.copytree(options["data.train"], tmp_path / "days"))
    changed = rows / f"date={DAYS[1]}/rows.csv"
    changed.write_text(changed.read_text() + changed.read_text().splitlines()[-1] + "\n")
    assert "`data.train`" in refused(out, **{"data.train": str(rows)})
    content = json.loads((out / "replay.json").read_text())
    content["rows"][DAYS[1]] = ["other"]
    (out / "replay.json").write_text(json.dumps(content))
    assert "the rows of 2024-01-02 have changed" in refused(out)
    (out / "replay.json").write_text("{}")
    assert "is no record of a replay, or a damaged one" in refused(out)
    (out / "replay.json").unlink()
    assert "is not empty and no replay" in refused(out)
    with pytest.raises(RunError, match="is no replay"):
        recmtl.Replay.open(out)
