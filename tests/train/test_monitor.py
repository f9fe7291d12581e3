import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.evaluate import Metrics
from recmtl.schema import Task
from recmtl.train import EarlyStopping, monitor
from recmtl.train.monitor import MetricMonitor, few_rows_note

CTR, CTCVR = Task("ctr", "click"), Task("ctcvr", "conversion")
CVR = Task("cvr", "conversion", given="click")
STAY = Task("stay", "stay", kind="regression")


def metrics(ctr: float | None, ctcvr: float | None, logloss: float = 0.1) -> dict[str, Metrics]:
    return {
        "ctr": Metrics({"auc": ctr, "logloss": logloss}, 10),
        "ctcvr": Metrics({"auc": ctcvr, "logloss": logloss}, 10),
    }


def monitor_of(**options: object) -> MetricMonitor:
    return MetricMonitor(EarlyStopping(**options), [CTR, CTCVR], [CTR, CVR, CTCVR])


def test_default_is_the_mean_auc_of_the_objectives() -> None:
    assert monitor_of().value(metrics(0.7, 0.9)) == pytest.approx(0.8)


def test_one_task_and_metric() -> None:
    assert monitor_of(monitor="ctcvr.auc").value(metrics(0.7, 0.9)) == 0.9


def test_lower_is_better_for_a_loss() -> None:
    w = monitor_of(monitor="ctr.logloss")
    assert [w.update(v) for v in (0.5, 0.6, 0.4)] == [True, False, True]


def test_patience_ends_after_evaluations_without_improvement() -> None:
    w = monitor_of(patience=2)
    assert [(w.update(v), w.exhausted) for v in (0.7, 0.7, 0.6)] == [(True, False), (False, False), (False, True)]
    assert w.best == 0.7


def test_undefined_neither_improves_nor_costs_patience() -> None:
    w = monitor_of(patience=1)
    assert w.value(metrics(None, 0.9)) == 0.9  # the mean over the tasks that have it
    assert w.value(metrics(None, None)) is None
    assert [w.update(v) for v in (None, 0.7, None, None)] == [False, True, False, False]
    assert not w.exhausted
    assert w.best == 0.7


def test_a_metric_that_was_never_defined_leaves_the_decision_to_the_loss() -> None:
    w = monitor_of(patience=2)
    assert w.note.endswith("the last weights stay")
    losses = [0.5, 0.4, 0.45, 0.41]
    assert [w.update(w.value(metrics(None, None)), loss=loss) for loss in losses] == [True, True, False, False]
    assert w.loss(metrics(None, None, 0.3)) == pytest.approx(0.3)
    assert (w.best, w.lowest_loss, w.decided, w.exhausted) == (None, 0.4, True, True)
    assert w.note == "auc was never defined on the validation rows: the weights of the lowest log-loss are kept"
    loaded = monitor_of()
    loaded.load_state_dict(w.state_dict())
    assert not loaded.update(None, loss=0.4)
    assert loaded.update(0.5, loss=0.9)  # once it is defined it decides
    assert (loaded.best, loaded.lowest_loss, loaded.note) == (0.5, None, "")
    assert not loaded.update(None, loss=0.1)


def test_a_regression_of_one_value_is_decided_by_its_rmse() -> None:
    w = MetricMonitor(EarlyStopping(), [STAY], [STAY])
    measured = {"stay": Metrics({"r2": None, "rmse": 0.7}, 10)}
    assert w.update(w.value(measured), w.logloss(measured), w.loss(measured))
    assert w.lowest_loss == 0.7
    assert "lowest RMSE" in w.note


def test_min_delta_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="`min_delta` must be at least 0, got nan"):
        EarlyStopping(min_delta=float("nan"))


def test_min_delta() -> None:
    w = monitor_of(min_delta=0.1)
    assert [w.update(v) for v in (0.5, 0.55, 0.65)] == [True, False, True]


def test_an_unknown_monitor_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"`monitor` must name one of the tasks ctr, cvr, ctcvr, got 'cvvr.auc'"):
        monitor_of(monitor="cvvr.auc")
    with pytest.raises(
        ValueError, match=r"`monitor` must name one of the metrics auc, logloss, pr_auc, ne, ece, got 'ctr.auk'"
    ):
        monitor_of(monitor="ctr.auk")
    with pytest.raises(ValueError, match=r"`monitor` must name one of the metrics mae, rmse, r2, got 'auc'"):
        MetricMonitor(EarlyStopping(monitor="auc"), [STAY], [STAY])


def test_a_grouped_monitor_without_a_group_says_how_to_name_one() -> None:
    with pytest.raises(ValueError, match=r"got 'ctr.gauc': name the group with `--group COLUMN`, or with `group` in"):
        monitor_of(monitor="ctr.gauc")


def test_regressions_are_monitored_by_r2_and_mixed_tasks_by_the_mean_of_auc_and_r2() -> None:
    assert MetricMonitor(EarlyStopping(), [STAY], [STAY]).monitor == "r2"
    for named in (None, "auc+r2"):
        mixed = MetricMonitor(EarlyStopping(monitor=named), [CTR, CTCVR, STAY], [CTR, CTCVR, STAY])
        assert mixed.monitor == "auc+r2"
        measured = metrics(0.7, 0.9) | {"stay": Metrics({"r2": 0.2}, 10)}
        assert mixed.value(measured) == pytest.approx((0.7 + 0.9 + 0.2) / 3)
        assert mixed.tasks == ["ctr", "ctcvr", "stay"]
        assert mixed.names >= {"auc", "r2"}
    alone = MetricMonitor(EarlyStopping(monitor="auc"), [CTR, STAY], [CTR, STAY])
    assert alone.value({"ctr": Metrics({"auc": 0.7}, 10), "stay": Metrics({"r2": 0.1}, 10)}) == 0.7


def test_the_lower_logloss_decides_between_equal_aucs() -> None:
    w = monitor_of(patience=2)
    assert [w.update(1.0, logloss) for logloss in (0.3, 0.4, 0.2, 0.2)] == [True, False, True, False]
    assert (w.best, w.best_logloss, w.waited) == (1.0, 0.2, 1)
    assert not w.update(0.9, 0.1)
    assert w.logloss(metrics(1.0, 1.0, 0.25)) == 0.25
    loaded = monitor_of()
    loaded.load_state_dict(w.state_dict())
    assert loaded.update(1.0, 0.1)


def test_an_evaluation_of_fewer_tasks_is_no_better() -> None:
    """A task whose predictions are not finite has no metric: the mean over the others says nothing of it."""
    spent = Task("spent", "spent", kind="amount")
    watch = MetricMonitor(EarlyStopping(patience=9), [CTR, spent], [CTR, spent])
    seen = []
    for auc, gini in ((0.6, None), (0.7, 0.3), (0.9, None), (0.71, 0.35), (None, None)):
        ctr = Metrics({"auc": auc, "logloss": None if auc is None else 0.5}, 100)
        amount = Metrics({"gini": gini, "poisson_deviance": None if gini is None else 1.0}, 100)
        seen.append(watch.update_by({"ctr": ctr, "spent": amount}))
    assert seen == [True, True, False, True, False]
    assert (watch.best, watch.best_defined, watch.waited) == (pytest.approx(0.53), 2, 0)
    again = MetricMonitor(EarlyStopping(), [CTR, spent], [CTR, spent])
    again.load_state_dict(watch.state_dict())
    assert not again.update(0.99, defined=1)


def test_a_value_that_leaves_out_a_task_is_not_that_of_the_training() -> None:
    """Weights are kept by the other tasks, but no other training is compared by them."""
    watch = MetricMonitor(EarlyStopping(), [CTR, CTCVR], [CTR, CTCVR])
    lost = metrics(0.9, None) | {"ctcvr": Metrics({"auc": None, "logloss": None}, 10)}
    assert (watch.update_by(lost), watch.best) == (True, 0.9)
    again = MetricMonitor(EarlyStopping(), [CTR, CTCVR], [CTR, CTCVR])
    again.load_state_dict(watch.state_dict())
    for each in (watch, again):
        assert each.best_of_all is None
        assert each.note.startswith("the predictions of ctcvr were never finite")
    assert again.update_by(metrics(0.7, 0.8))
    assert again.best_of_all == again.last == pytest.approx(0.75)
    assert not again.update_by(lost)
    assert (again.best_of_all, again.last, again.note) == (pytest.approx(0.75), None, "")
    one_class = monitor_of()
    assert one_class.update_by(metrics(0.9, None))
    assert one_class.best_of_all == one_class.last == 0.9


def test_fewer_tasks_have_no_lower_loss() -> None:
    watch = monitor_of()
    found = [watch.update(None, loss=loss, defined=n) for loss, n in ((0.5, 2), (0.1, 1), (0.4, 2), (0.9, 3))]
    assert found == [True, False, True, True]


def test_a_monitored_loss_has_no_ties_to_decide() -> None:
    measured = metrics(0.7, 0.9)
    assert monitor_of(monitor="ctr.logloss").logloss(measured) is None
    assert MetricMonitor(EarlyStopping(), [STAY], [STAY]).logloss(measured) is None


def test_few_validation_rows_are_noted() -> None:
    click = np.repeat([0.0, 1.0], [90, 19])
    labels = {"ctr": click, "cvr": np.where(click == 1, click, np.nan), "stay": click}
    (note,) = few_rows_note([CTR, CVR, STAY], [labels])
    assert "19 positives of task 'ctr', 19 rows and 19 positives and 0 negatives of task 'cvr'" in note
    assert "(fewer than 100 rows, or 20 positives or negatives)" in note
    assert few_rows_note([CTR], iter([{"ctr": np.zeros(80)}, {"ctr": np.ones(20)}, None])) == []  # takes two
    assert "99 rows of task 'ctr'" in few_rows_note([CTR], [{"ctr": np.repeat([0.0, 1.0], [60, 39])}])[0]
    (note,) = few_rows_note([STAY], [{"stay": np.array([1.0, np.nan])}])
    assert "decide which weights are best, and so mostly chance: 1 row of task 'stay'" in note


def test_labels_are_counted_in_parts(aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LABELS_AT_ONCE", 64)
    parts = [*monitor.label_parts(aliexpress.valid, [CTR, CVR])]
    assert {len(part["ctr"]) for part in parts[:-1]} == {64}
    labels = aliexpress.valid.labels
    np.testing.assert_array_equal(np.concatenate([part["ctr"] for part in parts]), labels["click"])
    given = np.where(labels["click"] == 1, labels["conversion"], np.nan)
    np.testing.assert_array_equal(np.concatenate([part["cvr"] for part in parts]), given)


def test_labels_without_a_weight_do_not_count() -> None:
    rows = pd.DataFrame({"item": list("ab") * 4, "click": [0, 1] * 4, "w": [0, 0, *[1] * 6], "own": [*[1] * 6, 0, 0]})
    tasks = [Task("ctr", "click"), Task("value", "click", weight_column="own")]
    data = recmtl.prepare(recmtl.Schema([recmtl.Categorical("item")], tasks, weight="w"), rows, holdout=0)
    (part,) = monitor.label_parts(data.train, tasks)
    assert {name: int((~np.isnan(labels)).sum()) for name, labels in part.items()} == {"ctr": 6, "value": 4}


def test_metrics_within_groups_can_be_monitored_if_there_are_groups() -> None:
    grouped = MetricMonitor(EarlyStopping(monitor="ctr.ndcg@10"), [CTR], [CTR], grouped=True)
    assert grouped.value({"ctr": Metrics({"ndcg@10": 0.3}, 10)}) == 0.3
    assert grouped.names >= {"auc", "logloss", "ndcg@10"}
    assert "gauc" not in grouped.names  # not worth its time while training
    with pytest.raises(ValueError, match="`monitor` must name one of the metrics"):
        monitor_of(monitor="ctr.gauc")
    spent = Task("spent", "spent", kind="amount")
    both = MetricMonitor(EarlyStopping(monitor="ndcg@10"), [CTR, spent], [CTR, spent], grouped=True)
    measured = {"ctr": Metrics({"ndcg@10": 0.3}, 10), "spent": Metrics({"ndcg@10": 0.5}, 10)}
    assert (both.value(measured), both.higher_is_better) == (0.4, True)
    with pytest.raises(ValueError, match=r"gini, poisson_deviance, rmse, mae, ndcg@10, got 'spent.gauc'$"):
        MetricMonitor(EarlyStopping(monitor="spent.gauc"), [spent], [spent], grouped=True)


def test_calibration_cannot_be_monitored() -> None:
    with pytest.raises(ValueError, match="`monitor` must name one of the metrics auc, logloss, pr_auc, ne, ece, got"):
        monitor_of(monitor="ctr.calibration")
    w = monitor_of(monitor="ctr.ne")
    assert [w.update(v) for v in (0.9, 1.0, 0.8)] == [True, False, True]
