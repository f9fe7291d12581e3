"""Many slices: figures are few, tables all, and the data is opened once."""

from pathlib import Path

import pytest

from recmtl.evaluate.slices import slice_table
from recmtl.report import open_runs, run_data, slices
from recmtl.report.elements import Picture, Table, Text
from recmtl.report.run_data import PredictedRows

NAMES = ["shop", "genres", "price"]


def quiet(what: str, rows: int) -> None:
    """Ignore progress."""


def test_few_slices_are_all_drawn(first: Path) -> None:
    parts = slices.slice_section(open_runs([first]), NAMES, None, quiet).parts
    assert [sum(isinstance(part, kind) for part in parts) for kind in (Picture, Table, Text)] == [6, 6, 0]


def test_of_many_slices_those_that_differ_most_are_drawn(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MOST_SLICE_FIGURES", 2)
    (run,) = open_runs([first])
    gaps = {}
    for name in NAMES:
        table = slice_table(run.predictions, PredictedRows(run, None, quiet).values(name))
        for task, of_task in table.groupby("task"):
            gaps[f"{task}: AUC by {name}"] = of_task["low"].max() - of_task["high"].min()
    parts = slices.slice_section([run], NAMES, None, quiet).parts
    drawn = [part.title for part in parts if isinstance(part, Picture)]
    assert set(drawn) == set(sorted(gaps, key=gaps.__getitem__)[-2:])
    assert sum(isinstance(part, Table) for part in parts) == 6
    assert isinstance(parts[0], Text)
    assert parts[0].text.startswith("Drawn are the 2 of 6 tables of slices")


def test_the_data_is_opened_once_for_all_slices(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = run_data.open_data
    monkeypatch.setattr(run_data, "open_data", lambda *arguments: opened.append(1) or real(*arguments))
    slices.slice_section(open_runs([first]), NAMES, None, quiet)
    assert len(opened) == 1
