"""Tables of classes beside scikit-learn's, and deciles by hand."""

import numpy as np
import pytest
from sklearn import metrics

from recmtl.evaluate import Scores, class_table, confusion_table, decile_table, figures
from recmtl.schema import Task

CLASSES = ("a", "b", "c", "d")


@pytest.mark.parametrize("weighted", [False, True])
def test_classes_are_those_of_scikit_learn(weighted: bool) -> None:
    """The last class is neither a label nor predicted."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 200)
    raw = draw.random((200, 4)) * [1, 1, 1, 0] + 0.5 * np.eye(4)[labels]
    predictions = raw / raw.sum(1, keepdims=True)
    weight = draw.random(200) + 0.1 if weighted else None
    scores = Scores(Task("y", "y", kind="multiclass", classes=CLASSES), labels.astype(float), predictions, weight)
    found, top = class_table(scores), predictions.argmax(1)
    assert found["class"].tolist() == list(CLASSES)
    assert found["rows"].tolist() == np.bincount(labels, minlength=4).tolist()
    assert found["predicted"].tolist() == np.bincount(top, minlength=4).tolist()
    options = {"labels": [0, 1, 2], "average": None, "sample_weight": weight}
    np.testing.assert_allclose(found["recall"][:3], metrics.recall_score(labels, top, **options))
    np.testing.assert_allclose(found["precision"][:3], metrics.precision_score(labels, top, **options))
    expected = [metrics.roc_auc_score(labels == c, predictions[:, c], sample_weight=weight) for c in range(3)]
    np.testing.assert_allclose(found["auc"][:3], expected)
    assert found.loc[3, ["recall", "precision", "auc"]].isna().all()
    shares = metrics.confusion_matrix(labels, top, labels=[0, 1, 2], normalize="true", sample_weight=weight)
    table = confusion_table(scores)
    np.testing.assert_allclose(table.to_numpy()[:3, :3], shares)
    assert table.loc["d"].isna().all()
    assert table.columns.tolist() == table.index.tolist() == list(CLASSES)


def test_deciles_have_equal_weight_and_share_ties() -> None:
    """The three rows predicted 2 are one bin: of weight 4 of 8, in whose middle the second of two bins begins."""
    predictions = np.array([2.0, 1, 9, 2, 1, 2])
    labels = np.array([4.0, 0, 6, 1, 2, 1])
    weight = np.array([2.0, 1, 2, 1, 1, 1])
    found = decile_table(Scores(Task("y", "y", kind="amount"), labels, predictions, weight), 2)
    assert found["rows"].tolist() == [2, 4]
    assert found["low"].tolist() == [1, 2]
    assert found["high"].tolist() == [1, 9]
    assert found["predicted"].tolist() == pytest.approx([1, (2 * 4 + 9 * 2) / 6])
    assert found["observed"].tolist() == pytest.approx([1, (8 + 1 + 1 + 12) / 6])
    assert decile_table(Scores(Task("y", "y", kind="amount"), np.zeros(0), np.zeros(0))).empty


@pytest.mark.parametrize(("highest", "scale"), [(10.0, "linear"), (1000.0, "log")])
def test_deciles_are_drawn_over_each_other_on_axes_that_hold_them(highest: float, scale: str) -> None:
    table = decile_table(Scores(Task("y", "y", kind="amount"), np.ones(50), np.linspace(1, highest, 50)))
    axes = figures.deciles({"one": table, "two": table})
    assert (axes.get_xscale(), axes.get_yscale()) == (scale, scale)
    one, two, diagonal = (np.asarray(line.get_xydata()) for line in axes.get_lines())
    np.testing.assert_array_equal(one, table[["predicted", "observed"]])
    np.testing.assert_array_equal(one, two)
    assert diagonal[0].tolist() == [1, 1]
