"""Labels of classes: which they are, in what order, and what becomes of others."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.console import MOST_CLASSES, print_description
from recmtl.schema.serialization import load_fitted, save_fitted

STARS = recmtl.Task("stars", "rating", kind="multiclass")


def schema_of(*tasks: recmtl.Task, **roles: str) -> recmtl.Schema:
    return recmtl.Schema([recmtl.Numeric("x")], tasks, **roles)


def frame_of(labels: list[object], **columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(len(labels)) / 7, "rating": labels} | columns)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 9, None, 1], ("1", "9", "10")),
        ([0.5, 10.0, 9.0, 0.5, None], ("0.5", "9", "10")),
        (["é", "b", "a10", "a9", None], ("a10", "a9", "b", "é")),
        ([True, False, True, True, None], ("false", "true")),
    ],
)
@pytest.mark.parametrize("source", ["frame", "csv"])
def test_classes_are_those_of_the_training_rows_in_order(
    labels: list[object], classes: tuple[str, ...], source: str, tmp_path: Path
) -> None:
    given: pd.DataFrame | Path = frame_of(labels)
    if source == "csv":
        frame_of(labels).to_csv(tmp_path / "rows.csv", index=False)
        given = tmp_path / "rows.csv"
    data = recmtl.prepare(schema_of(STARS), given, holdout=0)
    assert data.schema.classes("stars") == classes
    found = data.train.labels["rating"]
    assert [None if np.isnan(v) else classes[int(v)] for v in found] == [
        None if v is None else str(v).lower().removesuffix(".0") for v in labels
    ]


def test_shares_count_weights_and_survive_a_folder(tmp_path: Path) -> None:
    frame = frame_of(["b", "a", "a", "c"], w=[1.0, 2.0, 1.0, 4.0])
    data = recmtl.prepare(schema_of(STARS, weight="w"), frame, holdout=0)
    assert data.schema.class_shares["stars"] == pytest.approx((3 / 8, 1 / 8, 1 / 2))
    save_fitted(data.schema, tmp_path)
    assert load_fitted(tmp_path).fingerprint == data.schema.fingerprint


def test_a_label_that_no_training_row_has_does_not_count_and_is_noted() -> None:
    data = recmtl.prepare(schema_of(STARS), frame_of([1, 2, 3]), test=frame_of([3, 7, 1, 8]), holdout=0)
    assert np.isnan(data.test.labels["rating"]).tolist() == [False, True, False, True]
    assert any("label 'rating' is none of the known classes in 2 of 4 test rows" in note for note in data.notes)


def test_a_label_that_is_no_declared_class_is_an_error_or_a_skipped_row() -> None:
    task = dataclasses.replace(STARS, classes=[3, 2, 1])
    with pytest.raises(recmtl.DataError, match=r"'7'.* a class of task 'stars', one of 3, 2, 1, or nothing"):
        recmtl.prepare(schema_of(task), frame_of([1, 2, 7]), holdout=0)
    data = recmtl.prepare(schema_of(task), frame_of([1, 2, 7]), holdout=0, bad_rows="skip")
    assert data.train.labels["rating"].tolist() == [2, 1]
    assert any("no training row of class '3'" in note for note in data.notes)
    ignoring = dataclasses.replace(task, unknown_classes="ignore")
    assert len(recmtl.prepare(schema_of(ignoring), frame_of([1, 2, 7]), holdout=0).train) == 3


def test_words_that_yaml_reads_as_something_else_are_to_be_quoted(tmp_path: Path) -> None:
    card, rows = tmp_path / "card.yaml", frame_of(["no", "yes"])
    text = "features: [{numeric: x}]\ntasks: [{name: t, label: rating, kind: multiclass, classes: [CLASSES]}]\n"
    for classes, said in (
        ("no, yes", "'no' is not a class of task 't', one of false, true, or nothing: on a card put no in quotes"),
        ("no, perhaps", r"must all be text, numbers or booleans, got \[False, 'perhaps'\]: on a card put words"),
        ("null, yes", r"got \[None, True\]: on a card put words that YAML reads otherwise"),
    ):
        card.write_text(text.replace("CLASSES", classes))
        with pytest.raises(ValueError, match=said):
            recmtl.prepare(recmtl.Schema.load(card), rows, holdout=0)
    card.write_text(text.replace("CLASSES", "'no', 'yes'"))
    assert recmtl.prepare(recmtl.Schema.load(card), rows, holdout=0).train.labels["rating"].tolist() == [0, 1]


def test_one_class_or_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(recmtl.SchemaError, match="task 'stars' has one class, 'a' in the training rows"):
        recmtl.prepare(schema_of(STARS), frame_of(["a", "a"]), holdout=0)
    monkeypatch.setattr("recmtl.data.columns.classes.MAX_CLASSES", 3)
    with pytest.raises(recmtl.DataError, match="more than 3 values: name its `classes`, or take a regression"):
        recmtl.prepare(schema_of(STARS), frame_of([1, 2, 3, 4]), holdout=0)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([STARS, recmtl.Task("stay", "rating", kind="regression")], "read the classes of label 'rating' in two ways"),
        ([STARS, recmtl.Task("buy", "bought", given="rating")], "cannot be a condition as well"),
        (
            [dataclasses.replace(STARS, classes=[1, 2]), recmtl.Task("stars_1", "bought")],
            "two predictions are named 'stars_1'",
        ),
    ],
)
def test_tasks_that_contradict_each_other(tasks: list[recmtl.Task], message: str) -> None:
    with pytest.raises(recmtl.SchemaError, match=message):
        schema_of(*tasks)


def test_classes_belong_to_multiclass_tasks_and_differ() -> None:
    with pytest.raises(recmtl.SchemaError, match="only a multiclass task has `classes`, got a binary task"):
        recmtl.Task("ctr", "click", classes=[1, 2])
    with pytest.raises(recmtl.SchemaError, match="two or more, each once"):
        dataclasses.replace(STARS, classes=[1, "1"])


def test_labels_are_read_as_text_says_or_as_the_user_says() -> None:
    frame = frame_of([1, 2, 3, 4] * 5, job=["a", "b", "c", "a"] * 5, two=[1, 2, 1, 2] * 5)
    read = recmtl.Schema.infer(frame, ["rating", "job"], kinds={"x": "numeric"})
    assert [task.kind for task in read.tasks] == ["regression", "multiclass"]
    said = recmtl.Schema.infer(frame, ["stars=rating", "two"], kinds={"rating": "multiclass", "two": "multiclass"})
    assert [(task.name, task.kind) for task in said.tasks] == [("stars", "multiclass"), ("two", "multiclass")]
    with pytest.raises(recmtl.SchemaError, match="if these are classes, say `--kind two=multiclass`"):
        recmtl.Schema.infer(frame, ["two"])
    with pytest.raises(recmtl.SchemaError, match="column 'x' is no label"):
        recmtl.Schema.infer(frame, ["job"], kinds={"x": "multiclass"})


def test_a_card_holds_the_classes(tmp_path: Path) -> None:
    schema = schema_of(dataclasses.replace(STARS, classes=[3, 2], unknown_classes="ignore"))
    schema.save(tmp_path / "card.yaml")
    assert recmtl.Schema.load(tmp_path / "card.yaml") == schema


def test_describe_counts_each_class() -> None:
    found = recmtl.describe(frame_of(["b", "a", "a", None]), schema=schema_of(STARS)).labels
    columns = found[["task", "class", "rows", "positives"]]
    assert columns.values.tolist() == [["stars", "a", 3, 2.0], ["stars", "b", 3, 1.0]]


def test_describe_sums_up_many_classes(capsys: pytest.CaptureFixture[str]) -> None:
    frame = frame_of([f"c{i}" for i in range(20) for _ in range(60)] + ["rare"] * 3)
    test = frame_of([f"c{i}" for i in range(20) for _ in range(60)] + ["c7"] * 300)
    found = recmtl.describe(frame, schema=schema_of(STARS), test=test)
    assert found.summary[1] == (
        "task stars: 21 classes in 1,203 train rows: c0 4.99%, c1 4.99%, c10 4.99%, c11 4.99%, …, rare 0.25%, "
        "20 classes in 1,500 test rows: c7 24.00%, c0 4.00%, c1 4.00%, c10 4.00%, …, c9 4.00%"
    )
    assert [text for text in found.warnings if text.startswith("task")] == [
        "task 'stars': 1 of 21 classes has fewer than 50 training rows: rare 3",
        "task 'stars': 1 of 21 classes has another share of the test rows than of the training rows, so probabilities "
        "will be off: c7 24.00% (4.99%)",
    ]
    print_description(found, "rows")
    printed = capsys.readouterr().out
    assert "labels (21 rarer classes left out)" in printed
    assert printed.count("│ stars │") == 2 * MOST_CLASSES
