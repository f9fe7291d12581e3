"""The first pass over the training rows: vocabularies, statistics and label rates, in memory that rows do not grow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.categorical import CategoryFitter, notes
from recmtl.data.errors import BadValueError
from recmtl.data.values import Floats, all_integers, as_numbers
from recmtl.schema import FittedSchema, LabelRate, Moments, Numeric, Schema


def transform(values: Floats, numeric: Numeric) -> Floats:
    """Apply what comes before the standardisation of a numeric feature."""
    if numeric.transform == "log1p":
        return np.sign(values) * np.log1p(np.abs(values))
    return values


class MomentSums:
    """Mean and deviation of the numeric features as batches come, in float64 (Chan's pairwise update)."""

    def __init__(self, columns: int) -> None:
        self._rows, self._mean, self._squares = np.zeros(columns), np.zeros(columns), np.zeros(columns)

    def add(self, values: Floats) -> None:
        """Add a batch ``[rows, columns]``; NaN is missing."""
        present = ~np.isnan(values)
        rows = present.sum(axis=0)
        mean = np.where(present, values, 0).sum(axis=0) / np.maximum(rows, 1)
        squares = (np.where(present, values - mean, 0) ** 2).sum(axis=0)
        total = np.maximum(self._rows + rows, 1)
        delta = mean - self._mean
        self._squares += squares + delta**2 * self._rows * rows / total
        self._mean += delta * rows / total
        self._rows += rows

    def moments(self, features: Sequence[Numeric]) -> dict[str, Moments]:
        """Give mean and deviation: 1 for a column that does not vary."""
        deviation = np.sqrt(self._squares / np.maximum(self._rows, 1))
        return {
            f.name: Moments(float(mean), float(sd) if ok else 1.0)
            for f, mean, sd, ok in zip(features, self._mean, deviation, self._varies(), strict=True)
        }

    def _varies(self) -> npt.NDArray[np.bool_]:
        """Whether a column varies by more than rounding."""
        varies: npt.NDArray[np.bool_] = self._squares > 1e-24 * self._rows * self._mean**2
        return varies

    def notes(self, features: Sequence[Numeric]) -> list[str]:
        """Name the columns without information."""
        notes = []
        for feature, rows, varies in zip(features, self._rows, self._varies(), strict=True):
            if rows == 0:
                notes.append(f"numeric column {feature.name!r} is missing in every training row")
            elif not varies:
                notes.append(f"numeric column {feature.name!r} is constant in the training rows")
        return notes


class Fitter:
    """Learns a `FittedSchema` from batches of training rows.

    Args:
        schema: The schema, its patterns resolved.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._numeric = [f for f in schema.features if isinstance(f, Numeric)]
        self._categories = CategoryFitter(schema)
        self._moments = MomentSums(len(self._numeric))
        pairs = [(t.label, t.given) for t in schema.reported_tasks] + [(label, None) for label in schema.labels]
        self._rates = {pair: np.zeros(3) for pair in pairs}  # rows, Σ weight, Σ weight·label
        self._integer_keys = dict.fromkeys(schema.carried, True)
        self._unclicked = 0
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Learn from a batch of training rows.

        Raises:
            BadValueError: A value does not parse.
            DataError: A column has more categories than memory holds.
        """
        self.rows += batch.num_rows
        self._categories.add(batch)
        if self._numeric:
            columns = [transform(as_numbers(batch.column(f.name), f.name), f) for f in self._numeric]
            self._moments.add(np.column_stack(columns))
        self._add_labels(batch)
        for key, integer in self._integer_keys.items():
            self._integer_keys[key] = integer and all_integers(batch.column(key), key)

    def _add_labels(self, batch: pa.RecordBatch) -> None:
        labels = {name: label_column(self._schema, batch, name) for name in self._schema.labels}
        weight = weight_column(self._schema, batch)
        if self._schema.funnel:
            click, conversion = labels[self._schema.funnel.click], labels[self._schema.funnel.conversion]
            self._unclicked += int(((conversion == 1) & (click == 0)).sum())
        for (label, given), sums in self._rates.items():
            valid = ~np.isnan(labels[label]) & (labels[given] == 1 if given else True)
            sums += [valid.sum(), weight[valid].sum(), (weight * labels[label])[valid].sum()]

    def finish(self) -> tuple[FittedSchema, list[str]]:
        """Give the fitted schema, and a sentence on each column or task without information."""
        fitted = FittedSchema(
            schema=self._schema,
            vocabularies=self._categories.vocabularies(),
            lengths=self._categories.lengths(),
            moments=self._moments.moments(self._numeric),
            integer_keys=frozenset(key for key, integer in self._integer_keys.items() if integer),
            rates={
                k: LabelRate(int(rows), float(total / weight) if weight else 0.0)
                for k, (rows, weight, total) in self._rates.items()
            },
        )
        return fitted, self._moments.notes(self._numeric) + self._notes(fitted)

    def _notes(self, fitted: FittedSchema) -> list[str]:
        found = notes(fitted)
        if self._unclicked:
            found.append(f"{self._unclicked} training rows have a conversion without a click")
        for task in self._schema.tasks:
            rate = fitted.rate(task)
            if rate.rows == 0:
                found.append(f"task {task.name!r} has no training row with a label")
            elif task.kind == "binary" and rate.mean in (0.0, 1.0):
                found.append(f"task {task.name!r} has one class in the training rows: every label is {rate.mean:.0f}")
        return found


def label_column(schema: Schema, batch: pa.RecordBatch, name: str) -> Floats:
    """Read a label column ``[rows]``, NaN where it is missing.

    Raises:
        BadValueError: A binary label is neither 0 nor 1, or a value is not a number.
    """
    values = as_numbers(batch.column(name), name)
    if name in schema.binary_labels:
        bad = ~(np.isnan(values) | (values == 0) | (values == 1))
        if bad.any():
            row = int(bad.argmax())
            raise BadValueError(row, name, f"{values[row]:g}", "a binary label: expected 0, 1 or nothing", bad)
    return values


def weight_column(schema: Schema, batch: pa.RecordBatch) -> npt.NDArray[np.float64]:
    """Read the row weights ``[rows]``, 1 where the schema names none.

    Raises:
        BadValueError: A weight is missing or negative.
    """
    if schema.weight is None:
        return np.ones(batch.num_rows)
    weight = as_numbers(batch.column(schema.weight), schema.weight)
    bad = ~(weight >= 0)
    if bad.any():
        row = int(bad.argmax())
        raise BadValueError(
            row, schema.weight, batch.column(schema.weight)[row].as_py(), "a weight: expected a number from 0", bad
        )
    return weight
