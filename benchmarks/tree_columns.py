"""What boosted trees read of a data set: numbers, categories, and label rates of ids that are out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.tree_data import TreeData

FOLDS = 5
PRIOR_ROWS = 20.0  # the mean of the training rows counts like this many rows of each id
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaskRows:
    """The inputs and labels of one task.

    Args:
        x: The columns by part of the data set: ``train``, ``stop`` and ``measured``.
        train: The labels of the training rows.
        stop: The labels of the rows that decide when to stop.
        categories: The columns that are categories, as text; the others are numbers.
        ids: The columns of many categories, which have label rates beside them.
    """

    x: dict[str, pd.DataFrame]
    train: Labels
    stop: Labels
    categories: tuple[str, ...]
    ids: tuple[str, ...]

    def without(self, column: str) -> TaskRows:
        """Return the rows without an id, its label rates and its counts."""
        names = (column, *rate_names(column))
        x = {name: frame.drop(columns=list(names)) for name, frame in self.x.items()}
        kept = tuple(name for name in self.categories if name != column)
        return replace(self, x=x, categories=kept, ids=tuple(name for name in self.ids if name != column))


def rate_names(column: str) -> tuple[str, str]:
    """Return the names of the label rates and the counts of an id."""
    return f"{column}: rate", f"{column}: count"


def columns_of(data: TreeData) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Return the columns of each part, and which are categories: lists become flags, times their calendar parts."""
    labels = set(data.tasks.values())
    frames: dict[str, dict[str, pd.Series]] = {name: {} for name in data.frames()}
    categories = []
    for column in (str(name) for name in data.train if name not in labels):
        values = data.train[column]
        is_number = pd.api.types.is_numeric_dtype(values) and column not in (*data.codes, *data.ids)
        if not (is_number or column in data.lists or pd.api.types.is_datetime64_any_dtype(values)):
            categories.append(column)
        for name, frame in data.frames().items():
            frames[name] |= _read(frame[column], column in data.lists, column in categories, values)
    return {name: pd.DataFrame(columns) for name, columns in frames.items()}, tuple(categories)


def _read(column: pd.Series, is_list: bool, is_category: bool, train: pd.Series) -> dict[str, pd.Series]:
    name = str(column.name)
    if is_list:
        known = sorted(set(train.dropna().str.split("|").explode()))
        flags = column.str.get_dummies("|").reindex(columns=known, fill_value=0)
        return {f"{name}: {value}": flags[value] for value in known}
    if pd.api.types.is_datetime64_any_dtype(column):
        return {f"{name}: {part}": getattr(column.dt, part) for part in ("hour", "day_of_week", "day", "month")}
    return {name: column.astype("string").fillna("missing").astype(object) if is_category else column.astype(float)}


def rows_of(data: TreeData, task: str) -> TaskRows:
    """Return what trees read for one task."""
    x, categories = columns_of(data)
    labels = {name: frame[data.tasks[task]].to_numpy(np.int64) for name, frame in data.frames().items()}
    for column in data.ids:
        rates = label_rates(x["train"][column], labels["train"], [x["stop"][column], x["measured"][column]])
        for frame, (rate, count) in zip(x.values(), rates, strict=True):
            frame[list(rate_names(column))] = np.column_stack([rate, count])
    return TaskRows(x, labels["train"], labels["stop"], categories, data.ids)


def label_rates(
    train: pd.Series, labels: Labels, others: Sequence[pd.Series], folds: int = FOLDS
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return each row's rate of positives among the rows of the same id, drawn to the mean, and their number.

    A training row is in one of several folds, drawn at random; it takes rates and numbers from the other folds, never
    from its own row. The rows of `others` take them from all training rows.

    Args:
        train: The ids of the training rows.
        labels: Their labels ``[rows]``.
        others: The ids of other rows.
        folds: The number of folds.

    Returns:
        Rates and numbers of the training rows, then of each of the others.
    """
    fold = np.random.default_rng(0).permutation(len(train)) % folds
    own = np.empty((2, len(train)))
    for part in range(folds):
        own[:, fold == part] = _rates(train[fold != part], labels[fold != part], train[fold == part])
    return [(own[0], own[1]), *((*_rates(train, labels, ids),) for ids in others)]


def _rates(ids: pd.Series, labels: Labels, wanted: pd.Series) -> npt.NDArray[np.float64]:
    """Return the smoothed rates and the numbers of wanted ids ``[2, rows]``."""
    table = pd.Series(labels).groupby(ids.to_numpy()).agg(["sum", "count"]).reindex(wanted).fillna(0)
    positives, count = table["sum"].to_numpy(float), table["count"].to_numpy(float)
    return np.stack([(positives + PRIOR_ROWS * labels.mean()) / (count + PRIOR_ROWS), count])
