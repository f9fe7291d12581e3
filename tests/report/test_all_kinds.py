"""The page of runs of tasks of every kind, of rows with many, few and no labels, alone and beside each other."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recmtl.evaluate import Predictions
from recmtl.evaluate.measures import MEASURES
from recmtl.report import difference_frame, figures, metric_frame
from recmtl.report.calibration import calibration_section
from recmtl.report.elements import Picture, Section, Text
from recmtl.report.findings import ORDER, findings
from recmtl.report.page import render_page
from recmtl.report.predictions import prediction_section
from recmtl.report.sections import (
    balance_section,
    data_section,
    expert_section,
    learning_section,
    metric_section,
    recipe_section,
)
from recmtl.report.slices import slice_section
from recmtl.report.verdict import verdict_section
from recmtl.schema import Numeric, Schema, Task

ROWS = 40
LABELS = {
    "various": np.arange(ROWS) % 2,
    "all alike": np.ones(ROWS),
    "all 0": np.zeros(ROWS),
    "a single row": np.where(np.arange(ROWS) == 0, 1, np.nan),
    "none": np.full(ROWS, np.nan),
}
SECTIONS = ("verdict", "metrics", "learning", "curves", "calibration", "slices", "balance", "experts", "data", "recipe")


def run(name: str, kind: str, labels: np.ndarray, path: Path, task: str = "y", seed: int = 0) -> Any:
    """A run of one task on rows with a key."""
    classes = ("a", "b", "c") if kind == "multiclass" else ()
    schema = Schema([Numeric("x")], [Task(task, task, kind=kind, classes=classes)], keys=["k"])
    values = np.random.default_rng(seed).dirichlet(np.ones(3), ROWS)
    keys = pa.table({"k": [str(row % 3) for row in range(ROWS)]})
    given = Predictions(schema, {task: values if classes else values[:, 0]}, {task: labels.astype(float)}, None, keys)
    metrics = dict.fromkeys(MEASURES[kind].metrics, 0.5)
    records = [{"step": step, "epoch": 1, "loss": {task: 1.0}, "valid": {task: metrics}} for step in (1, 2)]
    found = {"name": name, "path": path, "recipe": "model: MMOE", "records": records, "split": "test", "usage": {}}
    fitted = SimpleNamespace(schema=schema, history=SimpleNamespace(rows=100))
    return SimpleNamespace(**found, fitted=fitted, predictions=given, scores=given.scores())


def page(*runs: Any) -> Iterator[Section]:
    """All sections of the page of runs."""
    metrics, differences = metric_frame(runs, 2), difference_frame(runs, 2)
    yield verdict_section(runs, metrics, differences, findings(runs, metrics))
    yield metric_section(runs, metrics, differences, 2)
    yield learning_section(runs)
    yield prediction_section(runs)
    yield calibration_section(runs, ["k"], None, None, lambda what, rows: None)
    yield slice_section(runs, ["k"], None, lambda what, rows: None)
    yield from (balance_section(runs), expert_section(runs), data_section([]), recipe_section(runs))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("kind", MEASURES)
def test_a_page_of_any_kind_and_labels(kind: str, labels: str, tmp_path: Path) -> None:
    sections = [*page(run("one", kind, LABELS[labels], tmp_path))]
    assert tuple(section.name for section in sections) == SECTIONS
    assert set(ORDER) <= set(SECTIONS)
    text = render_page("title", "one", sections)
    assert "nan" not in text.split("<body>")[1]
    results = sections[0].parts[0].lines[1].sentences  # type: ignore[union-attr]
    assert all(float(word[:-1]) < 1000 for said in results for word in said.split() if word.endswith("%"))


def test_pages_of_two_runs_of_any_kinds_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "image", lambda draw, height=1.0: "")
    for (one, other), labels in itertools.product(itertools.product(MEASURES, repeat=2), ("various", "none")):
        runs = [run(f"{kind} {i}", kind, LABELS[labels], tmp_path, seed=i) for i, kind in enumerate((one, other))]
        sections = [*page(*runs)]
        text = render_page("title", "two", sections)
        assert "nan" not in text.split("<body>")[1]
        drawn = {part.title for section in sections for part in section.parts if isinstance(part, Picture)}
        if labels == "various":
            assert drawn
            tested = difference_frame(runs, 20)
            assert len(tested) == (one == other)
    assert "No main metric could be tested" in text


def test_runs_of_other_tasks_are_compared_on_those_that_both_have(tmp_path: Path) -> None:
    one, other = (run(name, "binary", LABELS["various"], tmp_path, seed=i) for i, name in enumerate(("one", "other")))
    more = run("more", "regression", LABELS["various"], tmp_path, task="z")
    one.predictions.labels.update(more.predictions.labels)
    one.scores.update(more.scores)
    assert difference_frame([one, other])["task"].tolist() == ["y"]
    texts = [part.text for section in page(other, more) for part in section.parts if isinstance(part, Text)]
    assert any(text.startswith("Not compared with other, because") for text in texts)
