import pytest

from recmtl.evaluate import Metrics
from recmtl.schema import Task
from recmtl.train import EarlyStopping
from recmtl.train.monitor import MetricMonitor

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


def test_regressions_are_monitored_by_r2_unless_there_is_an_auc() -> None:
    assert MetricMonitor(EarlyStopping(), [STAY], [STAY]).monitor == "r2"
    mixed = MetricMonitor(EarlyStopping(), [CTR, STAY], [CTR, STAY])
    assert mixed.monitor == "auc"
    assert mixed.value({"ctr": Metrics({"auc": 0.7}, 10), "stay": Metrics({"r2": 0.1}, 10)}) == 0.7


def test_metrics_within_groups_can_be_monitored_if_there_are_groups() -> None:
    grouped = MetricMonitor(EarlyStopping(monitor="ctr.ndcg@10"), [CTR], [CTR], grouped=True)
    assert grouped.value({"ctr": Metrics({"ndcg@10": 0.3}, 10)}) == 0.3
    assert grouped.names >= {"auc", "logloss", "ndcg@10"}
    assert "gauc" not in grouped.names  # not worth its time while training
    with pytest.raises(ValueError, match="`monitor` must name one of the metrics"):
        monitor_of(monitor="ctr.gauc")


def test_calibration_cannot_be_monitored() -> None:
    with pytest.raises(ValueError, match="`monitor` must name one of the metrics auc, logloss, pr_auc, ne, ece, got"):
        monitor_of(monitor="ctr.calibration")
    w = monitor_of(monitor="ctr.ne")
    assert [w.update(v) for v in (0.9, 1.0, 0.8)] == [True, False, True]
