"""The calibration of a report: before and after, by the values of features, and over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd

from recmtl.calibration import Calibration
from recmtl.calibration.calibration import shown_methods
from recmtl.data.preparation.part_work import Progress
from recmtl.errors import counted
from recmtl.evaluate import figures
from recmtl.evaluate.calibration_tables import (
    calibration_by_slice,
    calibration_over_time,
    calibration_table,
    time_key,
)
from recmtl.evaluate.intervals import Interval
from recmtl.evaluate.slices import FEW_POSITIVES
from recmtl.report.elements import Heading, Part, Picture, Section, Table, Text
from recmtl.report.figures import picture
from recmtl.report.run_data import PredictedRows
from recmtl.report.runs import ReportedRun
from recmtl.runs.folder import RunFolder

HOW = (
    "Calibration error: the mean gap between predicted and observed rates in 15 bins, with the 95 % interval of the "
    "true error; of a multi-class task, between the probability of the most probable class and the share of rows of "
    "that class. Noise: the error that right predictions would show on these rows."
)
ADVICE = "No run is calibrated: `recmtl calibrate RUN --rows FILE` does so, on rows that it was not trained on."
RATIO = "mean prediction over mean label with 95 % intervals"


def calibration_section(
    runs: Sequence[ReportedRun], slices: Sequence[str], rows: str | None, time: str | None, progress: Progress
) -> Section:
    """Build the tables of how well probabilities are calibrated.

    Args:
        runs: The runs.
        slices: The features to show it by.
        rows: The predicted rows; ``None`` takes the data that the recipes name.
        time: The key to show it over; ``None`` takes the first key that holds times, if there is one.
        progress: Called with the current activity and the number of rows just read.
    """
    parts: list[Part] = []
    for run in runs:
        suffix = f" ({run.name})" if len(runs) > 1 else ""
        frame = calibration_table(run.predictions)
        if not len(frame):
            continue
        if not parts:
            parts.append(Text(HOW if any(r.predictions.uncalibrated for r in runs) else f"{HOW} {ADVICE}"))
        calibration = Calibration.read(RunFolder(run.path))
        if calibration:
            parts.append(Text(f"Calibrated by {shown_methods(calibration.methods)}{suffix}."))
        parts.append(_error_table(frame, suffix))
        features = PredictedRows(run, rows, progress)
        for name in slices:
            parts += [Heading(f"By {name}{suffix}"), *_ratio_tables(run, name, features)]
        column = time or time_key(run.predictions)
        if column is not None:
            found = calibration_over_time(run.predictions, column)
            parts += [
                Heading(f"Over {column}{suffix}"),
                *_pictures(found, column),
                *_tables(found, "period", f"over {column}, {RATIO}", True),
            ]
    return Section("calibration", "Calibration", parts)


def _error_table(frame: pd.DataFrame, suffix: str) -> Table:
    errors = [Interval(*three) for three in frame[["ece", "low", "high"]].to_numpy().tolist()]
    shown = pd.DataFrame({"task": frame["task"], "stage": frame["stage"], "calibration error": errors})
    shown[["noise", "predicted", "observed"]] = frame[["noise", "predicted", "observed"]]
    shown[["log-loss", "rows"]] = frame[["logloss", "rows"]]
    if frame["stage"].nunique() == 1:
        shown = shown.drop(columns="stage")
    return Table.of(shown, f"Calibration error of each task{suffix}", ordered=True)


def _ratio_tables(run: ReportedRun, name: str, features: PredictedRows) -> Iterator[Table]:
    found = calibration_by_slice(run.predictions, features.values(name))
    yield from _tables(found, "value", f"by {name}, {RATIO}, furthest from 1 first", False)


def _pictures(found: pd.DataFrame, column: str) -> Iterator[Picture]:
    """Draw the calibration of each task over time."""
    for task, of_task in found.dropna(subset=["calibration"]).groupby("task", sort=False):
        shown = of_task.rename(columns={"period": "day"})
        title = f"{task}: calibration over {column}"
        low, high = shown["calibration"].min(), shown["calibration"].max()
        words = f"{title}: from {low:.3f} to {high:.3f} in {counted(len(shown), 'period')}."
        numbers = shown[["day", "calibration", "low", "high"]]
        draw = partial(figures.by_day, {str(task): shown}, "calibration", "prediction over label")
        yield picture(title, words, draw, numbers)


def _tables(found: pd.DataFrame, what: str, caption: str, ordered: bool) -> Iterator[Table]:
    for task, of_task in found.groupby("task", sort=False):
        ends = of_task[["calibration", "low", "high"]].to_numpy().tolist()
        ratios = [Interval(*three) if three[1] == three[1] else None for three in ends]
        shown = pd.DataFrame({what: of_task[what].array, "calibration": ratios, "rows": of_task["rows"].array})
        shown["positives"] = of_task["positives"].array
        few = (of_task["positives"] < FEW_POSITIVES).tolist()
        grey = f"; grey{'' if ordered else ' and last'}: fewer than {FEW_POSITIVES} positives" if any(few) else ""
        yield Table.of(shown, f"{task}: calibration {caption}{grey}", faint=few, beside=True, ordered=ordered)
