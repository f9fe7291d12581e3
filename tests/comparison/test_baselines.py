"""Models of other libraries: what they read, that they learn, and their place in a comparison."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import Plant

import recmtl
from recmtl.calibration import fit_calibration
from recmtl.comparison import Comparison
from recmtl.comparison.baselines import BASELINES
from recmtl.comparison.baselines import base as module
from recmtl.comparison.baselines.base import Examples, TaskRows, quality
from recmtl.comparison.baselines.histgb import CommonCategories
from recmtl.comparison.baselines.inputs import LISTED, examples_of, id_places, input_matrix
from recmtl.comparison.baselines.run import fit_baseline
from recmtl.comparison.baselines.searched import BaselineTrials, SearchedBaseline
from recmtl.comparison.grid import Grid, GridRun, Variant
from recmtl.comparison.runner import baseline_notes
from recmtl.comparison.tables import result_tables
from recmtl.comparison.tuned import is_searched
from recmtl.errors import DataError, RunError, UsageError
from recmtl.recipe.options import recipe_parser

NAMES = list(BASELINES)
# The least AUC, R², macro AUC and Gini on rows whose labels are planted.
KINDS = {"binary": 0.75, "regression": 0.7, "multiclass": 0.75, "amount": 0.55}


def planted(kind: str, rows: int = 600) -> TaskRows:
    """Rows whose label follows a number and a category of an id; other numbers are noise."""
    rng = np.random.default_rng(0)
    ids, x = rng.integers(0, 30, rows), rng.normal(size=(rows, 4))
    signal = 2.0 * x[:, 0] + 2.0 * (ids % 3 == 0) - 0.7
    labels = {
        "binary": rng.random(rows) < 1 / (1 + np.exp(-signal)),
        "regression": 100 + 10 * (signal + 0.5 * rng.normal(size=rows)),
        "multiclass": np.digitize(signal + rng.normal(size=rows), [-1.5, 1.5]) * 2,  # no row is of class 1 or 3
        "amount": rng.poisson(np.exp(0.5 * signal)),
    }[kind].astype(float)
    inputs = np.column_stack([ids, x]).astype(np.float32)
    train, valid = (Examples(inputs[part], labels[part]) for part in (slice(0, 400), slice(400, None)))
    classes = 5 if kind == "multiclass" else 0
    return TaskRows(recmtl.Task("t", "t", kind=kind), train, valid, categories=(0,), classes=classes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_each_learns_planted_labels(name: str, kind: str) -> None:
    rows = planted(kind)
    model = BASELINES[name].fit(rows, BASELINES[name].defaults, 0, 1)
    assert quality(rows.task, rows.valid, model.predict(rows.valid.x)) > KINDS[kind]
    assert model.parameters > model.trees
    again = BASELINES[name].fit(rows, BASELINES[name].defaults, 0, 1)
    np.testing.assert_array_equal(again.predict(rows.valid.x), model.predict(rows.valid.x))
    other = BASELINES[name].fit(rows, BASELINES[name].defaults, 1, 1).predict(rows.valid.x)
    assert (name == "logistic") == np.array_equal(other, model.predict(rows.valid.x))


@pytest.mark.parametrize("name", NAMES)
def test_both_ends_of_each_searched_option_are_taken(name: str) -> None:
    rows, baseline = planted("binary"), BASELINES[name]
    few_trees, found = replace(rows, valid=None), {}
    for option, values in baseline.search_space.items():
        for end in values.extremes:
            model = baseline.fit(few_trees, {**baseline.defaults, option: end}, 0, 1)
            found[option, end] = model.predict(rows.valid.x)
            assert quality(rows.task, rows.valid, found[option, end]) > 0.6, (option, end)
        assert not np.array_equal(*[found[option, end] for end in values.extremes]), option


@pytest.mark.parametrize("name", NAMES)
def test_weights_count_in_training_and_in_stopping(name: str) -> None:
    """Half of all rows have the opposite label and nearly no weight: their labels are not learned."""
    rows = planted("binary")

    def doubled(part: Examples) -> Examples:
        labels, ones = np.concatenate([part.labels, 1 - part.labels]), np.ones(len(part.labels))
        return Examples(np.tile(part.x, (2, 1)), labels, np.concatenate([ones, 1e-3 * ones]))

    model = BASELINES[name].fit(
        TaskRows(rows.task, doubled(rows.train), doubled(rows.valid), (0,)), BASELINES[name].defaults, 0, 1
    )
    assert quality(rows.task, rows.valid, model.predict(rows.valid.x)) > KINDS["binary"]


@pytest.mark.parametrize("name", NAMES)
def test_validation_rows_of_one_class_and_none_at_all(name: str) -> None:
    rows = planted("binary")
    positive = rows.valid.labels == 1
    one_class = Examples(rows.valid.x[positive], rows.valid.labels[positive])
    for valid in (one_class, None):
        model = BASELINES[name].fit(TaskRows(rows.task, rows.train, valid, (0,)), BASELINES[name].defaults, 0, 1)
        assert quality(rows.task, rows.valid, model.predict(rows.valid.x)) > 0.7
        assert model.trees == 0 or valid is not None or model.trees == module.UNSTOPPED_TREES


def test_inputs_are_ids_numbers_and_counts_of_lists(small: recmtl.PreparedData) -> None:
    rows = small.valid
    x, packed = input_matrix(rows), rows.packed().numpy()
    ids, numbers = small.schema.id_columns, small.schema.numeric_columns
    np.testing.assert_array_equal(x[:, :ids], packed[:, :ids])
    np.testing.assert_array_equal(x[:, ids : ids + numbers], packed[:, ids : ids + numbers].view(np.float32))
    (block,), (lists,) = small.schema.list_blocks, rows.lists()
    assert x.shape == (50, ids + numbers + 1 + min(LISTED, block.size))
    for row in range(50):
        values = lists.values[lists.offsets[row] : lists.offsets[row + 1]].tolist()
        assert x[row, ids + numbers] == len(values)
        assert x[row, ids + numbers + 1 :].tolist() == [values.count(i) for i in range(min(LISTED, block.size))]


def test_bins_and_calendar_parts_are_no_categories() -> None:
    frame = pd.DataFrame({"time": range(0, 40 * 5000, 5000), "price": range(40), "shop": list("ab") * 20})
    features = [
        recmtl.Timestamp("time", parts=("hour",), format="seconds"),
        recmtl.Binned("price"),
        recmtl.Categorical("shop"),
    ]
    schema = recmtl.Schema(features=features, tasks=[recmtl.Task("click", "click")])
    fitted = recmtl.prepare(schema, frame.assign(click=[0, 1] * 20)).schema
    names = {block.start: block.name for block in fitted.id_blocks}
    categories, bins = id_places(fitted)
    assert ([names[i] for i in categories], [names[i] for i in bins]) == (["shop"], ["time.hour", "price"])


def test_a_conditional_task_reads_the_rows_of_its_condition(small: recmtl.PreparedData) -> None:
    rows, x = small.train, np.arange(len(small.train), dtype=np.float32)[:, None]
    found = examples_of(small.schema.schema.tasks[1], rows, x)
    clicked = rows.labels["click"] == 1
    np.testing.assert_array_equal(found.x[:, 0], np.flatnonzero(clicked))
    np.testing.assert_array_equal(found.labels, rows.labels["conversion"][clicked])
    np.testing.assert_array_equal(found.weight, rows.weight[clicked])


def test_a_soft_label_is_a_positive_and_a_negative() -> None:
    frame = pd.DataFrame({"price": [1.0, 2.0, 3.0], "like": [0.25, 1.0, np.nan]})
    schema = recmtl.Schema(features=[recmtl.Numeric("price")], tasks=[recmtl.Task("like", "like")])
    rows = recmtl.prepare(schema, frame, holdout=0).train
    found = examples_of(schema.tasks[0], rows, np.array([[1], [2], [3]], np.float32))
    assert [list(map(float, column.ravel())) for column in found] == [[1, 2, 1], [1, 1, 0], [0.25, 1, 0.75]]


def test_rare_categories_become_one() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([np.repeat(np.arange(254), 2), np.arange(1000, 1100)])[:, None].astype(float)
    codes = CommonCategories(x, [0]).encode(np.array([[3.0], [1005.0], [7777.0], [np.nan]]))
    assert codes[0, 0] < 254
    assert codes[1:, 0].tolist() == [254] * 3
    shuffled = CommonCategories(rng.permutation(x), [0]).encode(x)
    np.testing.assert_array_equal(shuffled, CommonCategories(x, [0]).encode(x))


def test_every_task_is_predicted_and_a_funnel_completed(small: recmtl.PreparedData) -> None:
    predictions, models = fit_baseline(small, "logistic", {}, 0, 1)
    assert list(models) == ["ctr", "cvr", "stay"]
    scores = predictions["test"].scores()
    assert list(scores) == ["ctr", "cvr", "ctcvr", "stay"]
    values = predictions["test"].table()
    np.testing.assert_allclose(values["ctcvr"], np.multiply(values["ctr"], values["cvr"]), rtol=1e-12)


def test_a_label_of_one_value_is_predicted_and_none_is_an_error() -> None:
    frame = pd.DataFrame({"price": np.arange(20.0), "never": 0, "empty": np.nan, "sold": [0, 1] * 10})
    tasks = [recmtl.Task(name, name) for name in ("never", "sold")]
    schema = recmtl.Schema(features=[recmtl.Numeric("price")], tasks=tasks)
    data = recmtl.prepare(schema, frame, test=frame)
    values = fit_baseline(data, "logistic", {}, 0, 1)[0]["test"].values
    assert (values["never"] == 0).all()
    tasks = [recmtl.Task("empty", "empty"), *tasks]
    data = recmtl.prepare(recmtl.Schema(features=[recmtl.Numeric("price")], tasks=tasks), frame, test=frame)
    with pytest.raises(DataError, match="task 'empty' has no training rows that count"):
        fit_baseline(data, "logistic", {}, 0, 1)


def test_classes_and_amounts_are_predicted_and_classes_calibrated() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    rating = np.array(["bad", "fair", "good"])[np.digitize(x + 0.5 * rng.normal(size=600), [-0.5, 0.5])]
    frame = pd.DataFrame({"x": x, "rating": rating, "seconds": rng.poisson(np.exp(x))})
    tasks = [recmtl.Task("rating", "rating", kind="multiclass"), recmtl.Task("seconds", "seconds", kind="amount")]
    schema = recmtl.Schema(features=[recmtl.Numeric("x")], tasks=tasks)
    data = recmtl.prepare(schema, frame[:400], frame[400:500], frame[500:])
    predictions, _ = fit_baseline(data, "logistic", {}, 0, 1)
    metrics = {name: module.metrics_of(s).values for name, s in predictions["test"].scores().items()}
    assert metrics["rating"]["macro_auc"] > 0.8
    assert metrics["seconds"]["gini"] > 0.5
    assert {"rating_bad", "rating_fair", "rating_good"} <= {*predictions["test"].table().column_names}
    calibration = fit_calibration(predictions["valid"], {"rating": "temperature"})
    after = calibration.applied(predictions["test"])
    np.testing.assert_allclose(after.values["rating"].sum(1), 1)
    assert {"uncalibrated_rating_bad", "uncalibrated_rating_good"} <= {*after.table().column_names}


def test_options_of_losses_that_baselines_do_not_know_are_noted() -> None:
    known = recmtl.Task("a", "a", weight=2.0, weight_column="w")
    assert baseline_notes([known, recmtl.Task("b", "b", pos_weight=3.0, loss="focal")]) == [
        "the baselines leave out the `loss` and `pos_weight` of task 'b'"
    ]


def test_the_grid_names_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"class_path": "lightgbm", "init_args": {"num_leaves": 7}}
    runs = Grid(["MMOE"], seeds=[4], baselines=["histgb", entry]).runs(recipe_parser("test"), [])
    assert [run.name for run in runs] == ["MMOE-Sum-4", "histgb-4", "lightgbm_num_leaves=7-4"]
    assert [str(run.variant) for run in runs[1:]] == ["histgb", "lightgbm(num_leaves=7)"]
    measured = {"monitor": None, "group": None, "metrics": {}}
    assert runs[2].recipe | {"data": {}} == {"data": {}, "baseline": entry, "seed": 4} | measured
    with pytest.raises(ValueError, match="`baselines` must be of lightgbm, histgb, logistic, got 'forest'"):
        Grid(["MMOE"], baselines=["forest"])
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"needs 'lightgbm': pip install 'recmtl\[baselines\]'"):
        Grid(["MMOE"], baselines=["lightgbm"])


def test_a_baseline_is_in_the_tables_but_transfers_nothing(plant: Plant) -> None:
    single, net, trees = Variant("SingleTask", "Sum"), Variant("MMOE", "Sum"), Variant("lightgbm", "")
    comparison = plant({single: {"a": 1.0}, net: {"a": 1.0}, trees: {"a": 3.0}})
    main, transfer = result_tables(comparison)
    assert [cell.text for cell in main.rows[2][:2]] == ["lightgbm", "–"]
    assert main.notes[1].startswith("a: lightgbm is significantly better than 2 other variants")
    assert transfer.rows[1][2].bold
    assert transfer.notes[1].startswith(
        "a: no net differs significantly from single-task training; lightgbm significantly better than single-task "
        "training, at 95 %"
    )
    beside = comparison.differences(reference="lightgbm")
    assert set(beside["reference"]) == {"lightgbm"}
    assert Comparison("", "test", [run for run in comparison.grid if run.variant != net]).single is None


def test_a_trial_of_a_baseline_is_measured_as_the_nets_are(tmp_path: Path) -> None:
    """By the monitor, on the validation rows alone, with the options of the trial over those that are given."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=300), "user": np.arange(300) % 60})
    frame = frame.assign(a=(frame.x + rng.normal(size=300) > 0).astype(int), b=rng.integers(0, 2, 300))
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("a", "a"), recmtl.Task("b", "b")], group="user")
    data = recmtl.prepare(schema, frame[:150], frame[150:225], frame[225:], tmp_path / "data")
    entry = {"class_path": "logistic", "init_args": {"max_iter": 50}}
    shared = {
        "data": {"train": str(tmp_path / "data"), "test": "none.csv", "thinned": ["test"], "negative_rate": 0.5},
        "seed": 0,
    }
    for monitor in ("a.auc", "gauc", "logloss"):
        recipe = shared | {"baseline": entry, "monitor": monitor, "group": None, "metrics": {}}
        searched = SearchedBaseline(recipe)
        (option,) = searched.space.options
        of_trial = searched.of_trial([f"--{option.key}=0.5"])
        assert of_trial["baseline"]["init_args"] == {"max_iter": 50, "penalty": 0.5}
        expected = dict.fromkeys(("test", "test_since", "test_until")) | {"thinned": ["train"], "negative_rate": 1.0}
        assert of_trial["data"] == shared["data"] | expected | {"negative_labels": []}
        value, pruned = BaselineTrials().train(of_trial, None)
        predicted = fit_baseline(data, "logistic", {"max_iter": 50, "penalty": 0.5}, 0, 1)[0]["valid"]
        of_task = {name: module.metrics_of(scores).values for name, scores in predicted.scores().items()}
        expected = of_task["a"]["auc"] if monitor == "a.auc" else np.mean([of_task[n][monitor] for n in ("a", "b")])
        assert value == pytest.approx(expected, abs=1e-12)
        assert not pruned
    fixed = shared | {"baseline": {"class_path": "logistic", "init_args": {"penalty": 1.0}}}
    assert not is_searched(GridRun(Variant("logistic", ""), 0, fixed))


@pytest.mark.slow
def test_a_comparison_fits_baselines_once_as_runs_of_their_own(csv: Path, tmp_path: Path, warm_jobs: None) -> None:
    options: dict[str, Any] = {"data.card": "aliexpress", "data.train": f"{csv}/train.csv", "trainer.epochs": 1}
    options |= {"data.valid": f"{csv}/valid.csv", "data.test": f"{csv}/test.csv", "trainer.run.tensorboard": False}
    model = {"class_path": "SharedBottom", "init_args": {"layers": [4]}}
    given: dict[str, Any] = {"recipe": {}, "out": tmp_path / "out", "models": [model], "seeds": 1, "progress": False}
    bad = {"class_path": "histgb", "init_args": {"max_leaf_nodes": -1}}
    comparison = recmtl.compare(**given, baselines=["logistic", bad], options=options)
    states = dict(zip(comparison.runs["model"], comparison.runs["state"], strict=True))
    assert list(states.values()) == ["finished", "finished", "failed"]
    assert "max_leaf_nodes" in comparison.runs["error"].iloc[2]
    run = tmp_path / "out" / "cells" / "logistic-0"
    data = recmtl.prepare(recmtl.card("aliexpress"), *(csv / f"{name}.csv" for name in ("train", "valid", "test")))
    predictions, models = fit_baseline(data, "logistic", {}, 0, 1)
    result = json.loads((run / "metrics.json").read_text())
    assert result["models"]["ctr"] == {"parameters": models["ctr"].parameters, "trees": 0}
    table = comparison.table().set_index(["model", "task"])["mean"]
    for task, scores in predictions["test"].scores().items():
        assert table["logistic", task] == pytest.approx(module.metrics_of(scores).values["auc"], abs=1e-6)
    stamp = (run / "metrics.json").stat().st_mtime_ns
    recmtl.compare(**given, baselines=["logistic"], options=options)
    assert (run / "metrics.json").stat().st_mtime_ns == stamp
    with pytest.raises(RunError, match="is not the recipe of a run"):
        recmtl.load_run(run)
