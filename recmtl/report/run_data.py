"""The data of a run: open it, describe it, and read features of its predicted rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recmtl.data import Description, PreparedData, Rows, describe
from recmtl.data.preparation.part_work import Progress
from recmtl.data.profiling.description import label_table
from recmtl.data.profiling.tally import LabelRow
from recmtl.data.sources.open import open_sources
from recmtl.data.store.format import MANIFEST
from recmtl.errors import DataError
from recmtl.evaluate.slices import FeatureValues
from recmtl.recipe.data import open_data
from recmtl.recipe.run_data import data_options
from recmtl.report.feature_columns import check_predicted_rows, key_values, prepared_values, raw_values
from recmtl.report.runs import ReportedRun
from recmtl.schema import FittedSchema, SchemaError
from recmtl.schema.features import KIND_NAMES


def run_data(run: ReportedRun, progress: Progress) -> PreparedData:
    """Open the data that the recipe of a run names, once; raw files that are no longer in the cache are prepared again.

    Raises:
        DataError: The data cannot be opened, or has changed; the message is the reason alone, on one line.
    """
    if run.opened:
        return run.opened[0]
    try:
        data = open_data(data_options(run.recipe, run.name), progress)
    except (DataError, SchemaError, OSError) as error:
        raise DataError(" ".join(str(error).split())) from error
    if data.schema.fingerprint != run.fitted.fingerprint:
        raise DataError("the data that the recipe names has changed since the training")
    run.opened.append(data)
    return data


@dataclass(frozen=True)
class PredictedRows:
    """The features of the predicted rows of a run; prepared data is opened and checked once for all features.

    Args:
        run: The run.
        path: The path of these rows, raw or prepared; ``None`` takes the data that the recipe names.
        progress: Called with the current activity and the number of rows just read.
    """

    run: ReportedRun
    path: str | None
    progress: Progress

    def values(self, name: str) -> FeatureValues:
        """Return the values of a feature, a part of a date, or a key column; of raw rows, of any of their columns."""
        if name in self.run.predictions.keys.column_names:
            return key_values(self.run.predictions, name)
        if self.path is not None and not (Path(self.path) / MANIFEST).is_file():
            schema = self.run.fitted.schema
            sources = open_sources(self.path, "given", schema.text_format)
            return raw_values(sources, schema, name, self.run.predictions)
        return prepared_values(self._prepared, name)

    @cached_property
    def _prepared(self) -> Rows:
        run = self.run
        if self.path is not None:
            data = PreparedData.open(self.path)
        else:
            try:
                data = run_data(run, self.progress)
            except DataError as error:
                raise DataError(f"the data of {run.name} cannot be opened, give `--rows`: {error}") from error
        if data.schema.fingerprint != run.fitted.fingerprint:
            raise DataError(f"{self.path!r} was prepared with another schema than that of {run.name}")
        split = data.splits.get(run.split)
        if split is None:
            raise DataError(f"{self.path!r} has no {run.split} rows, which {run.name} predicted")
        check_predicted_rows(split.labels, len(split), run.predictions, f"the {run.split} split")
        return split


def describe_run(run: ReportedRun, progress: Progress) -> tuple[Description, str]:
    """Describe the data of a run; if it cannot be opened, what the run folder holds of it, and why."""
    try:
        data = run_data(run, progress)
    except DataError as error:
        reason = f"The data of the run cannot be opened, so only its fitted schema is described: {error}."
    else:
        return describe(data), ""
    empty = pd.DataFrame()
    labels = label_table([*_training_labels(run.fitted), *_predicted_labels(run)])
    columns = _schema_columns(run.fitted)
    return Description((), {}, empty, columns, empty, empty, labels, empty, empty, ()), reason


def _schema_columns(fitted: FittedSchema) -> pd.DataFrame:
    sizes = {block.name: block.size for block in fitted.id_blocks}
    rows = [
        (f.name, KIND_NAMES[type(f)], sizes.get(f.name), *fitted.moments.get(f.name, (None, None)))
        for f in fitted.schema.features
    ]
    columns = ["column", "kind", "vocabulary", "mean", "deviation"]
    return pd.DataFrame(rows, columns=columns).astype({"vocabulary": "Int64", "mean": float, "deviation": float})


def _training_labels(fitted: FittedSchema) -> list[LabelRow]:
    rows = []
    for task in fitted.schema.tasks:
        rate = fitted.unthinned_rate(task)
        shares = zip(task.classes, fitted.class_shares.get(task.name, ()), strict=True)
        means: dict[str | None, float] = {str(name): share for name, share in shares} or {None: rate.mean}
        rows += [LabelRow("train", task.name, name, rate.rows, np.nan, mean) for name, mean in means.items()]
    return rows


def _predicted_labels(run: ReportedRun) -> list[LabelRow]:
    rows = []
    for name, scores in run.scores.items():
        labels: dict[str | None, npt.NDArray[Any]] = {None: scores.labels}
        if scores.task.has_classes:
            labels = {str(c): scores.labels == place for place, c in enumerate(scores.task.classes)}
        for of_class, values in labels.items() if len(scores) else ():
            counted = scores.task.has_classes or scores.task.kind == "binary"
            positives = float(values.sum()) if counted else np.nan
            mean = float(np.average(values, weights=scores.sampling_weight))
            rows.append(LabelRow(run.split, name, of_class, len(scores), positives, mean))
    return rows
