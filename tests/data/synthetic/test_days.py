"""Planted days: the truth by day, its drift, and new ids."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import recmtl
from recmtl.cli.main import main
from recmtl.data.synthetic.days import DRIFTING, IDS, SCALES, DriftingDays
from recmtl.data.synthetic.streams import stream

DAYS = [f"2024-01-0{day}" for day in range(1, 8)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("planted")
    recmtl.plant_days(out, rows=35_000, seed=3)
    return out


def test_the_folder_is_a_source(planted: Path) -> None:
    assert recmtl.Partitions(planted / "days", DAYS[0], DAYS[6]).days() == DAYS
    assert recmtl.Partitions(planted / "truth", DAYS[0], DAYS[6]).days() == DAYS
    data = recmtl.prepare(
        recmtl.Schema.load(planted / "card.yaml"),
        recmtl.Partitions(planted / "days", DAYS[0], DAYS[5]),
        test=recmtl.Partitions(planted / "days", DAYS[6]),
    )
    assert (len(data.train) + len(data.splits["valid"]), len(data.test)) == (30_000, 5_000)


def test_the_bayes_auc_of_each_day_is_known(planted: Path) -> None:
    facts = json.loads((planted / "truth.json").read_text())
    assert [*facts["test"]] == [*facts["planted"]] == DAYS
    gaps = []
    for day in DAYS:
        rows, truth = (pd.read_csv(planted / f"{part}/date={day}/rows.csv") for part in ("days", "truth"))
        assert facts["files"][day] == {"rows": 5000, "click": int(rows.click.sum()), "like": int(rows.like.sum())}
        for task, label in (("ctr", rows.click), ("like", rows.like)):
            assert facts["test"][day][task]["auc"] == pytest.approx(roc_auc_score(label, truth[task]))
            assert facts["planted"][day][f"{task}_first"] == pytest.approx(roc_auc_score(label, truth[f"{task}_first"]))
            assert abs((truth[task] - label).mean()) < 0.02  # of 5,000 labels: three standard errors
        gaps.append(facts["test"][day]["ctr"]["auc"] - facts["planted"][day]["ctr_first"])
    assert gaps[0] == 0
    assert gaps[6] > gaps[3] > gaps[1] > 0.005


def test_each_day_a_share_of_the_ids_is_new(planted: Path) -> None:
    rows = [pd.read_csv(planted / f"days/date={day}/rows.csv") for day in DAYS]
    for name, size in IDS.items():
        for number, day in enumerate(rows):
            first = number * size // 20
            assert (day[name].min(), day[name].max() + 1) == pytest.approx((first, first + size), abs=2)
            assert day[name].nunique() > 0.99 * size
    facts = json.loads((planted / "truth.json").read_text())
    assert facts["planted"][DAYS[6]]["new"] == pytest.approx(1 - 0.7**2, abs=0.02)


def test_log_odds_are_the_sums_of_the_formula() -> None:
    problem = DriftingDays(0, days=3, strength=1.0)
    columns = problem.features(stream(0, "days", 2), 2, 5)
    logits, known = problem._logits(columns, 2), problem._logits(columns, 0, known=True)
    for row in range(5):
        value = {name: columns[name][row] for name in columns}
        for task in range(2):
            numbers = sum(SCALES[name] * value[name] for name in ("quality", "price"))
            ids = {name: SCALES[name] * problem._effects[2][name][task, value[name]] for name in problem._effects[2]}
            assert logits[row, task] == pytest.approx(numbers + sum(ids.values()))
            first = {
                name: SCALES[name] * problem._effects[0][name][task, value[name]]
                for name in ids
                if name not in IDS or value[name] < IDS[name]
            }
            assert known[row, task] == pytest.approx(numbers + sum(first.values()))


@pytest.mark.parametrize(("strength", "correlation"), [(0.0, 1.0), (1.0, 0.84**0.5), (2.5, 0.0)])
def test_effects_turn_by_the_strength(strength: float, correlation: float) -> None:
    effects = DriftingDays(0, days=2, strength=strength)._effects
    for name in DRIFTING:
        found = np.corrcoef(effects[0][name].ravel(), effects[1][name].ravel())[0, 1]
        assert found == pytest.approx(correlation, abs=4 / effects[0][name].size ** 0.5)
    assert np.array_equal(effects[0]["slot"], effects[1]["slot"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plant", "days", "--days", "1"], "`days` must be from 2 to 366, got 1"),
        (["--plant", "days", "--new_ids", "0.9"], "`new_ids` must be from 0 to 0.5, got 0.9"),
        (["--plant", "days", "--strength", "3"], "`strength` must be from 0 to 2.5, at which no effect lasts, got 3.0"),
        (["--plant", "days", "--rows", "69"], "`rows` must be at least 10 a day, 70, got 69"),
        (["--plant", "days", "--hidden", "1"], "`--hidden` is no option of `--plant days`"),
        (["--plant", "domains", "--days", "3"], "`--days` is no option of `--plant domains`"),
        (["--days", "3"], "`--days` belongs to a planted problem"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synth", "--out", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_generated_days_replace_generated_ones_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["synth", "--plant", "days", "--rows", "40", "--out", str(out), "--days"]
    (out / "days").mkdir(parents=True)
    assert main([*command, "3"]) == 2
    assert "days' exists already and was not generated" in capsys.readouterr().err
    (out / "days").rmdir()
    for days in (4, 3):
        assert main([*command, str(days)]) == 0
        assert len([*(out / "days").iterdir()]) == days
    assert "39 rows in " in (said := capsys.readouterr().out)
    assert "Bayes AUC of 2024-01-03: ctr 0." in said
    recmtl.plant(out, "domains", 100)
    assert not (out / "days").exists()
