"""Predictions beside the labels that they are held against: in memory, and as a file that any library can write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recmtl.evaluate.metrics import METRICS, Metrics, metrics_of
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Scores, scores_of
from recmtl.io.memory import available_memory
from recmtl.schema import Schema, SchemaError, Task

LABEL = "label_"  # before the name of a label's column: a task may be named like its label
NUMBER = 8  # bytes of one


@dataclass(frozen=True)
class Predictions:
    """The predictions of all tasks on the same rows, with labels.

    Shape:
        - values, labels, weight: ``[rows]`` each

    Args:
        schema: Says which tasks are reported, and on which rows each counts.
        values: By task, as a model predicts them; what a funnel lacks is derived.
        labels: By label column, NaN where missing.
        weight: Of each row.
        keys: The columns carried through, the group among them.
        group: The column of these that groups rows; ``None`` takes the schema's group.

    Example:
        >>> from recmtl.evaluate import metrics_of
        >>> from recmtl.schema import Numeric, Task
        >>> schema = Schema(features=[Numeric("price")], tasks=[Task("ctr", label="click")])
        >>> given = pa.table({"click": [0, 1, 1, 0], "ctr": [0.1, 0.3, 0.2, 0.2]})
        >>> metrics_of(Predictions.from_table(schema, given).scores()["ctr"]).values["auc"]
        0.875
    """

    schema: Schema
    values: Mapping[str, Floats]
    labels: Mapping[str, Floats]
    weight: Floats | None
    keys: pa.Table
    group: str | None = None

    def scores(self) -> dict[str, Scores]:
        """Give each reported task that is predicted, on its own sample space.

        Where a task's negatives were sampled, the rows are taken to be sampled alike: a negative counts 1 / rate times.
        """
        completed, capped = complete(self.schema, self.values)
        groups = self._groups()
        scores = {}
        for task in self.schema.reported_tasks:
            if task.name not in completed:
                continue
            labels, predicted = task_labels(task, self.labels), completed[task.name]
            weight = unsampled(task, labels, self.weight)
            scores[task.name] = scores_of(task, labels, predicted, weight, groups, capped.get(task.name))
        return scores

    def _groups(self) -> npt.NDArray[np.int64] | None:
        """Number the groups; each row without one is a group of its own."""
        if not self.grouped:
            return None
        column = self.keys[self.group_column].combine_chunks()
        indices = pc.dictionary_encode(column).indices.fill_null(-1)
        codes: npt.NDArray[np.int64] = indices.to_numpy(zero_copy_only=False).astype(np.int64)
        alone = codes < 0
        codes[alone] = codes.max(initial=-1) + 1 + np.arange(alone.sum())
        return codes

    @property
    def group_column(self) -> str | None:
        """The column that groups rows, whether it is there or not."""
        return self.group or self.schema.group

    @property
    def grouped(self) -> bool:
        """Whether the rows have the column that groups them."""
        return self.group_column in self.keys.column_names

    def grouped_by(self, column: str) -> Predictions:
        """Group the rows by another of the columns carried through.

        Raises:
            SchemaError: There is no such column.
        """
        if column not in self.keys.column_names:
            there = ", ".join(map(repr, self.keys.column_names)) or "none"
            raise SchemaError(f"rows cannot be grouped by {column!r}: the columns carried through are {there}")
        return replace(self, group=column)

    def check(self, source: str = "the predictions") -> None:
        """Check that every row that counts for a task has a label and a prediction that can be measured.

        Args:
            source: What to call them in an error.

        Raises:
            SchemaError: A binary label is not 0 or 1, a prediction is missing, or that of a binary task no probability;
                or a row weight is missing or negative.
        """
        if self.weight is not None:
            bad = ~((self.weight >= 0) & np.isfinite(self.weight))
            _refuse(bad, self.weight, f"{source}, column {self.schema.weight!r}", "a weight from 0")
        for task in (task for task in self.schema.reported_tasks if task.name in self.values):
            labels, values, binary = task_labels(task, self.labels), self.values[task.name], task.kind == "binary"
            bad = ~np.isnan(labels) & (labels != 0) & (labels != 1) & binary
            _refuse(bad, labels, f"{source}, label {task.label!r}", "0, 1 or nothing")
            fits = (values >= 0) & (values <= 1) if binary else np.isfinite(values)
            expected = "a probability in [0, 1]" if binary else "a number"
            _refuse(~np.isnan(labels) & ~fits, values, f"{source}, column {task.name!r}", expected)

    def table(self) -> pa.Table:
        """Set them in a table: keys, labels as ``label_COLUMN``, the row weight, one column a task."""
        completed, _ = complete(self.schema, self.values)
        columns = dict(zip(self.keys.column_names, self.keys.columns, strict=True))
        columns |= {LABEL + name: pa.array(values, from_pandas=True) for name, values in self.labels.items()}
        if self.weight is not None and self.schema.weight:
            columns[self.schema.weight] = pa.array(self.weight)
        return pa.table(columns | {name: pa.array(values) for name, values in completed.items()})

    @classmethod
    def from_table(
        cls, schema: Schema, table: pa.Table, source: str = "the predictions", group: str | None = None
    ) -> Predictions:
        """Take predictions from a table, of whatever library.

        Args:
            schema: Names the tasks, under which the predictions stand, the labels (their columns, or `label_COLUMN`),
                the row weight, and group and keys, of which any may be missing.
            table: The columns.
            source: What to call them in an error.
            group: A column that groups rows instead of the schema's.

        Raises:
            SchemaError: No task is predicted, a label of one that is or the row weight is missing, a column is there
                twice or holds no numbers, or the group holds lists.
        """
        twice = [name for name, count in Counter(table.column_names).items() if count > 1]
        if twice:
            raise SchemaError(f"{source} has several columns {twice[0]!r}")
        column = group or schema.group
        if column in table.column_names and pa.types.is_nested(table[column].type):
            raise SchemaError(f"{source}: column {column!r} must hold one group a row, got {table[column].type}")
        predicted = [t for t in schema.reported_tasks if t.name in table.column_names]
        tasks = [t.name for t in predicted]
        if not tasks:
            expected = ", ".join(t.name for t in schema.reported_tasks)
            raise SchemaError(f"{source} predicts no task: expected a column named {expected}")
        names = {label: _label_column(label, table, tasks) for label in schema.labels}
        for label in (label for t in predicted for label in (t.label, t.given) if label):
            if names[label] is None:
                raise SchemaError(f"{source} has no label {label!r}: expected a column {label!r} or {LABEL + label!r}")
        weight = None
        if schema.weight:
            weight = _numbers(table, schema.weight, source)
        return cls(
            schema,
            {name: _numbers(table, name, source) for name in tasks},
            {label: _numbers(table, name, source) for label, name in names.items() if name},
            weight,
            table.select([c for c in dict.fromkeys((*schema.carried, column)) if c in table.column_names]),
            group,
        )

    def write(self, path: str | Path) -> None:
        """Write a Parquet file, each page with its checksum."""
        pq.write_table(self.table(), str(path), write_page_checksum=True)

    @classmethod
    def read(cls, schema: Schema, path: str | Path, group: str | None = None) -> Predictions:
        """Read a Parquet or CSV file.

        Raises:
            SchemaError: The file cannot be read, memory does not hold it, or it lacks a column.
        """
        try:
            table = _parquet(path) if Path(path).suffix == ".parquet" else pacsv.read_csv(str(path))
        except FileNotFoundError:
            raise SchemaError(f"there is no file {str(path)!r}") from None
        except (OSError, MemoryError, pa.ArrowException) as error:
            raise SchemaError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        return cls.from_table(schema, table, str(path), group)


def _parquet(path: str | Path) -> pa.Table:
    """Read a Parquet file that memory holds, and check what its pages have checksums of."""
    with pq.ParquetFile(str(path), page_checksum_verification=True) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        size, free = sum(group.num_rows * group.num_columns * NUMBER for group in groups), available_memory()
        if size > free:
            raise SchemaError(f"{path} cannot be read: its rows take {size:,} bytes at least, and {free:,} are free")
        table = file.read()
    table.validate(full=True)
    return table


def _refuse(bad: npt.NDArray[np.bool_], values: Floats, where: str, expected: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        value = "nothing" if np.isnan(values[row]) else f"{values[row]:g}"
        raise SchemaError(f"{where}, row {row + 1}: expected {expected}, got {value} (rows like it: {bad.sum():,})")


def _label_column(label: str, table: pa.Table, tasks: list[str]) -> str | None:
    found = (name for name in (LABEL + label, label) if name in table.column_names and name not in tasks)
    return next(found, None)


def _numbers(table: pa.Table, name: str, source: str) -> Floats:
    if name not in table.column_names:
        raise SchemaError(f"column {name!r} is not in {source}")
    try:
        numbers: Floats = table[name].cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        raise SchemaError(f"{source}: column {name!r} must hold numbers, got {table[name].type}") from None
    return numbers


def measure(
    schema: Schema,
    predictions: Mapping[str, Floats],
    labels: Mapping[str, Floats],
    weight: Floats | None = None,
    keys: pa.Table | None = None,
    k: int = K,
    names: Collection[str] | None = None,
) -> dict[str, Metrics]:
    """Measure every reported task of a schema, each on its own sample space.

    Where a task's negatives were sampled, the rows are taken to be sampled alike: a negative counts 1 / rate times.

    Shape:
        - predictions, labels, weight: ``[rows]`` each

    Args:
        schema: Says which tasks are reported; with a funnel CTR, CVR and CTCVR, whichever are predicted directly.
        predictions: By task: probabilities, or the values of a regression.
        labels: By label column, NaN where missing.
        weight: Of each row.
        keys: The columns carried through, the group among them; without it nothing is measured within groups.
        k: How many rows of a group NDCG and recall look at.
        names: The metrics to measure, where not all are wanted.
    """
    alone = {name for kind in METRICS.values() for name in kind}
    if keys is None or (names is not None and alone.issuperset(names)):
        keys = pa.table({})  # no group is numbered in vain
    scores = Predictions(schema, predictions, labels, weight, keys).scores()
    return {name: metrics_of(found, k, names) for name, found in scores.items()}


Mask = npt.NDArray[np.bool_]


def complete(schema: Schema, predictions: Mapping[str, Floats]) -> tuple[dict[str, Floats], dict[str, Mask]]:
    """Derive the member of the funnel that a model does not predict: pCTCVR = pCTR·pCVR, pCVR = min(1, pCTCVR/pCTR).

    Shape:
        - predictions: ``{task: [rows]}``, probabilities

    Returns:
        The predictions with the derived one, those of the funnel first; and for a derived CVR, which rows were capped
        at 1.
    """
    predictions = dict(predictions)
    if not schema.funnel:
        return predictions, {}
    capped: dict[str, Mask] = {}
    ctr, cvr, ctcvr = (task.name for task in schema.funnel_tasks)
    if ctr in predictions and cvr in predictions and ctcvr not in predictions:
        predictions[ctcvr] = predictions[ctr] * predictions[cvr]
    elif ctr in predictions and ctcvr in predictions and cvr not in predictions:
        click, both = predictions[ctr], predictions[ctcvr]
        predictions[cvr] = np.divide(np.minimum(both, click), click, out=np.zeros_like(both), where=click > 0)
        capped[cvr] = both > click
    order = [name for name in (ctr, cvr, ctcvr) if name in predictions]
    return {name: predictions[name] for name in [*order, *predictions]}, capped


def task_labels(task: Task, labels: Mapping[str, Floats]) -> Floats:
    """Give the labels that count for a task ``[rows]``: NaN where its condition is not met."""
    if task.given is None:
        return labels[task.label]
    return np.where(labels[task.given] == 1, labels[task.label], np.nan)


def unsampled(task: Task, labels: Floats, weight: Floats | None) -> Floats | None:
    """Give row weights ``[rows]`` that undo the sampling of negatives: each kept one stands for 1 / rate of them."""
    if task.negative_rate == 1:
        return weight
    kept: Floats = np.where(labels == 0, 1 / task.negative_rate, 1.0)
    return kept if weight is None else kept * weight
