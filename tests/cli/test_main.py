"""The commands, end to end."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

import recmtl
from recmtl.cli.main import main
from recmtl.data.store.prepared import PreparedData

QUICK = ["--trainer.epochs", "1", "--trainer.run.progress", "false"]
SMALL = ["--model.layers", "[8,4]", "--model.experts", "2"]


@pytest.fixture
def run(csv: Path, tmp_path: Path) -> Path:
    """A finished run of a small MMOE."""
    folder = tmp_path / "run"
    arguments = ["train", "--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--data.test"]
    assert main([*arguments, f"{csv}/test.csv", "--model", "MMOE", *SMALL, *QUICK, "--run", str(folder)]) == 0
    return folder


def test_train_leaves_a_complete_run(run: Path) -> None:
    result = json.loads((run / "metrics.json").read_text())
    assert set(result["test"]) == {"ctr", "cvr", "ctcvr"}
    assert {"auc", "logloss", "rows", "positives"} <= set(result["test"]["ctr"])
    assert result["train_rows_per_second"] > 0
    assert result["peak_memory_bytes"] > 50e6
    assert result["device"] in ("cpu", "cuda")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["model"]["init_args"]["experts"] == 2
    assert recipe["trainer"]["optimization"]["optimizer"]["init_args"]["lr"] == 0.001
    assert (run / "recipe.yaml").read_text().startswith("# torch ")


def test_the_recipe_of_a_run_repeats_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again"
    capsys.readouterr()
    assert main(["train", "--config", str(run / "recipe.yaml"), "--run", str(again)]) == 0
    printed = capsys.readouterr().out
    assert "ctcvr" in printed
    assert "rows/s" in printed
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (run, again))
    assert first["test"] == second["test"]
    assert first["best"] == second["best"]


def test_evaluate_and_predict_agree_with_the_run(
    run: Path, csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    for task in measured.values():
        assert task.pop("independent") == "search_id"
        low, high = task.pop("intervals")["auc"]
        assert low < task["auc"] < high
    assert measured == json.loads((run / "metrics.json").read_text())["test"]
    out = tmp_path / "p.parquet"
    assert main(["predict", str(run), "--rows", f"{csv}/test.csv", "--out", str(out)]) == 0
    predicted = pd.read_parquet(out)
    from sklearn.metrics import roc_auc_score

    truth = pd.read_csv(csv / "test.csv")
    assert roc_auc_score(truth.click, predicted.ctr) == pytest.approx(measured["ctr"]["auc"], abs=1e-12)
    assert (predicted.search_id == truth.search_id).all()


def test_predict_keeps_large_keys_exact_if_a_later_one_is_missing(run: Path, csv: Path, tmp_path: Path) -> None:
    header, *lines = (csv / "test.csv").read_text().splitlines()
    large = str(2**60 + 1)
    first = [f"{large},{line.partition(',')[2]}" for line in lines] * 60  # more than one block of the file
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join([header, *first, f",{lines[0].partition(',')[2]}"]) + "\n")
    out = tmp_path / "p.parquet"
    assert main(["predict", str(run), "--rows", str(rows), "--out", str(out)]) == 0
    keys = pq.read_table(out).column("search_id")
    assert keys.null_count == 1
    assert set(keys.drop_null().to_pylist()) == {int(large)}


def test_predict_takes_a_prepared_dataset(run: Path, csv: Path, tmp_path: Path) -> None:
    trainer = recmtl.load_run(run)
    (prepared,) = (tmp_path / "cache").iterdir()
    out = tmp_path / "q.parquet"
    assert main(["predict", str(run), "--rows", str(prepared), "--out", str(out)]) == 0
    expected = trainer.predict(csv / "test.csv")
    found = pd.read_parquet(out)
    assert list(found.pop("label_click")) == list(pd.read_csv(csv / "test.csv").click)
    pd.testing.assert_frame_equal(found.drop(columns="label_conversion"), expected, check_dtype=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trainer.run.device", "foo"], "`device` 'foo' cannot be used"),
        (["--trainer.optimization.optimizer.lr", "-1"], "Invalid learning rate"),
        (["--trainer.stopping.monitor", "ctr.auuc"], "`monitor` must name one of the metrics auc, logloss"),
        (["--trainer.epoch", "1"], "did you mean `--trainer.epochs`?"),
    ],
)
def test_errors_at_the_start_of_training_are_one_line_and_leave_no_run(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    data = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--run", str(tmp_path / "r")]
    assert main(["train", *data, *SMALL, *QUICK, *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recmtl: ")]
    assert said in line
    assert main(["train", *data, *SMALL, *QUICK]) == 0


def test_a_run_loads_in_python(run: Path, csv: Path) -> None:
    trainer = recmtl.load_run(run)
    assert trainer.predict(csv / "test.csv").shape == (300, 4)


@pytest.mark.usefixtures("drawn")
def test_gradient_stats_are_printed_by_pair_of_tasks(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    data = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv"]
    options = ["--balancer", "Sum", "--trainer.gradient_stats_every", "1", "--trainer.optimization.batch_size", "256"]
    assert main(["train", *data, *SMALL, *QUICK, *options, "--run", str(run)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "ctr·ctcvr" in line]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    cosines = [r["diagnosis"]["cosine"]["ctr·ctcvr"] for r in records if "diagnosis" in r]
    _, cosine, conflict, _, measured = (cell.strip() for cell in line.strip("│").split("│"))
    assert float(cosine) == pytest.approx(sum(cosines) / len(cosines), abs=6e-4)
    assert conflict == f"{sum(c < 0 for c in cosines) / len(cosines):.0%}"
    assert int(measured) == len(cosines) == 9
    for plot in ("learning_curves", "diagnosis"):
        assert (run / "plots" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")


def test_gradient_stats_without_a_measurement_are_noted(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv"]
    options = ["--trainer.gradient_stats_every", "1000", "--run", str(tmp_path / "run")]
    assert main(["train", *data, *SMALL, *QUICK, *options]) == 0
    assert "gradients were measured every 1000 steps, never those of two tasks" in capsys.readouterr().out


def test_prepare_and_train_on_it(csv: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "prepared", tmp_path / "run"
    arguments = ["prepare", "--card", "aliexpress", "--train", f"{csv}/train.csv", "--test", f"{csv}/test.csv"]
    assert main([*arguments, "--out", str(out)]) == 0
    data = PreparedData.open(out)
    assert len(data.train) + len(data.valid) == 2400
    assert 150 < len(data.valid) < 350
    assert main(["train", "--data.train", str(out), "--model", "ESMM", *QUICK, "--run", str(run)]) == 0
    assert main(["evaluate", str(run), "--rows", str(out)]) == 0


def test_training_twice_prepares_once(csv: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("a", "b"):
        arguments = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--data.cache", str(cache)]
        assert main(["train", *arguments, *SMALL, *QUICK, "--run", str(tmp_path / name)]) == 0
        stamps = {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()}
        if name == "a":
            first = stamps
    assert stamps == first


def test_synth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "--out", str(tmp_path / "s"), "--rows", "1000", "--click_rate", "0.2"]) == 0
    assert {p.name for p in (tmp_path / "s").iterdir()} == {"train.csv", "valid.csv", "test.csv", "truth.json"}
    assert "Bayes AUC" in capsys.readouterr().out


def test_synth_plants_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rows", "400", "--seed", "3", "--plant", "selection", "--strength", "2", "--hidden", "0.5"]
    assert main(["synth", "--out", str(tmp_path), *options]) == 0
    truth = json.loads((tmp_path / "truth.json").read_text())
    arguments = {"plant": "selection", "rows": 400, "seed": 3, "strength": 2.0, "hidden": 0.5}
    assert {name: truth[name] for name in arguments} == arguments
    assert re.search(r"^400 rows in .* · Bayes AUC of the test rows: ctr 0\.\d{4}", capsys.readouterr().out)


@pytest.mark.slow
def test_demo_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--rows", "3000"]) == 0
    printed = capsys.readouterr().out
    assert "Bayes" in printed
    assert "logistic" in printed
    assert main(["demo", "--out", str(tmp_path / "demo"), "--rows", "3000"]) == 2


def test_a_class_of_another_module_needs_trust(run: Path, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "recipe.yaml"
    recipe = path.read_text()
    balancer = yaml.safe_load(recipe)["balancer"]["class_path"]
    path.write_text(recipe.replace(balancer, "os.system"))
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv"]) == 2
    assert "'os.system', which is not trusted" in capsys.readouterr().err
    for harmful in ("torch.hub.load", "recmtlevil.Sum", "../evil.yaml", "/etc/passwd"):
        path.write_text(recipe.replace(balancer, harmful))
        assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv"]) == 2
    path.write_text(recipe)
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv", "--trust", "os"]) == 0


def test_an_unfinished_run_is_not_measured(run: Path, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.json").unlink()
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv"]) == 2
    assert "holds an unfinished run" in capsys.readouterr().err


def test_describe_warns_of_leaks_first(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leak = pd.read_csv(csv / "train.csv").assign(categorical_3=lambda f: f["click"])
    leak.to_csv(tmp_path / "leak.csv", index=False)
    assert main(["describe", str(tmp_path / "leak.csv"), "--card", "aliexpress", "--test", f"{csv}/test.csv"]) == 0
    first, *_ = printed = capsys.readouterr().out.splitlines()
    assert first.startswith("WARNING: column 'categorical_3' is label 'click' in other words: is it known before")
    (click,) = [line for line in printed if "│ ctr " in line and "train" in line]
    assert [cell.strip() for cell in click.split("│")[3:5]] == [f"{len(leak):,}", f"{leak.click.sum():,}"]
    assert main(["describe", f"{csv}/train.csv", "--label", "click", "--label", "conversion"]) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_describe_prints_json(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prepared"
    assert main(["prepare", "--card", "aliexpress", "--train", f"{csv}/train.csv", "--out", str(out)]) == 0
    capsys.readouterr()
    for arguments in ([str(out)], [f"{csv}/train.csv", "--card", "aliexpress"]):
        assert main(["describe", *arguments, "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert described["warnings"] == []
        assert {"categorical_1", "numerical_63"} <= {column["column"] for column in described["columns"]}
    assert main(["describe", str(out), "--label", "click"]) == 2
    assert "brings its own card" in capsys.readouterr().err


def test_cache_lists_and_clears(run: Path, csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (tmp_path / "cache").iterdir()
    capsys.readouterr()
    assert main(["cache", "list"]) == 0
    printed = capsys.readouterr().out
    assert folder.name in printed
    assert str(csv / "train.csv") in printed
    assert "2,700" in printed
    assert main(["cache", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], sum(listed["rows"].values())) == (folder.name, 2700)
    assert main(["cache", "clear", "--older-than", "1"]) == 0
    assert folder.is_dir()
    assert main(["cache", "clear", "zzz"]) == 2
    assert main(["cache", "clear", folder.name[:8]]) == 0
    assert list((tmp_path / "cache").iterdir()) == []
    for wrong in (["cache"], ["cache", "empty"], ["cache", "list", "--older-than", "-1"]):
        assert main(wrong) == 2


def test_bad_rows_are_skipped_and_counted(
    run: Path, csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *lines = (csv / "test.csv").read_text().splitlines()
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join([header, *lines[:100], "1,2,3", *lines[100:], lines[0][:-1] + "7"]) + "\n")
    out = tmp_path / "p.parquet"
    for command in (["evaluate", str(run), "--json"], ["predict", str(run), "--out", str(out)]):
        arguments = [*command, "--rows", str(rows)]
        assert main(arguments) == 2
        capsys.readouterr()
        assert main([*arguments, "--bad_rows", "skip"]) == 0
        said = capsys.readouterr()
        assert [line for line in said.err.splitlines() if "left out" in line] == [
            "note: 2 bad rows were left out",
            f"note: left out: {rows}, line 102: 3 columns, expected 82",
            f"note: left out: {rows}, line 303, column 'conversion': '7' is not a binary label: "
            "expected 0, 1 or nothing",
        ]
        if "--json" in command:
            kept = json.loads((run / "metrics.json").read_text())["test"]
            assert {t: {m: found[m] for m in kept[t]} for t, found in json.loads(said.out).items()} == kept
    assert len(pd.read_parquet(out)) == 300
    prepared = ["prepare", "--card", "aliexpress", "--train", str(rows), "--out", str(tmp_path / "o")]
    assert main([*prepared, "--bad_rows", "skip"]) == 0
    assert "note: 2 bad rows were left out" in capsys.readouterr().err
    options = ["--data.card", "aliexpress", "--data.train", str(rows), "--data.bad_rows", "skip", *SMALL, *QUICK]
    assert main(["train", *options, "--run", str(tmp_path / "again")]) == 0
    assert "note: 2 bad rows were left out" in capsys.readouterr().err
