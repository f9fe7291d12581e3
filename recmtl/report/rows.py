"""The data of a run: where it is, what is in it, and the rows of the split that a report is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from recmtl.data import DataError, Description, PreparedData, describe
from recmtl.data.preparation.prepare import Progress
from recmtl.data.profiling.description import LABELS, kind
from recmtl.data.sources.open import open_sources
from recmtl.data.store.format import MANIFEST
from recmtl.evaluate.slices import Values
from recmtl.io.untrusted import from_yaml
from recmtl.recipe.recipe import DataOptions, open_data, own_cache
from recmtl.report.features import check_rows, key_values, prepared_values, raw_values
from recmtl.report.runs import ReportedRun
from recmtl.schema import FittedSchema, SchemaError

NAN = float("nan")


@dataclass(frozen=True)
class RunData:
    """What is known of the data of a run.

    Args:
        data: The prepared dataset; ``None`` where it cannot be had any more.
        reason: Why not.
    """

    data: PreparedData | None
    reason: str = ""

    @classmethod
    def open(cls, run: ReportedRun, progress: Progress) -> RunData:
        """Open what the recipe names; raw files that are no longer in the cache are prepared again."""
        try:
            data = open_data(data_options(run), progress)
        except (DataError, SchemaError, OSError) as error:
            return cls(None, " ".join(str(error).split()))
        if data.schema.fingerprint != run.fitted.fingerprint:
            return cls(None, "what the recipe names is no longer what the run was trained on")
        return cls(data)


def data_options(run: ReportedRun) -> DataOptions:
    """Read the part of a recipe that names its data.

    Raises:
        DataError: It does not.
    """
    try:
        given: Mapping[str, Any] = from_yaml(run.recipe)["data"]
        known = {field.name for field in fields(DataOptions)}
        options = {name: value for name, value in given.items() if name in known}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the recipe of {run.name} names no data: {error}") from error
    if not all(isinstance(value, str | float | int | None) for value in options.values()):
        raise DataError(f"the recipe of {run.name} names no data that can be opened")
    cache = own_cache(options.pop("cache", None))
    return DataOptions(**options, cache=Path(cache) if cache else None)


def values_of(run: ReportedRun, name: str, rows: str | None, progress: Progress) -> Values:
    """Give the values of a feature in the rows that a run predicted.

    Args:
        run: The run.
        name: A feature, a part of a date, or a column that was carried through; with raw rows any of their columns.
        rows: Where these rows are, raw or prepared; ``None`` takes the data that the recipe names.
        progress: Called with what is being done and the number of rows just read.

    Raises:
        DataError: The rows are others, or cannot be read.
        SchemaError: There is no such feature.
    """
    if name in run.predictions.keys.column_names:
        return key_values(run.predictions, name)
    if rows is not None and not (Path(rows) / MANIFEST).is_file():
        schema = run.fitted.schema
        return raw_values(open_sources(rows, "given", schema.separator), schema, name, run.predictions)
    found = RunData.open(run, progress) if rows is None else RunData(PreparedData.open(rows))
    if found.data is None:
        raise DataError(f"the data of {run.name} is not where its recipe says, so give `--rows`: {found.reason}")
    if found.data.schema.fingerprint != run.fitted.fingerprint:
        raise DataError(f"{rows!r} was prepared by another schema than that of {run.name}")
    split = found.data.splits.get(run.split)
    if split is None:
        raise DataError(f"{rows!r} has no {run.split} rows, which {run.name} predicted")
    check_rows(split.labels, len(split), run.predictions, f"the {run.split} split")
    return prepared_values(split, name)


def described(run: ReportedRun, progress: Progress) -> tuple[Description, str]:
    """Describe the data of a run, and say what could not be looked at."""
    found = RunData.open(run, progress)
    if found.data is not None:
        return describe(found.data), ""
    return from_the_run(
        run
    ), f"The data is not where the recipe says, so this is what the run itself holds: {found.reason}."


def from_the_run(run: ReportedRun) -> Description:
    """Describe the data as far as the fitted schema and the predictions tell."""
    empty = pd.DataFrame()
    labels = pd.DataFrame([*_trained(run.fitted), *_predicted(run)], columns=list(LABELS))
    return Description(empty, _columns(run.fitted), empty, empty, labels, empty, empty, ())


def _columns(fitted: FittedSchema) -> pd.DataFrame:
    sizes = {block.name: block.size for block in fitted.id_blocks}
    rows = [
        (f.name, kind(f), sizes.get(f.name), *fitted.moments.get(f.name, (None, None))) for f in fitted.schema.features
    ]
    columns = ["column", "kind", "vocabulary", "mean", "deviation"]
    return pd.DataFrame(rows, columns=columns).astype({"vocabulary": "Int64", "mean": float, "deviation": float})


def _trained(fitted: FittedSchema) -> list[tuple[str, str, int, float, float]]:
    rates = {task.name: fitted.rate(task) for task in fitted.schema.tasks}
    return [("train", name, rate.rows, NAN, rate.mean) for name, rate in rates.items()]


def _predicted(run: ReportedRun) -> list[tuple[str, str, int, float, float]]:
    return [
        (run.split, name, len(s), float(s.labels.sum()) if s.task.kind == "binary" else NAN, float(s.labels.mean()))
        for name, s in run.scores.items()
        if len(s)
    ]
