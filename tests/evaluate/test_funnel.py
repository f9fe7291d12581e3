import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.evaluate import Predictions, complete, measure
from recmtl.train.describe import funnel_note

FUNNEL = recmtl.Funnel("click", "conversion")
CTR, CVR, CTCVR = (
    recmtl.Task("ctr", "click"),
    recmtl.Task("cvr", "conversion", given="click"),
    recmtl.Task("ctcvr", "conversion"),
)
LABELS = {"click": np.array([1.0, 1, 1, 0, 0]), "conversion": np.array([1.0, 0, 0, 0, 0])}


def schema(*tasks: recmtl.Task, funnel: recmtl.Funnel | None = FUNNEL) -> recmtl.Schema:
    return recmtl.Schema([recmtl.Numeric("x")], tasks, funnel=funnel)


def test_ctcvr_is_the_product() -> None:
    predictions, capped = complete(schema(CTR, CVR), {"ctr": np.array([0.5, 0.2]), "cvr": np.array([0.1, 0.5])})
    assert list(predictions) == ["ctr", "cvr", "ctcvr"]
    assert predictions["ctcvr"] == pytest.approx([0.05, 0.1])
    assert capped == {}


def test_cvr_is_the_ratio_capped_at_one_and_counted() -> None:
    given = {"ctr": np.array([0.5, 0.2, 0.0]), "ctcvr": np.array([0.1, 0.3, 0.0])}
    predictions, capped = complete(schema(CTR, CTCVR), given)
    assert predictions["cvr"] == pytest.approx([0.2, 1.0, 0.0])
    assert capped["cvr"].tolist() == [False, True, False]


def test_ctr_is_the_ratio_of_ctcvr_and_cvr() -> None:
    given = {"cvr": np.array([0.5, 0.2, 0.0]), "ctcvr": np.array([0.1, 0.3, 0.0])}
    predictions, capped = complete(schema(CVR, CTCVR), given)
    assert list(predictions) == ["ctr", "cvr", "ctcvr"]
    assert predictions["ctr"] == pytest.approx([0.2, 1.0, 0.0])
    assert capped["ctr"].tolist() == [False, True, False]


def test_capped_rows_are_counted_among_the_rows_that_count() -> None:
    given = {"ctr": np.full(5, 0.2), "ctcvr": np.array([0.3, 0.1, 0.3, 0.3, 0.1])}
    assert measure(schema(CTR, CTCVR), given, LABELS)["cvr"].capped == 2  # of three clicked rows


def test_a_kept_row_counts_as_all_rows_it_stands_for() -> None:
    """Ten copies of each row without a click, or one kept at the rate 0.1: the same metrics of every task."""
    stands_for = np.array([1, 1, 1, 10, 10])
    predictions = {"ctr": np.array([0.3, 0.9, 0.4, 0.2, 0.4]), "cvr": np.array([0.4, 0.1, 0.2, 0.3, 0.6])}
    copies = [{name: np.repeat(v, stands_for) for name, v in values.items()} for values in (predictions, LABELS)]
    whole = measure(schema(CTR, CVR), *copies)
    kept = measure(schema(CTR, CVR), predictions, LABELS, sampling_weight=stands_for.astype(float))
    for task in ("ctr", "cvr", "ctcvr"):
        assert kept[task].values == pytest.approx(whole[task].values, rel=1e-12)
    assert (kept["ctr"].rows, kept["cvr"].rows) == (5, 3)


def test_of_three_predictions_the_joint_one_gives_way() -> None:
    given = {"ctr": np.array([0.5]), "cvr": np.array([0.9]), "ctcvr": np.array([0.1])}
    assert complete(schema(CTR), given)[0] == given | {"ctcvr": np.array([0.45])}


def test_a_prediction_that_gives_way_is_noted() -> None:
    """Training notes a head whose predictions are not reported, evaluation a column that differs from the product."""
    three = schema(CTR, CVR, CTCVR)
    table = pa.table({**LABELS, "ctr": np.full(5, 0.5), "cvr": np.full(5, 0.4), "ctcvr": np.full(5, 0.25)})
    assert Predictions.from_table(three, table).notes == [
        "ctcvr is measured as it follows from ctr and cvr, so that all rates agree: the predictions of ctcvr differ "
        "from that by up to 0.05"
    ]
    written = Predictions.from_table(three, table).table()
    assert written["ctcvr"].to_pylist() == pytest.approx([0.2] * 5)
    assert Predictions.from_table(three, written).notes == []
    model = recmtl.SharedBottom(recmtl.prepare(three, pd.DataFrame(LABELS | {"x": range(5)}), holdout=0).schema)
    assert funnel_note(model) == [
        "funnel: ctcvr has a head of its own, and is reported as it follows from ctr and cvr, so that all rates agree"
    ]
    model = recmtl.ESMM(model.schema)
    assert funnel_note(model) == []


def test_without_a_funnel_nothing_is_derived() -> None:
    given = {"ctr": np.array([0.5]), "ctcvr": np.array([0.1])}
    assert complete(schema(CTR, CTCVR, funnel=None), given) == (given, {})


@pytest.mark.parametrize("tasks", [(CTR, CVR), (CTR, CTCVR)])
def test_each_task_is_measured_on_its_own_rows(tasks: tuple[recmtl.Task, ...]) -> None:
    probabilities = {"ctr": np.full(5, 0.5), "cvr": np.full(5, 0.3), "ctcvr": np.full(5, 0.15)}
    metrics = measure(schema(*tasks), {t.name: probabilities[t.name] for t in tasks}, LABELS)
    assert {name: (m.rows, m.positives) for name, m in metrics.items()} == {
        "ctr": (5, 3),
        "cvr": (3, 1),
        "ctcvr": (5, 1),
    }
    assert metrics["cvr"].values["logloss"] == pytest.approx(-(np.log(0.3) + 2 * np.log(0.7)) / 3)


def test_a_conversion_without_a_click_counts_for_ctcvr_alone() -> None:
    labels = {"click": np.array([1.0, 0.0]), "conversion": np.array([0.0, 1.0])}
    metrics = measure(schema(CTR, CTCVR), {"ctr": np.full(2, 0.5), "ctcvr": np.full(2, 0.2)}, labels)
    assert (metrics["ctcvr"].positives, metrics["cvr"].positives) == (1, 0)


def test_regressions_have_regression_metrics() -> None:
    task = recmtl.Task("stay", "stay", kind="regression")
    metrics = measure(schema(task, funnel=None), {"stay": np.array([1.0, 2.0])}, {"stay": np.array([1.0, 4.0])})
    assert metrics["stay"].values["mae"] == 1.0
