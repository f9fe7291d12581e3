"""The benchmark of models on planted rows: each model is built, what is recorded is kept, and the tables show it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import recmtl
from benchmarks import planted
from benchmarks.planted import PROBLEMS, Contender, mean_of, summary
from docs.generators import planted_tables
from recmtl.data.synthetic.planted import PlantedFacts
from recmtl.features.pooling import POOLINGS


def test_a_pooling_is_that_of_the_histories_alone() -> None:
    schema = recmtl.Schema([recmtl.Categorical("a"), recmtl.MultiCategorical("b")], [recmtl.Task("c", "c")])
    found = Contender("MMOE", "sum").schema(schema)
    assert found.features == (schema.features[0], recmtl.MultiCategorical("b", pooling="sum"))
    assert Contender("MMOE").schema(schema) == schema


@pytest.mark.parametrize("plant", PROBLEMS)
def test_every_contender_is_built(plant: planted.Plant, tmp_path: Path) -> None:
    recmtl.plant(tmp_path, plant, rows=200)
    train, card = tmp_path / "train.csv", recmtl.Schema.load(tmp_path / "card.yaml")
    for contender in PROBLEMS[plant].contenders.values():
        data = recmtl.prepare(contender.schema(card), train, holdout=0)
        model = contender.build(data.schema)
        assert type(model).__name__ == contender.model
        assert type(model.encoder.interaction).__name__ == (contender.interaction or "NoneType")
        pools = {type(pool) for pool in model.encoder.pools}
        assert pools == {POOLINGS[contender.pooling or "mean"] for _ in pools}


def test_intervals_by_hand() -> None:
    """Of 1, 2, 3: the deviation is 1, t of 2 degrees of freedom is 4.303; differences take the seeds of both."""
    mean = mean_of([1.0, 2.0, 3.0])
    assert (mean.estimate, mean.low, mean.high) == pytest.approx(
        (2, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4
    )
    plain = {str(seed): {"ctr": 0.5 + 0.1 * seed} for seed in range(3)}
    other = {str(seed): {"ctr": 0.6 + 0.1 * seed} for seed in range(1, 4)}
    found = summary({"A": plain, "B": other, "C": {"0": {"ctr": 0.1}}}, "A")
    assert list(found) == ["A", "B"]
    assert found["A"]["difference"] is None
    assert found["B"]["mean"]["ctr"]["estimate"] == pytest.approx(0.8)
    assert found["B"]["difference"]["ctr"]["estimate"] == pytest.approx(0.1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take small models alone."""
    sizes: dict[str, dict[str, Any]] = {name: {"layers": [4], "tower_layers": []} for name in ("MMOE", "SharedBottom")}
    sizes["ESMM"] = {"tower_layers": [4]}
    problems = {
        name: planted.Problem(
            problem.title,
            {model: Contender(model, options=sizes[model]) for model in problem.contenders if model in sizes},
        )
        for name, problem in PROBLEMS.items()
    }
    monkeypatch.setattr(planted, "PROBLEMS", problems)


def test_bias_and_auc_are_measured_on_the_test_rows(tmp_path: Path, small: None) -> None:
    facts = recmtl.plant(tmp_path, "selection", 1000, strength=0.5)
    found = planted.measure(facts, tmp_path, planted.PROBLEMS["selection"].contenders["ESMM"], 0)
    assert list(found) == ["ctr", "cvr", "ctcvr", "bias", "error"]
    assert all(0 <= found[task] <= 1 for task in ("ctr", "cvr", "ctcvr"))
    assert abs(found["bias"]) <= found["error"] < 0.5


def test_auc_is_that_of_the_rows_which_count_for_the_task() -> None:
    test = pd.DataFrame({"click": [1, 1, 0, 1, 1], "buy": [0, 1, 0, 0, 1]})
    predicted = pd.Series([0.1, 0.3, 0.9, 0.4, 0.5])  # of four pairs of clicked rows one is in the wrong order
    assert planted.auc(recmtl.Task("cvr", "buy", given="click"), test, predicted) == pytest.approx(0.75)


def test_of_a_funnel_each_rate_is_a_line_with_its_auc_and_calibration() -> None:
    test = pd.DataFrame({"click": [1, 1, 0, 1], "buy": [0, 1, 0, 0]})
    predicted, task = pd.Series([0.2, 0.3, 0.9, 0.4]), recmtl.Task("cvr", "buy", given="click")
    assert planted.calibration(task, test, predicted) == pytest.approx(0.9)
    assert planted.calibration(task, test, predicted, pd.Series([0.3, 0.3, 0.1, 0.4])) == pytest.approx(0.9)
    measures = {"cvr": 0.75, "calibration of cvr": 0.9, "calibration to the truth of cvr": 1.1}
    seeds = {"ESMM": {"0": measures, "1": measures}}
    truths = {"0": {"bayes": {"cvr": 0.8}, "planted": {}}}
    about = {"title": "Funnel", "rows": 10, "baseline": "ESMM", "truths": truths, "seeds": seeds}
    page = planted_tables.problem(about | {"models": summary(seeds, "ESMM")})
    assert "| AUC | true probabilities | ESMM |\n| --- | ---: | ---: |\n| cvr | 0.8000 | 0.7500 |" in page
    assert "| mean prediction / mean label | ESMM |\n| --- | ---: |\n| cvr | 0.900 (0.900 to 0.900) |" in page
    assert "| mean prediction / mean true rate | ESMM |\n| --- | ---: |\n| cvr | 1.100 (1.100 to 1.100) |" in page


def test_a_run_is_recorded_resumed_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    def measured(facts: PlantedFacts, folder: Path, contender: Contender, seed: int) -> planted.Measures:
        shift = 0.01 * seed + 0.1 * (contender.model == "ESMM") * (1 + seed)
        aucs = dict.fromkeys(facts.test, 0.5 + shift)
        return aucs | ({"bias": -shift, "error": shift} if facts.plant == "selection" else {})

    monkeypatch.setattr(planted, "measure", measured)
    file = tmp_path / "planted.json"
    given = ["--seeds", "2", "--rows", "1000", "--json", str(file)]
    planted.main(["selection", "domains", *given, "--models", "MMOE"])
    first = json.loads(file.read_text())["results"]
    assert list(first["selection"]["models"]) == ["MMOE"]
    assert capsys.readouterr().err.count("MEASURED") == 6  # of `domains` the baseline, too
    planted.main(["selection", *given, "--models", "ESMM"])
    assert capsys.readouterr().err.count("MEASURED") == 2  # what is recorded is not trained again
    second = json.loads(file.read_text())["results"]
    assert second["domains"] == first["domains"]
    assert second["selection"]["seeds"]["MMOE"] == first["selection"]["seeds"]["MMOE"]
    page = planted_tables.planted(file)
    assert page is not None
    assert "### Selection: clicked rows are not like all rows\n\n1,000 rows, 80 % of them to train · 2 seeds" in page
    assert "| ESMM | 0.6550 | +0.1500 (−0.4853 to +0.7853) |" in page  # t of one degree of freedom is 12.706
    assert "| ESMM | −0.1550 (−0.8538 to +0.5438) | −0.1500 (−0.7853 to +0.4853) |" in page
    assert "| without what is planted | 0." in page
    assert planted_tables.planted(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["taste"], "there is no problem 'taste': name selection,"),
        (["domains", "--models", "STARS"], "there is no model 'STARS' of domains: name MMOE, PEPNet, PLE,"),
        (["--seeds", "1"], "needs at least two: raise"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        planted.main(arguments)
    assert message in capsys.readouterr().err
