"""The benchmark beside boosted trees: its data, label rates, models, cache and tables."""

import json
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recmtl
from benchmarks import tree_data, trees
from benchmarks.tree_columns import PRIOR_ROWS, columns_of, label_rates, rows_of
from benchmarks.tree_data import TreeData
from benchmarks.tree_fits import Fit, FitCache, TaskFits, fingerprint
from benchmarks.tree_models import METHODS
from docs.generators import tree_tables
from recmtl.evaluate import scores_of

MODULES = {"LightGBM": "lightgbm", "CatBoost": "catboost", "HistGradientBoosting": "sklearn"}
INSTALLED = [name for name, module in MODULES.items() if find_spec(module)]


def planted(rows: int = 600) -> TreeData:
    """Rows whose label follows a number, a category and a list; ids and times say nothing."""
    rng = np.random.default_rng(0)
    number, city = rng.normal(size=rows), rng.choice(["a", "b", "NA"], rows)
    logit = 2 * number + 2 * (city == "a") - 1
    frame = pd.DataFrame(
        {
            "number": number,
            "city": city,
            "tags": rng.choice(["x|y", "y", ""], rows),
            "user": rng.integers(0, 40, rows),
            "time": pd.to_datetime(rng.integers(0, 10**9, rows), unit="s"),
            "like": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
            "love": (rng.random(rows) < 1 / (1 + np.exp(1 - logit))).astype(int),
        }
    ).assign(tags=lambda frame: frame["tags"].replace("", None))
    train, stop, measured = (frame[i : i + rows // 3].reset_index(drop=True) for i in range(0, rows, rows // 3))
    tasks = {"like": "like", "love": "love"}
    return TreeData("planted", "Planted", train, stop, measured, tasks, lists=("tags",), ids=("user",))


def test_label_rates_are_worked_by_hand() -> None:
    """Ids a (2 of 3 positive) and b (0 of 1), seen from other rows, are drawn to the mean of 1/2."""
    labels = np.array([1, 1, 0, 0])
    _, (rate, count) = label_rates(pd.Series(list("aaab")), labels, [pd.Series(list("abc"))], folds=2)
    prior = PRIOR_ROWS * 0.5
    expected = [(2 + prior) / (3 + PRIOR_ROWS), (0 + prior) / (1 + PRIOR_ROWS), 0.5]
    np.testing.assert_allclose(rate, expected)
    np.testing.assert_array_equal(count, [3, 1, 0])


def test_a_label_rate_is_never_from_its_own_row() -> None:
    rng = np.random.default_rng(1)
    ids, labels = pd.Series(rng.integers(0, 5, 200)), rng.integers(0, 2, 200)
    (rates, _), *_ = label_rates(ids, labels, [])
    moved = 0
    for row in range(20):
        flipped = labels.copy()
        flipped[row] = 1 - flipped[row]
        (others, _), *_ = label_rates(ids, flipped, [])
        assert others[row] == rates[row]
        moved += (others != rates).any()
    assert moved == 20


def test_trees_read_flags_of_lists_and_parts_of_times() -> None:
    data = planted()
    columns, categories = columns_of(data)
    assert categories == ("city", "user")
    assert {"tags: x", "tags: y", "time: hour", "time: month", "number"} <= set(columns["train"])
    assert not {"like", "love"} & set(columns["train"])
    np.testing.assert_array_equal(columns["stop"]["tags: x"], (data.stop["tags"] == "x|y").astype(int))
    assert "NA" in set(columns["train"]["city"])


def test_an_id_is_left_out_with_its_rates() -> None:
    rows = rows_of(planted(), "like")
    names, without = set(rows.x["train"]), rows.without("user")
    for frame in without.x.values():
        assert names - set(frame) == {"user", "user: rate", "user: count"}
    assert (without.ids, without.categories) == ((), ("city",))


@pytest.mark.parametrize("method", INSTALLED)
def test_each_library_learns_the_planted_labels(method: str, tmp_path: Path) -> None:
    """Categories that training never saw, and ids in all other rows, are read as well."""
    data = planted()
    data = replace(data, measured=data.measured.assign(city=data.measured["city"].replace("b", "unseen")))
    fits = TaskFits("planted", "", "like", rows_of(data, "like"), method, 1, FitCache(tmp_path), lambda line: None)
    for options in ({}, METHODS[method].options(np.random.default_rng(0)) | {"left_out": "user"}):
        fitted = fits.fit(options, 0, "")
        assert fitted.stop_auc > 0.75
        assert trees.auc(trees.scores(data, "like", fitted.scores)) > 0.75
        assert fitted.parameters > fitted.trees > 0
        again = fits.fit(options, 0, "")  # of the cache
        np.testing.assert_array_equal(again.scores, fitted.scores)
        assert again.seconds == fitted.seconds


def test_the_cache_keeps_choices_and_fits_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial with the best AUC on the stop rows is chosen; `refit` keeps the choice and fits anew."""
    made: list[dict[str, Any]] = []

    def counted(self: TaskFits, options: dict[str, Any], seed: int) -> Fit:
        made.append(options)
        return Fit(np.zeros(3), options.get("learning_rate", 0.0), 1.0, 1.0, 2, 1)

    monkeypatch.setattr(TaskFits, "_fit", counted)
    given: Any = ("planted", "", "like", rows_of(planted(), "like"), "HistGradientBoosting", 1)
    first = TaskFits(*given, FitCache(tmp_path), lambda line: None)
    choice = first.choose(4)
    assert choice.stop_auc == choice.options["learning_rate"] == max(o.get("learning_rate", 0.0) for o in made)
    assert (len(made), choice.seconds) == (4, 4.0)
    first.fit(choice.options, 0, "")
    assert len(made) == 4
    again = TaskFits(*given, FitCache(tmp_path, refit=True), lambda line: None)
    assert again.choose(4) == choice
    again.fit(choice.options, 0, "")
    assert len(made) == 5


def test_a_fingerprint_follows_every_value() -> None:
    data = planted()
    changed = data.measured.assign(love=1 - data.measured["love"])
    assert fingerprint(data) == fingerprint(planted()) != fingerprint(replace(data, measured=changed))


def test_adult_is_cut_so_that_equal_rows_stay_together(tmp_path: Path) -> None:
    rows = pd.DataFrame({"age": [i % 500 for i in range(2000)], "survey_weight": range(2000), "income": 0})
    rows.assign(never_married=0).to_csv(tmp_path / "adult_train.csv.gz", index=False)
    data = tree_data.adult(tmp_path)
    ages = [set(frame["age"]) for frame in data.frames().values()]
    assert sum(map(len, ages)) == len(set.union(*ages)) == 500
    assert [len(frame) for frame in data.frames().values()] == pytest.approx([1200, 400, 400], abs=150)
    assert "survey_weight" not in data.train


def test_films_are_cut_by_time(tmp_path: Path) -> None:
    ratings = "".join(f"{i % 3}\t{i % 2}\t{1 + i % 5}\t{1000 - i}\n" for i in range(100))
    files = {
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + ratings,
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        + "".join(f"{i}\t30\tF\tother\t00000\n" for i in range(3)),
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "0\tOne\t1995\tComedy Drama\n1\tTwo\t\tDrama\n",
    }
    with zipfile.ZipFile(tmp_path / "films.whl", "w") as archive:
        for kind, text in files.items():
            archive.writestr(f"{tree_data.MOVIELENS_FOLDER}.{kind}", text)
    data = tree_data.movielens(tmp_path / "films.whl")
    assert [len(frame) for frame in data.frames().values()] == [80, 10, 10]
    assert data.train["time"].max() < data.stop["time"].min() <= data.stop["time"].max() < data.measured["time"].min()
    assert (data.measured["like"] >= data.measured["love"]).all()
    np.testing.assert_array_equal(data.groups, data.measured["user_id"])
    assert set(data.train["genres"]) == {"Comedy|Drama", "Drama"}
    assert data.measured["like"].tolist() == [1, 1, 0, 0, 0] * 2
    assert data.measured["love"].tolist() == [1, 0, 0, 0, 0] * 2


def test_the_net_is_compared_with_the_trees_of_the_best_mean() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 400).astype(float)

    def runs(signal: float) -> list[Any]:
        return [scores_of(recmtl.Task("t", "t"), labels, signal * labels + rng.normal(size=400)) for _ in range(3)]

    found = trees.compared({"recmtl": runs(0.5), "LightGBM": runs(0.2), "CatBoost": runs(2.0)}, None)
    assert found["best_trees"] == "CatBoost"
    means = {name: np.mean(aucs) for name, aucs in found["auc"].items()}
    difference = found["net_minus_best_trees"]
    assert difference["estimate"] == pytest.approx(means["recmtl"] - means["CatBoost"])
    assert difference["high"] < 0
    assert tree_tables.verdict(difference) == "miss"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.01, 0.005, 0.015), "above"),
        ((0.01, -0.005, 0.025), "above, not significant"),
        ((-0.01, -0.025, 0.005), "miss, not significant"),
        ((-0.01, -0.015, -0.005), "miss"),
    ],
)
def test_a_miss_is_called_a_miss(interval: tuple[float, float, float], verdict: str) -> None:
    assert tree_tables.verdict(dict(zip(("estimate", "low", "high"), interval, strict=True))) == verdict


def test_data_sets_are_named_with_their_places() -> None:
    named = trees.named(["adult", "there", "aliexpress", "movielens", "census", "here"], None)
    assert named == {"adult": Path("there"), "aliexpress": None, "movielens": None, "census": Path("here")}
    assert list(trees.named([], Path("all"))) == ["census", "adult", "movielens", "aliexpress"]
    with pytest.raises(ValueError, match="there is no data set 'titanic'"):
        trees.named(["titanic"], None)
    with pytest.raises(ValueError, match="name the folder of 'adult' after it"):
        trees.named(["adult", "census", "here"], None)


@pytest.mark.slow
def test_the_quick_run_records_a_table_by_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trees, "QUICK_ROWS", 1000)
    file = tmp_path / "trees.json"
    file.write_text(json.dumps({"results": {"other": {}}}))
    given = ["--quick", "--threads", "1", "--methods", "recmtl", "HistGradientBoosting", "--json", str(file)]
    trees.main(["aliexpress", *given, "--cache", str(tmp_path / "cache")])
    content = json.loads(file.read_text())
    assert list(content["results"]) == ["other", "aliexpress"]
    result = content["results"].pop("aliexpress")
    assert result["rows"] == {"train": 1000, "stop": 1000, "measured": 1000}
    assert set(result["tasks"]) == {"ctr", "ctcvr"}
    assert all(row["parameters"] > 0 for row in result["methods"].values())
    assert "net minus best trees" in capsys.readouterr().out
    file.write_text(json.dumps(content | {"results": {"aliexpress": result}}))
    page = tree_tables.trees(file)
    assert page is not None
    assert page.startswith("### Generated rows in the layout of AliExpress")
    assert "| ctcvr |" in page


def test_the_page_shows_what_a_choice_alone_changes(tmp_path: Path) -> None:
    lines = {
        "the defaults": {"auc": {"click": [0.7, 0.8]}, "seconds": 1.0, "parameters": 5},
        "wider": {"auc": {"click": [0.7, 0.797]}, "seconds": 1.0, "parameters": 9},
    }
    result = {"title": "Shop", "rows": {"train": 8000, "stop": 10, "measured": 20}, "seeds": 2, "lines": lines}
    file = tmp_path / "defaults.json"
    file.write_text(json.dumps({"command": "it", "machine": ["a CPU"], "results": {"shop": result}}))
    page = tree_tables.search(file)
    assert page is not None
    assert "Shop: 8,000 rows to fit, 10 to stop, 20 to compare, 2 seeds." in page
    assert "| the defaults | 0.7500 |" in page
    assert "| wider | −1.5 |" in page
    assert tree_tables.search(tmp_path / "none.json") is None
