"""Warnings about a dataset, from the tables of its description: what would harm a model in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sized
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from recmtl.errors import shortened
from recmtl.io.list_text import parse_list
from recmtl.io.spellings import TICKS
from recmtl.schema import Categorical, Numeric, Schema
from recmtl.schema.column_reading import LEFT_OUT
from recmtl.schema.date_text import formats_of
from recmtl.schema.time_columns import named_like_a_time
from recmtl.schema.unix_time import is_recent, unix_unit

ENOUGH = 100  # rows of a split of which drift is told from chance
UNSEEN = 0.2  # the share of values that the training rows lack
BEYOND = 0.05  # the share of numbers outside of the range of the training rows
SHIFT = 0.5  # deviations between two means
MISSING = 0.2  # the difference of two shares of missing values
RARE = 0.9  # the share of training rows that lack a value, or that have one of their own
FEW_POSITIVES = 50
RATE = 1.25  # the ratio of two shares of positives that differ by more than chance
DEVIATIONS = 4.0  # by which such shares differ
SEPARATED = re.compile(r"[^\s|;]+([|;][^\s|;]+)+")
TIME_OF_DAY = re.compile(r"[0-2]?[0-9]:[0-5][0-9](:[0-5][0-9])?")
DATE_DIGITS = 19700101, 20991231


def cautions(
    schema: Schema,
    rows: Mapping[str, int],
    columns: pd.DataFrame,
    values: pd.DataFrame,
    numbers: pd.DataFrame,
    labels: pd.DataFrame,
    drift: pd.DataFrame,
) -> Iterator[str]:
    """Yield a sentence on each finding.

    Args:
        schema: The schema.
        rows: The number of rows of each split, the training rows first.
        columns: The tables of a `Description`, as are the others.
        values: Of prepared rows it is empty.
        numbers: Of prepared rows it holds encoded numbers, which are not looked at.
        labels: The labels of each split.
        drift: How the other splits differ from the training rows.
    """
    left_out = {*columns.loc[columns["kind"] == LEFT_OUT, "column"]}
    features = {feature.name: feature for feature in schema.features if feature.name not in left_out}
    yield from _labels(labels)
    missing = {row["column"]: row.get("missing", row.get("missing, train")) for row in columns.to_dict("records")}
    for row in drift.to_dict("records"):
        if row["column"] in features and rows[row["split"]] >= ENOUGH:
            yield from _drift(row, missing.get(row["column"]))
    if "transform" not in numbers:
        yield from _times(numbers, [name for name, f in features.items() if isinstance(f, Numeric)])
    for name, found in values.groupby("column", sort=False):
        if isinstance(features.get(str(name)), Categorical):
            yield from _texts(str(name), found["value"].astype(str).tolist())
    if "distinct" in columns:
        yield from _rare(columns[columns["column"].isin(features)], next(iter(rows.values())))


def _labels(labels: pd.DataFrame) -> Iterator[str]:
    """Yield tasks with few positives or negatives, and rates that differ between the splits."""
    counts = labels[labels["positives"].notna()]
    for task, found in counts.groupby("task", sort=False):
        if "class" in found and found["class"].notna().any():
            yield from _classes(task, found)
            continue
        by_split = found.set_index("split").to_dict("index")
        train = by_split.pop("train", None)
        if train is None:
            continue
        for count, what in ((train["positives"], "positive"), (train["rows"] - train["positives"], "negative")):
            if count < FEW_POSITIVES:
                yield f"task {task!r} has {count:,.0f} {what}{'' if count == 1 else 's'} among its training rows"
        for split, other in by_split.items():
            if _differ(train, other):
                yield (
                    f"task {task!r}: {other['mean']:.2%} of the {split} rows are positive, {train['mean']:.2%} of the "
                    "training rows: probabilities will be off"
                )


def _classes(task: object, labels: pd.DataFrame) -> Iterator[str]:
    """Yield how many classes of a task are rare, and how many are more or less frequent in another split."""
    splits: dict[Any, dict[Any, dict[Any, Any]]] = {
        split: found.set_index("class").to_dict("index") for split, found in labels.groupby("split", sort=False)
    }
    train = splits.pop("train", {})
    rare = [(found["positives"], name) for name, found in train.items() if found["positives"] < FEW_POSITIVES]
    if rare:
        named = shortened(f"{name} {count:,.0f}" for count, name in sorted(rare, key=itemgetter(0)))
        yield f"task {task!r}: {_some(rare, train)} fewer than {FEW_POSITIVES} training rows: {named}"
    for split, others in splits.items():
        changed = [
            f"{name} {others[name]['mean']:.2%} ({found['mean']:.2%})"
            for name, found in train.items()
            if name in others and _differ(found, others[name])
        ]
        if changed:
            yield (
                f"task {task!r}: {_some(changed, train)} another share of the {split} rows than of the training rows, "
                f"so probabilities will be off: {shortened(changed)}"
            )


def _some(classes: Sized, of: Sized) -> str:
    return f"{len(classes)} of {len(of)} classes {'has' if len(classes) == 1 else 'have'}"


def _differ(train: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Return whether two shares of positives differ by more than chance."""
    pooled = (train["positives"] + other["positives"]) / (train["rows"] + other["rows"])
    error = (pooled * (1 - pooled) * (1 / train["rows"] + 1 / other["rows"])) ** 0.5
    low, high = sorted((train["mean"], other["mean"]))
    return bool(high > RATE * low and high - low > DEVIATIONS * error)


def _drift(row: Mapping[Any, Any], missing: float | None) -> Iterator[str]:
    """Yield how a column of another split differs from the training rows."""
    column, split = row["column"], row["split"]
    share, unseen, beyond, shift = (row[name] for name in ("missing", "unseen", "beyond", "shift"))  # NaN if unknown
    if unseen >= UNSEEN:
        yield (
            f"column {column!r}: {unseen:.0%} of the values in the {split} rows are not among those of the training "
            "rows, so a model knows nothing of them"
        )
    if abs(shift) >= SHIFT:
        side = "above" if shift > 0 else "below"
        yield (
            f"column {column!r}: the mean of the {split} rows is {abs(shift):.1f} deviations {side} that of the "
            "training rows"
        )
    elif beyond >= BEYOND:
        yield (
            f"column {column!r}: {beyond:.0%} of the numbers in the {split} rows lie outside of the range of the "
            "training rows"
        )
    if missing is not None and abs(share - missing) >= MISSING:
        yield f"column {column!r} is missing in {share:.0%} of the {split} rows, {missing:.0%} of the training rows"


def _times(numbers: pd.DataFrame, names: list[str]) -> Iterator[str]:
    """Yield numbers that are times."""
    for row in numbers[numbers["column"].isin(names)].to_dict("records"):
        name, low, high = str(row["column"]), row["lowest"], row["highest"]
        if not low < high:
            continue
        unit, named = unix_unit(low, high), named_like_a_time(name)
        if unit and (named or is_recent(low, high, unit)):
            first, last = (np.datetime64(int(time / TICKS[unit]), "s").astype("datetime64[D]") for time in (low, high))
            yield (
                f"column {name!r} is read as numbers, but holds Unix times in {unit}, from {first} to {last}: say "
                f"`--kind {name}=timestamp`, or `timestamp: {name}` on a card"
            )
        elif named and DATE_DIGITS[0] <= low and high <= DATE_DIGITS[1] and low == int(low):
            yield (
                f"column {name!r} is read as numbers, but may hold dates, such as {low:.0f}: say "
                f"`--kind {name}=timestamp`, or `timestamp: {name}` on a card"
            )


def _texts(name: str, values: list[str]) -> Iterator[str]:
    """Yield categories whose most frequent values are all lists, dates or times of day."""
    if all(SEPARATED.fullmatch(value) or _is_list(value) for value in values):
        yield (
            f"column {name!r} is read as one category per row, but holds lists written as text, such as "
            f"{values[0][:24]!r}: say `--kind {name}=multi_categorical`, or `multi_categorical: {name}` on a card"
        )
    elif all(TIME_OF_DAY.fullmatch(value) for value in values):
        yield (
            f"column {name!r} is read as categories, but holds times of day, such as {values[0]!r}: give the hour as a "
            "number, or a date with the time"
        )
    elif all(formats_of(value) for value in values):
        yield (
            f"column {name!r} is read as categories, but holds dates, such as {values[0]!r}: say "
            f"`--kind {name}=timestamp`, or `timestamp: {name}` on a card"
        )


def _is_list(value: str) -> bool:
    try:
        return len(parse_list(value) or ()) > 1
    except ValueError:
        return False


def _rare(columns: pd.DataFrame, rows: int) -> Iterator[str]:
    """Yield columns that few training rows have, and categories that nearly all rows have to themselves."""
    for row in columns.to_dict("records"):
        present = rows * (1 - row["missing"])
        if RARE <= row["missing"] < 1:
            yield f"column {row['column']!r} is missing in {row['missing']:.0%} of the training rows"
        elif row["kind"] == "categorical" and row["distinct"] > RARE * present and rows >= ENOUGH:
            yield (
                f"column {row['column']!r} has {row['distinct']:,} categories in {present:,.0f} training rows: nearly "
                f"each row has its own, of which nothing is learnt; `--drop {row['column']}` leaves it out"
            )
