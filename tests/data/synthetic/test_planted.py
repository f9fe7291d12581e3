"""Planted problems: their files, their true probabilities, and what finds the planted property and what does not."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

import recmtl
from recmtl.data.synthetic import domains, funnel, interactions, interests, selection
from recmtl.data.synthetic.planted import Plant
from recmtl.data.synthetic.problem import DrawnRows, TwoLabels
from recmtl.data.synthetic.streams import stream

PLANTS = get_args(Plant)
ROWS = 3000


@pytest.fixture(scope="module", params=PLANTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted") / str(request.param)
    recmtl.plant(path, request.param, ROWS, seed=1)
    return path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_files_and_their_counts(folder: Path) -> None:
    names = ["card.yaml", "test.csv", "test_truth.csv", "train.csv", "truth.json", "valid.csv"]
    assert sorted(path.name for path in folder.iterdir()) == names
    truth = json.loads((folder / "truth.json").read_text())
    arguments = {"plant": folder.name, "rows": ROWS, "seed": 1, "strength": 1.0, "hidden": 0.0}
    assert {name: truth[name] for name in arguments} == arguments
    schema = recmtl.Schema.load(folder / "card.yaml")
    for name, rows in (("train", 2400), ("valid", 300), ("test", 300)):
        frame = pd.read_csv(folder / f"{name}.csv")
        labels = dict.fromkeys(task.label for task in schema.tasks)
        assert list(frame) == [*(feature.name for feature in schema.features), *labels]
        assert truth["files"][name] == {"rows": rows, **{label: frame[label].sum() for label in labels}}
    assert len(pd.read_csv(folder / "test_truth.csv")) == 300


def test_bayes_auc_is_that_of_the_probabilities_of_the_test_rows(folder: Path) -> None:
    test, p = pd.read_csv(folder / "test.csv"), pd.read_csv(folder / "test_truth.csv")
    truth = json.loads((folder / "truth.json").read_text())
    clicked = test["click"] == 1
    if folder.name == "selection":
        expected = {
            "ctr": (test["click"], p["ctr"]),
            "cvr": (test["conversion"][clicked], p["cvr"][clicked]),
            "ctcvr": (test["conversion"], p["ctcvr"]),
        }
        assert np.allclose(p["ctcvr"], p["ctr"] * p["cvr"])
        means = {"mean_cvr": p["cvr"].mean(), "mean_cvr_clicked": p["cvr"][clicked].mean()}
        assert truth["planted"] == pytest.approx(means)
    elif folder.name == "funnel":
        expected, schema = {}, recmtl.Schema.load(folder / "card.yaml")
        for task in schema.funnel_tasks:
            counts = test[task.given] == 1 if task.given else test["click"] >= 0
            expected[task.name] = test[task.label][counts], p[task.name][counts]
        assert list(expected) == list(p)
        carted = test["cart"] == 1
        found = p["order_given_cart"]
        assert truth["planted"]["mean_order_given_cart"] == pytest.approx(found.mean())
        assert truth["planted"]["mean_order_given_cart_counted"] == pytest.approx(found[carted].mean())
    else:
        expected = {"ctr": (test["click"], p["ctr"]), "like": (test["like"], p["like"])}
        without = {task: roc_auc_score(labels, p[f"{task}_without"]) for task, (labels, _) in expected.items()}
        assert truth["planted"]["auc_without"] == pytest.approx(without)
    assert set(truth["test"]) == set(expected)
    for task, (labels, probabilities) in expected.items():
        assert truth["test"][task]["auc"] == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-12), task


def test_the_card_trains_at_once(folder: Path) -> None:
    paths = [folder / f"{name}.csv" for name in ("train", "valid", "test")]
    data = recmtl.prepare(recmtl.Schema.load(folder / "card.yaml"), *paths)
    model = recmtl.SharedBottom(data.schema, layers=[4], tower_layers=[])
    run = recmtl.RunConfig(progress=False, device="cpu")
    trainer = recmtl.Trainer(model, epochs=1, run=run).fit(data.train, data.valid)
    assert len(trainer.predict(data.test)) == 300
    if folder.name == "interests":  # the items of a history are those of the candidates
        assert "history" not in data.schema.vocabularies
        assert len(data.schema.vocabularies["item"]) == interests.CLUSTERS * interests.CLUSTER_ITEMS


def test_equal_arguments_give_equal_files(folder: Path, tmp_path: Path) -> None:
    recmtl.plant(tmp_path / "same", folder.name, ROWS, seed=1)  # type: ignore[arg-type]
    recmtl.plant(tmp_path / "other", folder.name, ROWS, seed=2)  # type: ignore[arg-type]
    assert digests(tmp_path / "same") == digests(folder)
    other = digests(tmp_path / "other")
    assert [name for name, digest in digests(folder).items() if digest == other[name]] == ["card.yaml"]


@pytest.mark.parametrize(
    "build", [domains.Domains, interactions.Interactions, interests.Interests], ids=lambda build: build.__name__
)
def test_strength_is_the_factor_of_what_is_planted(build: type[TwoLabels]) -> None:
    """Without it nothing is left of the planted effects; rates stay, and probabilities are calibrated."""
    none, some, more = (build(0, strength).draw(stream(0, "test"), 4000) for strength in (0.0, 1.0, 2.0))
    for task, label in (("ctr", "click"), ("like", "like")):
        assert np.array_equal(none.truth[task], none.truth[f"{task}_without"])
        p = [drawn.truth[task] for drawn in (none, some, more)]
        spread = [np.std(np.log(q / (1 - q))) for q in p]
        assert spread[0] < spread[1] < spread[2]
        assert [q.mean() for q in p] == pytest.approx([0.3] * 3, abs=0.02)
        top = some.truth[task] > np.median(some.truth[task])
        for rows in (top, ~top):
            assert some.columns[label][rows].mean() == pytest.approx(some.truth[task][rows].mean(), abs=0.03)


class TestSelection:
    def test_regression_on_clicked_rows_is_too_high_on_all_rows_and_weights_correct_it(self) -> None:
        """Main effects cannot follow the bend of the curve; with 1 / P(click) the mean over all rows is right."""
        drawn = selection.Selection(0, 1.0).draw(stream(0, "train"), 40_000)
        naive, weighted = conversion_bias(drawn)
        assert naive > 0.03
        assert abs(weighted) < 0.3 * naive
        clicked = drawn.columns["click"] == 1
        assert drawn.truth["cvr"][clicked].mean() > drawn.truth["cvr"].mean() + 0.05

    def test_without_strength_clicked_rows_are_like_all_rows(self) -> None:
        drawn = selection.Selection(0, 0.0).draw(stream(0, "train"), 40_000)
        clicked = drawn.columns["click"] == 1
        assert drawn.truth["cvr"][clicked].mean() == pytest.approx(drawn.truth["cvr"].mean(), abs=0.005)

    def test_weights_do_not_correct_what_a_hidden_factor_does(self) -> None:
        drawn = selection.Selection(0, 0.0, hidden=1.5).draw(stream(0, "train"), 40_000)
        naive, weighted = conversion_bias(drawn)
        assert weighted > 0.05
        assert weighted == pytest.approx(naive, abs=0.02)

    def test_probabilities_are_integrals_over_the_hidden_factor(self) -> None:
        """Those of the rule against sums over a fine grid, and against the labels."""
        problem = selection.Selection(0, 1.0, hidden=1.5)
        drawn = problem.draw(stream(0, "test"), 20_000)
        click, conversion = (score[:20] for score in problem._scores(drawn.columns))
        z = np.linspace(-8, 8, 4001)
        density = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
        p = 1 / (1 + np.exp(-(click + problem._click)[:, None] - 1.5 * z))  # [20, 4001]
        q = 1 / (1 + np.exp(-(conversion + problem._conversion)[:, None] - 1.5 * z))
        for name, product in (("ctr", p), ("cvr", q), ("ctcvr", p * q)):
            assert drawn.truth[name][:20] == pytest.approx(product @ density, abs=1e-6), name
        for label, name in (("click", "ctr"), ("conversion", "ctcvr")):
            assert drawn.columns[label].mean() == pytest.approx(drawn.truth[name].mean(), abs=0.01)
        assert drawn.truth["cvr"].mean() == pytest.approx(0.15, abs=0.01)


class TestFunnel:
    def test_rates_are_the_shares_of_the_labels_and_agree(self) -> None:
        drawn = funnel.FunnelOfFour(0, 1.0).draw(stream(0, "test"), 40_000)
        labels, p = drawn.columns, drawn.truth
        before, product = np.ones(40_000, bool), np.ones(40_000)
        for step, rate in zip(funnel.FunnelOfFour.schema.funnel_rates, funnel.RATES, strict=True):
            happened = labels[step.label] == 1
            assert not (happened & ~before).any()
            assert happened[before].mean() == pytest.approx(rate, abs=0.02)
            assert happened[before].mean() == pytest.approx(p[step.conditional.name][before].mean(), abs=0.02)
            assert happened.mean() == pytest.approx(p[step.joint.name].mean(), abs=0.006)
            product = product * p[step.conditional.name]
            np.testing.assert_allclose(p[step.joint.name], product)
            before = happened
        means = funnel.FunnelOfFour(0, 1.0).planted(drawn)
        assert means["mean_pay_given_order_counted"] < means["mean_pay_given_order"] - 0.05
        none = funnel.FunnelOfFour(0, 0.0)
        means = none.planted(none.draw(stream(0, "test"), 40_000))
        assert means["mean_pay_given_order_counted"] == pytest.approx(means["mean_pay_given_order"], abs=0.005)


def conversion_bias(drawn: DrawnRows) -> tuple[float, float]:
    """Mean predicted minus mean true CVR over all rows of a regression on clicked rows, plain and weighted."""
    clicked = drawn.columns["click"] == 1
    x = one_hot(drawn, selection.Selection)
    y, weights = drawn.columns["conversion"][clicked], 1 / drawn.truth["ctr"][clicked]
    fits = [LogisticRegression(C=1.0, max_iter=500, tol=1e-3) for _ in range(2)]
    fits[0].fit(x[clicked], y)
    fits[1].fit(x[clicked], y, sample_weight=weights / weights.mean())
    naive, weighted = (float(fit.predict_proba(x)[:, 1].mean() - drawn.truth["cvr"].mean()) for fit in fits)
    return naive, weighted


def one_hot(drawn: DrawnRows, problem: Any, leave_out: tuple[str, ...] = ()) -> Any:
    """The features of rows: categories one-hot, numbers as they are."""
    features = [feature for feature in problem.schema.features if feature.name not in leave_out]
    categories = [feature.name for feature in features if isinstance(feature, recmtl.Categorical)]
    numbers = [feature.name for feature in features if isinstance(feature, recmtl.Numeric)]
    encoded = OneHotEncoder().fit_transform(np.stack([drawn.columns[name] for name in categories], axis=1))
    return hstack([encoded, np.stack([drawn.columns[name] for name in numbers], axis=1)]).tocsr()


def fitted_auc(x: Any, y: Any) -> float:
    """The AUC, on the second half of the rows, of a logistic regression on the first."""
    half = len(y) // 2
    fit = LogisticRegression(max_iter=500, tol=1e-3).fit(x[:half], y[:half])
    return float(roc_auc_score(y[half:], fit.predict_proba(x[half:])[:, 1]))


@pytest.fixture(scope="module")
def problem() -> interests.Interests:
    return interests.Interests(0, 1.0)


@pytest.fixture(scope="module")
def drawn(problem: interests.Interests) -> DrawnRows:
    return problem.draw(stream(0, "train"), 8000)


class TestInterests:
    def test_a_match_is_an_item_of_the_candidates_cluster_in_the_history(
        self, problem: interests.Interests, drawn: DrawnRows
    ) -> None:
        cluster = clusters_of(problem)
        for item, history, matched in zip(
            *(drawn.columns[n][:500] for n in ("item", "history", "matched")), strict=True
        ):
            found = {cluster[int(word)] for word in str(history).split("|")}
            assert (cluster[int(item)] in found) == matched
            assert len(found) <= interests.INTERESTS
        lengths = [len(str(history).split("|")) for history in drawn.columns["history"]]
        assert (min(lengths), max(lengths)) == (1, 50)
        assert 12 < np.mean(lengths) < 16

    def test_neither_the_candidate_nor_the_history_tells_of_a_match_but_both_do(
        self, problem: interests.Interests, drawn: DrawnRows
    ) -> None:
        cluster = clusters_of(problem)
        columns = drawn.columns
        pooled = np.zeros((len(columns["item"]), interests.CLUSTERS))
        for row, history in enumerate(columns["history"]):
            np.add.at(pooled[row], [cluster[int(word)] for word in str(history).split("|")], 1)
        pooled /= pooled.sum(axis=1, keepdims=True)
        of_item = np.eye(interests.CLUSTERS)[[cluster[int(item)] for item in columns["item"]]]
        matched = columns["matched"].astype(int)
        beside = np.hstack([pooled, of_item])  # the layers behind a pooled history have these beside each other
        assert fitted_auc(beside, matched) < 0.54
        match = (pooled * of_item).sum(axis=1, keepdims=True) > 0
        click = columns["click"]
        plain, whole = drawn.truth["ctr_without"], drawn.truth["ctr"]
        assert fitted_auc(beside, click) < 0.6
        assert fitted_auc(np.hstack([beside, match]), click) > 0.7
        assert roc_auc_score(click, whole) > roc_auc_score(click, plain) + 0.15


def clusters_of(problem: interests.Interests) -> dict[int, int]:
    return {int(item): k for k, items in enumerate(problem._items) for item in items}


class TestDomains:
    def test_a_regression_of_each_domain_beats_one_of_all_rows(self) -> None:
        drawn = domains.Domains(0, 1.0).draw(stream(0, "train"), 20_000)
        x, y = one_hot(drawn, domains.Domains), drawn.columns["click"]
        domain, half = drawn.columns["domain"], 10_000
        pooled = LogisticRegression(max_iter=500, tol=1e-3).fit(x[:half], y[:half]).predict_proba(x[half:])[:, 1]
        apart = np.zeros(half)
        for d in range(len(domains.SHARES)):
            ours, theirs = np.flatnonzero(domain[:half] == d), np.flatnonzero(domain[half:] == d)
            fit = LogisticRegression(C=0.1, max_iter=500, tol=1e-3).fit(x[ours], y[ours])
            apart[theirs] = fit.predict_proba(x[half:][theirs])[:, 1]
        assert roc_auc_score(y[half:], apart) > roc_auc_score(y[half:], pooled) + 0.02
        assert roc_auc_score(y[half:], drawn.truth["ctr"][half:]) > roc_auc_score(y[half:], apart) + 0.005

    def test_log_odds_are_the_sums_of_the_formula(self) -> None:
        problem = domains.Domains(0, 1.0)
        columns = problem.features(stream(0, "test"), 5)
        shared, own = problem.effects(columns)
        for row in range(5):
            value: dict[str, Any] = {name: columns[name][row] for name in columns}
            d = value["domain"]
            for t in range(2):
                ours = sum(problem._shared[name][t, value[name]] for name in domains.SHARED) + value["quality"]
                alone = sum(problem._own[name][t, d, value[name]] for name in domains.OWN) + (-1) ** d * value["price"]
                assert shared[row, t] == pytest.approx(domains.SCALE * ours)
                assert own[row, t] == pytest.approx(domains.SCALE * alone)

    def test_shares_of_the_domains_differ(self) -> None:
        drawn = domains.Domains(0, 1.0).draw(stream(0, "test"), 20_000)
        found = np.bincount(drawn.columns["domain"].astype(int)) / 20_000
        assert found == pytest.approx(domains.SHARES, abs=0.015)


class TestInteractions:
    def test_effects_of_single_columns_see_nothing_of_the_products(self) -> None:
        drawn = interactions.Interactions(0, 1.0).draw(stream(0, "train"), 20_000)
        for task, label in (("ctr", "click"), ("like", "like")):
            y = drawn.columns[label]
            main, whole = (roc_auc_score(y, drawn.truth[name]) for name in (f"{task}_without", task))
            assert whole > main + 0.1
            assert fitted_auc(one_hot(drawn, interactions.Interactions), y) < main + 0.01

    def test_log_odds_are_the_sums_of_the_formula(self) -> None:
        problem = interactions.Interactions(0, 1.0)
        columns = problem.features(stream(0, "test"), 5)
        main, products = problem.effects(columns)
        for row in range(5):
            value: dict[str, Any] = {name: columns[name][row] for name in columns}
            for t, own in enumerate(interactions.ALONE):
                single = sum(problem._main[name][t, value[name]] for name in interactions.SIZES)
                single += value["quality"] + value["price"]
                double = 0.0
                for a, b in (*interactions.BOTH, *own):
                    u, v = problem._factors[a, b]
                    double += sum(u[r, value[a]] * v[r, value[b]] for r in range(2)) / 2**0.5
                assert main[row, t] == pytest.approx(interactions.MAIN * single)
                assert products[row, t] == pytest.approx(interactions.PRODUCT * double)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problem": "bias"}, "`plant` must be one of selection, funnel, interests, domains, interactions, got 'bias'"),
        ({"rows": 9}, "`rows` must be at least 10, so that each of the three files has one, got 9"),
        ({"seed": -1}, "`seed` must be 0 or more, got -1"),
        ({"strength": -0.5}, "`strength` must be from 0 to 10, got -0.5"),
        ({"strength": math.nan}, "`strength` must be from 0 to 10, got nan"),
        ({"problem": "selection", "hidden": 11.0}, "`hidden` must be from 0 to 10, got 11.0"),
        ({"hidden": 1.0}, "`hidden` belongs to `selection`: leave it out for 'domains'"),
    ],
)
def test_invalid_arguments_write_nothing(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        recmtl.plant(tmp_path / "out", **{"problem": "domains", "rows": 100, **arguments})
    assert not (tmp_path / "out").exists()


def test_a_folder_may_hold_generated_files_alone(tmp_path: Path) -> None:
    """A card of one's own beside generated rows is left alone; other rows take away what described the old ones."""
    recmtl.synthesize(tmp_path, 100)
    (tmp_path / "card.yaml").write_text("mine")
    with pytest.raises(recmtl.errors.ExistsError, match=r"card.yaml' exists already and was not generated"):
        recmtl.plant(tmp_path, "domains", 100)
    assert (tmp_path / "card.yaml").read_text() == "mine"
    (tmp_path / "card.yaml").unlink()
    for problem in ("domains", "selection"):
        recmtl.plant(tmp_path, problem, 100)
    assert json.loads((tmp_path / "truth.json").read_text())["plant"] == "selection"
    recmtl.synthesize(tmp_path, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.csv", "train.csv", "truth.json", "valid.csv"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done > 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recmtl.plant(tmp_path, "domains", 100, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
