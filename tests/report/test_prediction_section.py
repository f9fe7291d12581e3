"""What a report shows of classes and amounts."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from recmtl.evaluate import Scores
from recmtl.report import metric_frame
from recmtl.report.elements import Heading, Picture, Table, Text
from recmtl.report.findings import Finding, of_task
from recmtl.report.predictions import MOST_CONFUSED, prediction_section
from recmtl.report.verdict import _results
from recmtl.schema import Task


def run(name: str, **scores: Scores) -> Any:
    return SimpleNamespace(name=name, scores=scores)


def of_classes(count: int) -> Scores:
    """Of 100 rows of each class but the last, which five have; the first is predicted as the second."""
    labels = np.append(np.repeat(np.arange(count - 1), 100), [count - 1] * 5)
    predicted = np.where(labels == 0, 1, labels)
    predictions = 0.9 * np.eye(count)[predicted] + 0.1 / count
    classes = tuple(f"class {number}" for number in range(count))
    return Scores(Task("job", "job", kind="multiclass", classes=classes), labels.astype(float), predictions)


def test_the_worst_classes_are_named_and_a_confusion_is_shown_of_few() -> None:
    heading, text, each, confusion, reliability = prediction_section([run("one", job=of_classes(4))]).parts
    assert heading == Heading("job")
    assert isinstance(text, Text)
    assert text.text == (
        "Lowest AUC against all other classes: class 0 0.5000, class 1 0.7561. Most probable in no row: class 0."
    )
    assert isinstance(each, Table)
    assert list(each.faint) == [False, False, False, True]
    assert isinstance(confusion, Table)
    assert [[cell.text for cell in row] for row in confusion.rows[:2]] == [
        ["class 0", "0%", "100%", "0%", "0%"],
        ["class 1", "0%", "100%", "0%", "0%"],
    ]
    assert isinstance(reliability, Picture)
    many = prediction_section([run("one", job=of_classes(MOST_CONFUSED + 1))]).parts
    assert [type(part) for part in many] == [Heading, Text, Table, Picture]
    both = prediction_section([run("one", job=of_classes(4)), run("two", job=of_classes(4))]).parts
    assert [type(part) for part in both] == [Heading, Text, Text, Table, Table, Table, Table, Picture]


def test_runs_without_a_binary_task_have_a_verdict() -> None:
    """Their tasks have no positives, nor a calibration that could be mended."""
    labels = np.arange(1, 101) / 10
    amounts = Scores(Task("seconds", "seconds", kind="amount"), labels, 2 * labels)
    frame = metric_frame([run("one", job=of_classes(4), seconds=amounts)], draws=50)
    assert frame["positives"].isna().all()
    _, result = _results(frame, pd.DataFrame())
    assert result.startswith("seconds: Gini 1.0000")
    found = frame[frame["task"] == "seconds"].set_index("metric").to_dict("index")
    assert [*of_task("seconds", found)] == [
        Finding("seconds", "worse than predicting the mean label for every row", "metrics"),
        Finding("seconds", "predictions are 100% too high in the mean", "curves"),
    ]


def test_an_amount_is_shown_by_decile_and_a_task_without_rows_is_left_out() -> None:
    labels = np.arange(1, 101) / 10
    amounts = Scores(Task("seconds", "seconds", kind="amount"), labels, 2 * labels)
    none = Scores(Task("none", "none", kind="regression"), np.zeros(0), np.zeros(0))
    heading, picture = prediction_section([run("one", seconds=amounts, none=none)]).parts
    assert heading == Heading("seconds")
    assert isinstance(picture, Picture)
    assert "one: lowest decile predicted 1.1, observed 0.55; highest predicted 19.1, observed 9.55" in picture.words
    assert len(picture.table.rows) == 10
