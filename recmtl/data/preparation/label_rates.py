"""Label rates of ids: counted on the training rows in folds, so that no row is encoded by its own label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.categorical import encode_feature
from recmtl.data.columns.id_lists import Ids
from recmtl.data.columns.values import Codes, Floats, RowNumbers
from recmtl.data.preparation.convert import group_hashes, label_column, row_weights
from recmtl.errors import DataError
from recmtl.io.machine import available_memory
from recmtl.schema import FittedSchema, LabelCounts
from recmtl.schema.extend import Extension, unchanged_ids

FOLDS = 5
COMPACT_AFTER = 1 << 20  # values that wait to be added up
PRIOR_ROWS = 20  # rows with the task's mean rate, added to those of each id
COUNT_SCALE = 30  # of log(1 + rows): small, as ids of later rows are often less frequent than those of training rows


class SparseSums:
    """Sums of pairs of values by place, of few of many places; each is added up in the order of the rows."""

    def __init__(self) -> None:
        self._places, self._values = np.empty(0, np.int64), np.empty((2, 0))
        self._added: list[tuple[Codes, Floats]] = []
        self._waiting = 0

    def add(self, places: Codes, values: Floats) -> None:
        """Add values ``[2, n]`` at places ``[n]``."""
        self._added.append((places, values))
        self._waiting += len(places)
        if self._waiting > max(COMPACT_AFTER, len(self._places)):
            self.compact()

    def compact(self) -> tuple[Codes, Floats]:
        """Return the places ``[m]``, each once, and their sums ``[2, m]``."""
        if self._added:
            places = np.concatenate([self._places, *(places for places, _ in self._added)])
            values = np.concatenate([self._values, *(values for _, values in self._added)], axis=1)
            self._places, where = np.unique(places, return_inverse=True)
            size = len(self._places)
            self._values = np.stack([np.bincount(where, weights=own, minlength=size) for own in values])
            self._added, self._waiting = [], 0
        return self._places, self._values


class FoldSums:
    """Counts of the labels of a part of the training rows.

    Args:
        fitted: The fitted schema.
        counted: The ids of each feature whose labels are counted; empty counts all.

    Attributes:
        totals: Rows with a label, Σ weight and Σ weight·label, ``[3, tasks, folds]``.
        sums: Σ weight and Σ weight·label by feature and task, by fold · ids + id.
    """

    def __init__(self, fitted: FittedSchema, counted: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        self._fitted, self._counted = fitted, counted
        self.totals = np.zeros((3, len(fitted.rated_tasks), FOLDS))
        pairs = product(fitted.rated_blocks, range(len(fitted.rated_tasks)))
        self.sums = {(block.name, task): SparseSums() for block, task in pairs}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what another process needs: the sums."""
        for sums in self.sums.values():
            sums.compact()
        return _fold_sums, (self.totals, self.sums)

    def add(self, batch: pa.RecordBatch, folds: Codes) -> None:
        """Count a batch of training rows, given their folds ``[rows]``."""
        schema = self._fitted.schema
        ids = {
            b: encode_feature(self._fitted, batch.column(b.name), b.feature)[:, 0] for b in self._fitted.rated_blocks
        }
        for place, task in enumerate(self._fitted.rated_tasks):
            label = label_column(schema, batch, task.label)
            valid = ~np.isnan(label)
            if task.given:
                valid &= label_column(schema, batch, task.given) == 1
            weight = row_weights(schema, batch, task.weight_column)
            values = np.stack([np.ones(len(label)), weight, weight * label])[:, valid]  # [3, valid rows]
            for totals, value in zip(self.totals[:, place], values, strict=True):
                np.add.at(totals, folds[valid], value)  # in the order of the rows, wherever a batch ends
            for block, codes in ids.items():
                flat = (folds * block.size + codes)[valid]
                new = self._counted[block.name][codes[valid]] if self._counted else slice(None)
                self.sums[block.name, place].add(flat[new], values[1:, new])


def _fold_sums(totals: Floats, sums: dict[tuple[str, int], SparseSums]) -> FoldSums:
    made = FoldSums.__new__(FoldSums)
    made.totals, made.sums = totals, sums
    return made


def folds_of(group: str | None, batch: pa.RecordBatch, rows: RowNumbers) -> Codes:
    """Return the fold of each row of a batch ``[rows]``, given the column of the groups and the numbers of the rows."""
    hashes = group_hashes(group, batch, rows)
    return ((hashes >> np.uint64(32)) % np.uint64(FOLDS)).astype(np.int64)


class FoldCounts:
    """Counts of the labels of the training rows, by feature, binary task, fold and id.

    A row's fold follows from the hash of its group, or else of its number: not from its labels, and not from whether
    rows are held out.

    Args:
        fitted: The fitted schema, with the label counts of the run if it extends one.
        extension: How it extends that run's. If statistics are kept, categories that the run knew keep their counts.

    Raises:
        DataError: The counts do not fit in memory.
    """

    def __init__(self, fitted: FittedSchema, extension: Extension | None = None) -> None:
        self._fitted, tasks = fitted, len(fitted.rated_tasks)
        self.counted: dict[str, npt.NDArray[np.bool_]] = {}  # the ids whose labels are counted
        self._keep = extension is not None and extension.statistics == "keep"
        self._run_rates = [extension.schema.rate(task) for task in fitted.rated_tasks] if extension else None
        for block in fitted.rated_blocks:
            needed = 2 * tasks * (FOLDS + 1) * block.size * np.dtype(float).itemsize
            if needed > available_memory():
                raise DataError(
                    f"the label rates of {block.size:,} ids of {block.name!r} and {tasks} tasks need "
                    f"{needed / 2**30:.1f} GiB of memory, more than is free: set `label_rates: false`, a larger "
                    "`min_count` or `hash_buckets`"
                )
        # Σ weight and Σ weight·label of the rows with a label, of each feature: [2, tasks, folds, ids]
        self._sums = {b.name: np.zeros((2, tasks, FOLDS, b.size)) for b in fitted.rated_blocks}
        self._totals = np.zeros((3, tasks, FOLDS))  # rows with a label, Σ weight, Σ weight·label
        self._before = {b.name: np.zeros((2, tasks, b.size)) for b in fitted.rated_blocks}
        for block in fitted.rated_blocks if extension else ():
            assert extension is not None
            known = unchanged_ids(extension.schema, fitted, block.owner[0], block.size)
            counts = np.stack(extension.schema.label_counts[block.name])  # [2, tasks, ids of the run]
            ids = np.flatnonzero(known)
            self._before[block.name][..., ids] = counts[..., ids]
            if extension.statistics == "keep":
                self.counted[block.name] = ~known

    def merge(self, part: FoldSums) -> None:
        """Add the counts of a part of the training rows."""
        self._totals += part.totals
        for (name, task), added in part.sums.items():
            places, values = added.compact()
            for sums, more in zip(self._sums[name][:, task], values, strict=True):
                sums.reshape(-1)[places] += more

    def finish(self, fitted: FittedSchema) -> tuple[FittedSchema, list[str]]:
        """Return a fitted schema with the counts of all folds, and a note on each task without out-of-fold rates."""
        notes = []
        for name, sums in self._sums.items():
            folds = (sums[0] > 0).sum(1).max(1)  # the most folds of any id [tasks]
            for place in np.flatnonzero(folds < 2):
                sums[:, place] = 0  # as training rows have no rates, later rows must not have any
                task = self._fitted.rated_tasks[place].name
                notes.append(f"the label rates of {name!r} are left at 0 for task {task!r}: no id is in two folds")
        scale = _divided(self._totals[0].sum(1), self._totals[1].sum(1))[:, None]  # [tasks, 1]
        counts = {n: LabelCounts(*(self._before[n] + sums.sum(2) * scale)) for n, sums in self._sums.items()}
        return replace(fitted, label_counts=counts), notes

    def encode(self, ids: Ids, folds: Codes) -> npt.NDArray[np.float32]:
        """Encode training rows by the labels of the other folds ``[rows, label rate columns]``.

        Args:
            ids: The ids of the rows ``[rows, id columns]``.
            folds: Their folds ``[rows]``.
        """
        rows, weight, positives = np.where(np.eye(FOLDS, dtype=bool), 0, self._totals[:, :, None]).sum(-1)
        scale = _divided(rows, weight)[:, folds]  # [tasks, rows]
        mean = self._mean_rate(rows, positives * _divided(rows, weight))[:, folds]
        columns = []
        for block in self._fitted.rated_blocks:
            sums = self._sums[block.name][..., ids[:, block.start]]  # [2, tasks, folds, rows]
            sums[:, :, folds, np.arange(len(ids))] = 0
            rows, positives = sums.sum(2) * scale + self._before[block.name][..., ids[:, block.start]]  # [tasks, rows]
            columns.append(rate_columns(rows, positives, mean))
        return np.concatenate(columns).T.astype(np.float32)

    def _mean_rate(self, rows: Floats, positives: Floats) -> Floats:
        """Return the rate of each label among the rows of the other folds, and of the run's ``[tasks, folds]``."""
        if self._run_rates is None:
            return mean_rate(rows, positives)
        count, mean = (np.array(values, float)[:, None] for values in zip(*self._run_rates, strict=True))
        if self._keep:
            rows, positives = np.zeros_like(rows), np.zeros_like(positives)
        return mean_rate(rows + count, positives + count * mean)


def encode_label_rates(fitted: FittedSchema, ids: Ids) -> npt.NDArray[np.float32]:
    """Encode rows that are no training rows by the labels of all training rows ``[rows, label rate columns]``.

    Args:
        fitted: The fitted schema.
        ids: The ids of the rows ``[rows, id columns]``.
    """
    rates = [fitted.rate(task) for task in fitted.rated_tasks]
    rows, means = (np.array(values, float)[:, None] for values in zip(*rates, strict=True))
    columns = []
    for block in fitted.rated_blocks:
        counts = fitted.label_counts[block.name]
        codes = ids[:, block.start]
        columns.append(rate_columns(counts.rows[:, codes], counts.positives[:, codes], mean_rate(rows, rows * means)))
    return np.concatenate(columns).T.astype(np.float32)


def mean_rate(rows: Floats, positives: Floats) -> Floats:
    """Return the rate of a label among all rows, with half a row of each class more: it is never 0 or 1."""
    return (positives + 0.5) / (rows + 1)


def rate_columns(rows: Floats, positives: Floats, mean: Floats) -> Floats:
    """Return the log-odds of each task's label rate over those of its mean, then log(1 + rows) / 30.

    The rate is that of the rows and of 20 further ones with the mean rate: (positives + 20·mean) / (rows + 20). Of a
    rare label, of which 20 rows hold less than one, as many rows are added as hold one, lest a single click say much.
    No rows give 0 and 0.

    Shape:
        - rows, positives: ``[tasks, B]``, mean: ``[tasks, B]`` or ``[tasks, 1]``
        - output: ``[2 · tasks, B]``
    """
    prior = np.maximum(PRIOR_ROWS, 1 / np.minimum(mean, 1 - mean))
    negatives = np.maximum(rows - positives, 0)  # rounding may leave less
    rates = np.log1p(positives / (prior * mean)) - np.log1p(negatives / (prior * (1 - mean)))
    return np.concatenate([rates, np.log1p(rows) / COUNT_SCALE])


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    """Return a quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
