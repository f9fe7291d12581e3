"""A soft label y is a positive of weight y and a negative of weight 1 − y: all metrics equal those of the two rows."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from naive import BINARY, obuchowski
from sklearn import metrics as sk

import recmtl
from recmtl.evaluate import Predictions, Scores, metrics_of
from recmtl.evaluate.curves import precision_recall_points, roc_points
from recmtl.evaluate.delong import Clusters, DeLongComponents
from recmtl.evaluate.ranking import by_group
from recmtl.schema import Funnel, Numeric, Schema, SchemaError, Task


def soft_rows(weighted: bool = False, groups: int | None = None, rows: int = 60) -> Scores:
    rng = np.random.default_rng(0)
    labels = rng.choice([0.0, 0.1, 0.3, 0.5, 0.9, 1.0], rows)
    predictions = np.clip((rng.integers(0, 9, rows) + 2 * labels) / 11, 0, 1)
    codes = None if groups is None else rng.integers(0, groups, rows)
    return Scores(BINARY, labels, predictions, rng.choice([0.5, 2.0], rows) if weighted else None, codes)


def two_rows_each(scores: Scores, groups: np.ndarray | None = None) -> Scores:
    """Write each row as a positive and a negative, one after the other."""
    weight = np.ones(len(scores)) if scores.weight is None else scores.weight
    parts = np.column_stack([weight * scores.labels, weight * (1 - scores.labels)]).ravel()
    kept = parts > 0
    twice = np.repeat(scores.predictions, 2)[kept]
    codes = None if groups is None else np.repeat(groups, 2)[kept]
    return Scores(BINARY, np.tile([1.0, 0.0], len(scores))[kept], twice, parts[kept], codes)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_equal_those_of_two_rows(weighted: bool) -> None:
    scores = soft_rows(weighted)
    twin = two_rows_each(scores)
    found, expected = metrics_of(scores), metrics_of(twin)
    assert found.values == pytest.approx(expected.values, rel=1e-12)
    y, p, w = twin.labels, twin.predictions, twin.weight
    assert found.values["auc"] == pytest.approx(sk.roc_auc_score(y, p, sample_weight=w), abs=1e-12)
    assert found.values["logloss"] == pytest.approx(sk.log_loss(y, p, sample_weight=w), rel=1e-9)
    assert (found.rows, found.positives) == (60, round(scores.labels.sum()))


@pytest.mark.parametrize("groups", [None, 12])
def test_the_variance_of_the_auc_takes_the_two_rows_for_dependent(groups: int | None) -> None:
    scores = soft_rows(weighted=True, groups=groups)
    twin = two_rows_each(scores, np.arange(len(scores)) if scores.groups is None else scores.groups)
    clusters = Clusters.of(scores)
    found = DeLongComponents.of(scores, clusters).variance(clusters)
    assert found == pytest.approx(obuchowski(twin), rel=1e-9)


def test_curves_equal_those_of_two_rows() -> None:
    scores = soft_rows()
    for points in (roc_points, precision_recall_points):
        pd.testing.assert_frame_equal(points(scores), points(two_rows_each(scores)))


def test_grouped_metrics() -> None:
    scores = soft_rows(groups=7)
    found = by_group(scores)
    expected = by_group(two_rows_each(scores, scores.groups))
    np.testing.assert_allclose(found["auc"], expected["auc"], rtol=1e-12)
    # Labels 0.2, 1 and 0.5 from the top: a gain of 0.2 / log2(2) + 1 / log2(3); 1 / log2(2) + 0.5 / log2(3) at best.
    hand = by_group(
        Scores(BINARY, np.array([0.2, 1, 0.5]), np.array([0.9, 0.6, 0.3]), None, np.zeros(3, np.int64)), k=2
    )
    gains = 0.2 + 1 / np.log2(3)
    assert hand["ndcg"].item() == pytest.approx(gains / (1 + 0.5 / np.log2(3)))
    assert hand["recall"].item() == pytest.approx(1.2 / 1.7)
    assert hand["positives"].item() == pytest.approx(1.7)


SCHEMA = Schema([Numeric("x")], [Task("watch", "share")])


def test_a_file_of_predictions_may_hold_soft_labels() -> None:
    table = pa.table({"share": [0.25, 1.0, None], "watch": [0.5, 0.7, 0.1]})
    predictions = Predictions.from_table(SCHEMA, table)
    predictions.check()
    assert predictions.scores()["watch"].labels.tolist() == [0.25, 1.0]
    wrong = Predictions.from_table(SCHEMA, table.set_column(0, "share", [[0.25, 1.5, None]]))
    with pytest.raises(
        SchemaError, match=r"label 'share', row 2: expected a number from 0 to 1, or no value, got 1\.5"
    ):
        wrong.check()


def test_conditions_and_labels_of_a_funnel_are_not_soft() -> None:
    tasks = [Task("ctr", "click"), Task("ctcvr", "buy")]
    schema = Schema([Numeric("x")], tasks, funnel=Funnel("click", "buy"))
    rows = pd.DataFrame({"x": [1.0, 2.0], "click": [0.5, 1], "buy": [0, 1]})
    with pytest.raises(
        recmtl.DataError, match=r"column 'click': '0\.5' is not a binary label: expected 0, 1 or nothing"
    ):
        recmtl.prepare(schema, rows, holdout=0)


def test_training_on_soft_labels_finds_their_mean_by_input() -> None:
    """Labels are 0.2 where x is 0 and 0.7 where it is 1: predictions come to them, not to 0 and 1."""
    x = np.tile([0.0, 1.0], 2000)
    rows = pd.DataFrame({"x": x, "share": np.where(x == 0, 0.2, 0.7)})
    data = recmtl.prepare(SCHEMA, rows, test=rows[:2])
    assert data.notes == (f"label 'share' is soft: between 0 and 1 in {len(data.train):,} training rows",)
    run = recmtl.RunConfig(progress=False, device="cpu")
    options = {"stopping": recmtl.EarlyStopping(monitor="logloss"), "optimization": recmtl.Optimization(batch_size=100)}
    trainer = recmtl.Trainer(recmtl.SharedBottom(data.schema, layers=[8]), epochs=20, run=run, **options)
    trainer.fit(data.train, data.valid)
    np.testing.assert_allclose(trainer.predict(data.test)["watch"], [0.2, 0.7], atol=0.02)
    assert trainer.evaluate(data.test).loc["watch", "calibration"] == pytest.approx(1, abs=0.03)
