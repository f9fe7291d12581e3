"""The first pass over the training rows: vocabularies, statistics and label rates, in memory that rows do not grow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.errors import BadValueError
from recmtl.data.numeric import NumericFitter
from recmtl.data.values import Codes, Floats, all_integers, as_lists, as_numbers, as_text
from recmtl.schema import Categorical, FittedSchema, LabelRate, MultiCategorical, Schema

COMPACT_AFTER = 1 << 20  # distinct values counted before their counts are merged


class CategoryCounts:
    """Counts the categories of one feature as batches come."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._pending = 0
        self.longest = 0

    def add(self, values: pa.StringArray, codes: Codes) -> None:
        """Count a batch: distinct values and the code of each element (-1: missing)."""
        counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
        seen = counts > 0
        self._tables.append(pa.table({"category": values.filter(pa.array(seen)), "count": counts[seen]}))
        self._pending += int(seen.sum())
        if self._pending > COMPACT_AFTER:
            self._tables, self._pending = [self._merged()], 0

    def vocabulary(self, feature: Categorical) -> pa.Array:
        """Give the categories kept: the most frequent first, equal counts in the order of their text."""
        if feature.hash_buckets or not self._tables:
            return pa.array([], pa.string())
        merged = self._merged().sort_by([("count", "descending"), ("category", "ascending")])
        kept = merged.filter(pc.greater_equal(merged["count"], feature.min_count))
        return kept["category"].slice(0, feature.max_vocabulary).combine_chunks()

    def _merged(self) -> pa.Table:
        merged = pa.concat_tables(self._tables).group_by("category").aggregate([("count", "sum")])
        return merged.rename_columns({"count_sum": "count"})


class Fitter:
    """Learns a `FittedSchema` from batches of training rows.

    Args:
        schema: The schema, its patterns resolved.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._counts = {f.name: CategoryCounts() for f in schema.features if isinstance(f, Categorical)}
        self._numeric = NumericFitter(schema.numbers)
        pairs = [(t.label, t.given) for t in schema.reported_tasks] + [(label, None) for label in schema.labels]
        self._rates = {pair: np.zeros(3) for pair in pairs}  # rows, Σ weight, Σ weight·label
        self._integer_keys = dict.fromkeys(schema.carried, True)
        self._unclicked = 0
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Learn from a batch of training rows.

        Raises:
            BadValueError: A value does not parse.
        """
        self.rows += batch.num_rows
        for feature in self._schema.features:
            if isinstance(feature, MultiCategorical):
                values, codes, lengths = as_lists(batch.column(feature.name), feature.separator, feature.name)
                counts = self._counts[feature.name]
                counts.add(values, codes)
                counts.longest = max(counts.longest, int(lengths.max(initial=0)))
            elif isinstance(feature, Categorical):
                self._counts[feature.name].add(*as_text(batch.column(feature.name), feature.name))
        self._numeric.add(batch)
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
        multi = [f for f in self._schema.features if isinstance(f, MultiCategorical)]
        fitted = FittedSchema(
            schema=self._schema,
            vocabularies={
                f.name: self._counts[f.name].vocabulary(f)
                for f in self._schema.features
                if isinstance(f, Categorical) and not f.hash_buckets
            },
            lengths={f.name: max(1, min(f.max_length, self._counts[f.name].longest)) for f in multi},
            moments=self._numeric.moments(),
            quantiles=self._numeric.quantiles(),
            integer_keys=frozenset(key for key, integer in self._integer_keys.items() if integer),
            rates={
                k: LabelRate(int(rows), float(total / weight) if weight else 0.0)
                for k, (rows, weight, total) in self._rates.items()
            },
        )
        return fitted, self._numeric.notes() + self._notes(fitted)

    def _notes(self, fitted: FittedSchema) -> list[str]:
        notes = []
        for name, vocabulary in fitted.vocabularies.items():
            if len(vocabulary) < 2:
                what = "is constant" if len(vocabulary) else "has no category frequent enough"
                notes.append(f"categorical column {name!r} {what} in the training rows")
        if self._unclicked:
            notes.append(f"{self._unclicked} training rows have a conversion without a click")
        for task in self._schema.tasks:
            rate = fitted.rate(task)
            if rate.rows == 0:
                notes.append(f"task {task.name!r} has no training row with a label")
            elif task.kind == "binary" and rate.mean in (0.0, 1.0):
                notes.append(f"task {task.name!r} has one class in the training rows: every label is {rate.mean:.0f}")
        return notes


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
            raise BadValueError(row, name, f"{values[row]:g}", "a binary label: expected 0, 1 or nothing")
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
            row, schema.weight, batch.column(schema.weight)[row].as_py(), "a weight: expected a number from 0"
        )
    return weight
