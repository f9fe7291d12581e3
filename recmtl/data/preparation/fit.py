"""The first pass over the training rows: vocabularies, statistics and label rates, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from recmtl.data.columns.categorical import CategoryFitter
from recmtl.data.columns.classes import ClassReader
from recmtl.data.columns.numeric import NumericFitter
from recmtl.data.columns.row_sample import SampledFrom
from recmtl.data.columns.values import Codes, Floats, RowNumbers, all_integers
from recmtl.data.preparation.convert import label_column, row_weights
from recmtl.errors import BadValueError, counted
from recmtl.schema import Binned, FittedSchema, LabelRate, Numeric, Schema, SchemaError, Task, Thinning
from recmtl.schema.extend import Extension
from recmtl.schema.fitted import LogMoments
from recmtl.schema.history import FitHistory
from recmtl.schema.tasks import LabelKey

ROUNDING = 1e-12  # of the mean of a label: what a deviation may be of rounding errors alone


class Fitter:
    """Learns a `FittedSchema` from batches of training rows, or from parts of them, each learned by a fitter.

    Args:
        schema: The resolved schema.
        thinning: How the training files were thinned; ``None`` if they were not.
        sample: Where the rows stand among all; ``None`` if they are the first.
    """

    def __init__(self, schema: Schema, thinning: Thinning | None = None, sample: SampledFrom | None = None) -> None:
        self._schema, self._thinning = schema, thinning
        features = (f.name for f in schema.features if not isinstance(f, Numeric | Binned))
        self._others = [*dict.fromkeys([*features, *schema.labels, *schema.carried, *schema.weights])]
        self._categories = CategoryFitter(schema)
        self._numeric = NumericFitter(schema.numbers, schema.decimal, sample)
        keys = [*(task.label_key for task in schema.reported_tasks), *((label, None) for label in schema.labels)]
        self._rates: dict[LabelKey, LabelSums] = {key: LabelSums() for key in keys}
        self._integer_keys = dict.fromkeys(schema.carried, True)
        self._out_of_order = dict.fromkeys(schema.funnel.steps, 0) if schema.funnel else {}  # rows
        self._soft = dict.fromkeys(sorted(schema.binary_labels), 0)  # rows with a label between 0 and 1
        self._classes = ClassReader(schema)
        self._logs = {task.name: (LabelSums(), LabelSums()) for task in schema.tasks if task.kind == "amount"}
        self._class_weights = {task.name: np.zeros(0) for task in schema.tasks if task.has_classes}
        self.rows = 0

    def add(self, batch: pa.RecordBatch, kept: RowNumbers | None = None) -> None:
        """Learn from a batch of training rows, or from those rows of it that are kept."""
        self._numeric.add(batch, kept)
        others = batch.select(self._others)
        if kept is None:
            self._add_others(others)
            return
        try:
            self._add_others(others.take(kept))
        except BadValueError as bad:
            bad.row = int(kept[bad.row])
            raise

    def _add_others(self, batch: pa.RecordBatch) -> None:
        """Learn what is not learned of numbers."""
        self.rows += batch.num_rows
        self._categories.add(batch)
        self._add_labels(batch)
        for key, integer in self._integer_keys.items():
            self._integer_keys[key] = integer and all_integers(batch.column(key), key)

    def merge(self, later: Fitter) -> None:
        """Add what a fitter has counted on the rows that follow those of this one."""
        self.rows += later.rows
        self._categories.merge(later._categories)
        self._numeric.merge(later._numeric)
        for key, sums in self._rates.items():
            sums.merge(later._rates[key])
        for name, pair in self._logs.items():
            for sums, others in zip(pair, later._logs[name], strict=True):
                sums.merge(others)
        for name in self._integer_keys:
            self._integer_keys[name] &= later._integer_keys[name]
        for step in self._out_of_order:
            self._out_of_order[step] += later._out_of_order[step]
        for name in self._soft:
            self._soft[name] += later._soft[name]
        places = self._classes.merge(later._classes)
        for task in (task for task in self._schema.tasks if task.has_classes):
            added = later._class_weights[task.name]
            self._add_class_weights(task.name, np.array(places[task.label], np.int64)[: len(added)], added)

    @property
    def sample_limit(self) -> int:
        """The highest hash of a row that the sample of rows may still take."""
        return self._numeric.sample_limit

    def _add_labels(self, batch: pa.RecordBatch) -> None:
        named = self._schema.class_labels
        labels = {n: label_column(self._schema, batch, n) for n in self._schema.labels if n not in named}
        labels |= {name: self._classes.codes(batch.column(name), name) for name in named}
        weights = {own: row_weights(self._schema, batch, own) for own in (None, *self._schema.task_weights)}
        for name in self._soft:
            self._soft[name] += int(((labels[name] > 0) & (labels[name] < 1)).sum())
        for step, parent in self._out_of_order:
            if parent is not None:
                self._out_of_order[step, parent] += int(((labels[step] == 1) & (labels[parent] == 0)).sum())
        for key, sums in self._rates.items():
            label, given, *own_column = key
            weight = weights[own_column[0] if own_column else None]
            assert label is not None
            valid = ~np.isnan(labels[label]) & (labels[given] == 1 if given else True)
            value, own = labels[label][valid], weight[valid]
            value = np.zeros(len(value)) if label in named else value  # the numbers of classes have no mean
            all_rows = own if self._thinning is None else own * self._thinning.sampling_weight(labels)[valid]
            sums.add(value, own, all_rows)
        sampling = 1.0 if self._thinning is None else self._thinning.sampling_weight(labels)
        weights = {own: weight * sampling for own, weight in weights.items()}
        self._add_classes(labels, weights)
        self._add_amounts(labels, weights)

    def _add_amounts(self, labels: Mapping[str, Floats], weights: Mapping[str | None, Floats]) -> None:
        """Add the logarithms of amounts, and how many are above 0."""
        for task in (task for task in self._schema.tasks if task.name in self._logs):
            valid = ~np.isnan(labels[task.label]) & (labels[task.given] == 1 if task.given else True)
            above, weight = labels[task.label] > 0, weights[task.weight_column]
            share, logs = self._logs[task.name]
            share.add(above[valid].astype(float), weight[valid], weight[valid])
            positive = valid & above
            logs.add(np.log(labels[task.label][positive]), weight[positive], weight[positive])

    def _log_moments(self, task: Task) -> LogMoments:
        share, logs = self._logs[task.name]
        return LogMoments(share.rate.mean, logs.rate.mean, logs.deviation or 1.0)

    def _add_classes(self, labels: Mapping[str, Floats], weights: Mapping[str | None, Floats]) -> None:
        """Count the classes of multi-class tasks: in the order in which they come."""
        for task in (task for task in self._schema.tasks if task.has_classes):
            valid = ~np.isnan(labels[task.label]) & (labels[task.given] == 1 if task.given else True)
            counted = np.bincount(labels[task.label][valid].astype(np.int64), weights[task.weight_column][valid])
            self._add_class_weights(task.name, np.arange(len(counted)), counted.astype(np.float64))

    def _add_class_weights(self, task: str, places: Codes, added: Floats) -> None:
        """Add weights to those of the classes with some numbers."""
        before = self._class_weights[task]
        found = np.pad(before, (0, max(0, int(places.max(initial=-1)) + 1 - len(before))))
        found[places] += added
        self._class_weights[task] = found

    def finish(
        self, files: Mapping[str, str] | None = None, extension: Extension | None = None
    ) -> tuple[FittedSchema, list[str]]:
        """Return the fitted schema, and a note on each column or task without information.

        Args:
            files: The names of the training files by their digests.
            extension: How the schema of a run is extended; ``None`` fits a schema of its own.
        """
        self._check_negative_labels()
        builders, notes = self._categories.builders, list[str]()
        fitted = FittedSchema(
            schema=self._with_classes(self._with_indicators()),
            vocabularies=self._categories.vocabularies(),
            lengths=self._categories.lengths(),
            moments=self._numeric.moments(),
            quantiles=self._numeric.quantiles(),
            medians=self._numeric.medians(),
            ranges=self._numeric.ranges(),
            missing=self._numeric.missing() | self._categories.missing(),
            integer_keys=frozenset(key for key, integer in self._integer_keys.items() if integer),
            rates={key: sums.rate for key, sums in self._rates.items()},
            thinning=self._thinning,
            label_deviations={
                t.label_key: self._rates[t.label_key].deviation for t in self._schema.tasks if t.kind == "regression"
            },
            class_shares={task.name: self._shares(task) for task in self._schema.tasks if task.has_classes},
            log_moments={task.name: self._log_moments(task) for task in self._schema.tasks if task.name in self._logs},
            unthinned_means={k: _mean(s.all_weight, s.all_total) for k, s in self._rates.items() if self._thinning},
        )
        waiting = {name: builder.waiting for name, builder in builders.items() if builder.waiting.num_rows}
        fitted = replace(fitted, history=FitHistory(self.rows, files or {}, waiting=waiting))
        if extension:
            fitted, notes = extension.extend(fitted, {name: builder.counts for name, builder in builders.items()})
        constants = self._categories.constants(fitted) | self._numeric.constant_bins()
        constants = extension.constants(constants) if extension else constants
        fitted = replace(fitted, constants=constants)
        return fitted, [*notes, *self._numeric.notes(), *self._categories.notes(fitted), *self._notes(fitted)]

    def _check_negative_labels(self) -> None:
        """Check that the labels that say which rows are negative are not soft."""
        for name in self._thinning.negative_labels if self._thinning else ():
            if self._soft[name]:
                raise SchemaError(
                    f"label {name!r} is between 0 and 1 in {counted(self._soft[name], 'training row')}, which does not "
                    "say whether a row is negative: name `negative_labels` that are 0 or 1"
                )

    def _with_indicators(self) -> Schema:
        """Return the schema with a missing indicator where a training row lacks a number, if none was chosen."""
        incomplete = self._numeric.incomplete()
        features = [
            replace(f, missing_indicator=f.name in incomplete)
            if isinstance(f, Numeric) and f.missing_indicator is None
            else f
            for f in self._schema.features
        ]
        return replace(self._schema, features=features)

    def _with_classes(self, schema: Schema) -> Schema:
        """Return the schema with the classes of the training rows in multi-class tasks that name none."""
        tasks = []
        for task in schema.tasks:
            if task.has_classes and not task.classes:
                classes = tuple(self._classes.numbered(task.label))
                if len(classes) < 2:
                    found = f"has one class, {classes[0]!r}" if classes else "has no label"
                    raise SchemaError(
                        f"task {task.name!r} {found} in the training rows: a multiclass task needs at least two"
                    )
                task = replace(task, classes=classes, unknown_classes="ignore")
            tasks.append(task)
        return replace(schema, tasks=tasks)

    def _shares(self, task: Task) -> tuple[float, ...]:
        """Return the share of each class of a task among its training rows, in order."""
        numbers = np.array([*self._classes.numbered(task.label).values()])
        weights = self._class_weights[task.name]
        found = np.pad(weights, (0, max(0, int(numbers.max(initial=-1)) + 1 - len(weights))))[numbers]
        return tuple((found / (found.sum() or 1.0)).tolist())

    def _notes(self, fitted: FittedSchema) -> list[str]:
        found = [
            f"{counted(rows, 'training row')} {'has' if rows == 1 else 'have'} a {label} without a {parent}"
            for (label, parent), rows in self._out_of_order.items()
            if rows
        ]
        soft = {name: rows for name, rows in self._soft.items() if rows}
        found += [
            f"label {n!r} is soft: between 0 and 1 in {counted(rows, 'training row')}" for n, rows in soft.items()
        ]
        return [*found, *fitted.task_notes]


class LabelSums:
    """Streaming sums of one label: exact sums for its mean, and Chan's pairwise update for its deviation.

    Attributes:
        all_weight: The sum of the weights times the sampling weights.
        all_total: The sum of these times the label.
    """

    def __init__(self) -> None:
        self._rows, self._weight, self._total, self._squares = 0, 0.0, 0.0, 0.0
        self.all_weight = self.all_total = 0.0

    def add(self, label: Floats, weight: Floats, all_rows: Floats) -> None:
        """Add labels, their weights, and their weights with sampling weights, all ``[rows]``."""
        added = LabelSums()
        added._rows, added._weight = int((weight > 0).sum()), float(weight.sum())
        added._total = float((weight * label).sum())
        mean = _mean(added._weight, added._total)
        added._squares = float((weight * (label - mean) ** 2).sum())
        added.all_weight, added.all_total = float(all_rows.sum()), float((all_rows * label).sum())
        self.merge(added)

    def merge(self, later: LabelSums) -> None:
        """Add other sums."""
        if later._weight and self._weight:
            shift = _mean(later._weight, later._total) - _mean(self._weight, self._total)
            self._squares += shift**2 * self._weight * later._weight / (self._weight + later._weight)
        self._squares += later._squares
        self._rows += later._rows
        self._weight += later._weight
        self._total += later._total
        self.all_weight += later.all_weight
        self.all_total += later.all_total

    @property
    def rate(self) -> LabelRate:
        """The rows of a weight above 0, and the weighted mean of the label."""
        return LabelRate(self._rows, _mean(self._weight, self._total))

    @property
    def deviation(self) -> float:
        """The weighted standard deviation of the label: 0 if it varies by rounding errors alone."""
        variance = _mean(self._weight, self._squares)
        return math.sqrt(variance) if variance > (ROUNDING * self.rate.mean) ** 2 else 0.0


def _mean(weight: float, total: float) -> float:
    return float(total / weight) if weight else 0.0
