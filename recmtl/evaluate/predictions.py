"""Predictions with labels: in memory, and as files of any library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.store.group_numbers import group_numbers
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import Metrics, metrics_of
from recmtl.evaluate.own_metrics import OwnMetrics, metrics_of_task
from recmtl.evaluate.prediction_files import LABEL_PREFIX, label_column, read_predictions
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Integers, Scores, scores_of, task_labels
from recmtl.evaluate.task_columns import (
    UNCALIBRATED_PREFIX,
    check_task,
    check_values,
    float_column,
    label_array,
    prediction_columns,
    read_label,
    read_prediction,
    sampling_weight_column,
    uncalibrated_columns,
    with_classes,
)
from recmtl.io.partitions import Partitions, public_name_of
from recmtl.io.table_writer import TableWriter
from recmtl.schema import (
    SAMPLING_WEIGHT,
    Schema,
    SchemaError,
    Task,
    Thinning,
    consistent_rates,
    funnel_basis,
    replaced_rates,
)

Mask = npt.NDArray[np.bool_]
AGREEMENT = 1e-6  # of a rate of a funnel with the product of others
NO_WEIGHTS: Mapping[str, Floats] = {}


@dataclass(frozen=True)
class Predictions:
    """Predictions of all tasks on the same rows, with labels.

    Shape:
        - values, labels, weight: ``[rows]`` each; values of a multi-class task: ``[rows, C]``

    Args:
        schema: The schema, which defines the reported tasks and the rows that count for each.
        values: Predictions by task; those of the funnel's rates that are missing follow from them.
        labels: Labels by column, NaN if missing; of classes their numbers.
        weight: Row weights.
        keys: The key columns, including the group.
        group: The key column that groups rows; ``None`` takes the schema's group.
        sampling_weight: How many rows of a thinned file each row stands for ``[rows]``; ``None`` if it was not thinned.
        task_weights: The weights of single tasks' rows by column; a task without its column has the row weight alone.
        uncalibrated: Of calibrated tasks, what the model itself predicts.
        own: Metrics of the user's own, as `own_metrics` returns them.

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
    sampling_weight: Floats | None = None
    task_weights: Mapping[str, Floats] = field(default_factory=dict)
    uncalibrated: Mapping[str, Floats] = field(default_factory=dict)
    own: OwnMetrics = field(default_factory=dict)

    def before_calibration(self) -> Predictions:
        """Return the predictions of the model itself; the other rates of a funnel follow from them."""
        rates = {task.name for task in self.schema.funnel_tasks}
        follow = rates if rates & {*self.uncalibrated} else set()
        kept = {name: values for name, values in self.values.items() if name not in follow}
        return replace(self, values={**kept, **self.uncalibrated}, uncalibrated={})

    def scores(self, groups: Integers | None = None) -> dict[str, Scores]:
        """Return the scores of each reported task that is predicted, on the rows that count for it.

        Args:
            groups: The number of each row's group ``[rows]``; ``None`` numbers those of the column that groups rows.
        """
        completed, capped = complete(self.schema, self.values)
        groups = self._groups() if groups is None else groups
        scores = {}
        for task in self.schema.reported_tasks:
            if task.name not in completed:
                continue
            labels, predicted = task_labels(task, self.labels), completed[task.name]
            cut = capped.get(task.name)
            given = (labels, predicted, self.weight_of(task), groups, cut, self.sampling_weight)
            scores[task.name] = scores_of(task, *given, metrics_of_task(task, self.own))
        return scores

    def metrics(self, names: Collection[str] | None = None, k: int = K) -> dict[str, Metrics]:
        """Compute metrics of each reported task that is predicted: those named, or all."""
        return {task: metrics_of(of_task, k, names) for task, of_task in self.needed(names).scores().items()}

    def needed(self, names: Collection[str] | None) -> Predictions:
        """Return the scores for metrics, named ones or all; groups are numbered only for those that use them."""
        ungrouped = {name for kind in MEASURES.values() for name in kind.metrics}
        return replace(self, keys=pa.table({})) if names is not None and ungrouped.issuperset(names) else self

    def weight_of(self, task: Task) -> Floats | None:
        """Return the row weight times the weight of the task's own column ``[rows]``."""
        own = self.task_weights.get(task.weight_column) if task.weight_column else None
        return self.weight if own is None else own if self.weight is None else self.weight * own

    def _groups(self) -> Integers | None:
        """Number the groups; each row without a group is a group of its own."""
        return group_numbers(self.keys[self.group_column], str(self.group_column)) if self.grouped else None

    @property
    def group_column(self) -> str | None:
        """The name of the column that groups rows, whether it exists or not."""
        return self.group or self.schema.group

    @property
    def grouped(self) -> bool:
        """Whether the column that groups rows exists."""
        return self.group_column in self.keys.column_names

    def grouped_by(self, column: str) -> Predictions:
        """Return the predictions grouped by another key column.

        Raises:
            SchemaError: There is no such column.
        """
        if column not in self.keys.column_names:
            known = ", ".join(map(repr, self.keys.column_names)) or "none"
            raise SchemaError(f"rows cannot be grouped by {column!r}: the key columns are {known}")
        return replace(self, group=column)

    def select(self, mask: Mask) -> Predictions:
        """Return the rows of a mask ``[rows]``."""
        return replace(
            self,
            values={name: values[mask] for name, values in self.values.items()},
            labels={name: labels[mask] for name, labels in self.labels.items()},
            weight=None if self.weight is None else self.weight[mask],
            keys=self.keys.filter(pa.array(mask)),
            sampling_weight=None if self.sampling_weight is None else self.sampling_weight[mask],
            task_weights={name: weight[mask] for name, weight in self.task_weights.items()},
            uncalibrated={name: values[mask] for name, values in self.uncalibrated.items()},
        )

    def with_thinning(self, thinning: Thinning) -> Predictions:
        """Return the predictions as those of a thinned file, whose rows stand for those that were dropped.

        Raises:
            SchemaError: The thinning does not fit the schema, a label that it names is missing, or the predictions
                have sampling weights already.
        """
        if self.sampling_weight is not None:
            raise SchemaError(f"the predictions have sampling weights already, in the column {SAMPLING_WEIGHT!r}")
        found = thinning.resolve(self.schema)
        for label in found.negative_labels if found else ():
            if label not in self.labels:
                raise SchemaError(f"a thinned file needs its label {label!r}: expected it beside the predictions")
        return replace(self, sampling_weight=found.sampling_weight(self.labels) if found else None)

    def check(self, source: str = "the predictions") -> None:
        """Check that labels, predictions and row weights are valid.

        Args:
            source: The name of the predictions in error messages.

        Raises:
            SchemaError: A binary label is not in [0, 1], a prediction is missing, a prediction of a binary task is no
                probability, or a row weight is missing or negative.
        """
        for name, weight in ((self.schema.weight, self.weight), *self.task_weights.items()):
            if weight is not None:
                bad = ~((weight >= 0) & np.isfinite(weight))
                check_values(bad, weight, f"{source}, column {name!r}", "a weight of at least 0")
        if self.sampling_weight is not None:
            bad = ~((self.sampling_weight > 0) & np.isfinite(self.sampling_weight))
            check_values(bad, self.sampling_weight, f"{source}, column {SAMPLING_WEIGHT!r}", "a weight above 0")
        for task in (task for task in self.schema.reported_tasks if task.name in self.values):
            labels, condition = task_labels(task, self.labels), task.label in self.schema.conditions
            check_task(task, labels, self.values[task.name], source, condition)

    @property
    def notes(self) -> list[str]:
        """A sentence on each rate of the funnel that is predicted, and differs from what its other rates make it."""
        completed, _ = complete(self.schema, self.values)
        basis, found = funnel_basis(self.schema, self.values), []
        for name in replaced_rates(self.schema, self.values):
            difference = np.abs(completed[name] - self.values[name]).max(initial=0.0)
            if difference > AGREEMENT:
                found.append(
                    f"{name} is measured as it follows from {' and '.join(basis)}, so that all rates agree: "
                    f"the predictions of {name} differ from that by up to {difference:.2g}"
                )
        return found

    def table(self) -> pa.Table:
        """Return a table of keys, labels as ``label_COLUMN``, all weights, and predictions by task.

        A multi-class task has a column ``TASK_CLASS`` for each class. Of calibrated tasks the columns
        ``uncalibrated_TASK`` hold what the model itself predicts.
        """
        completed, _ = complete(self.schema, self.values)
        columns = dict(zip(self.keys.column_names, self.keys.columns, strict=True))
        labels = {name: label_array(self.schema, name, values) for name, values in self.labels.items()}
        columns |= {LABEL_PREFIX + name: values for name, values in labels.items()}
        if self.weight is not None and self.schema.weight:
            columns[self.schema.weight] = pa.array(self.weight)
        columns |= {name: pa.array(weight) for name, weight in self.task_weights.items()}
        if self.sampling_weight is not None:
            columns[SAMPLING_WEIGHT] = pa.array(self.sampling_weight)
        tasks = {task.name: task for task in self.schema.reported_tasks}
        for prefix, found in (("", completed), (UNCALIBRATED_PREFIX, self.uncalibrated)):
            for name, values in found.items():
                own = prediction_columns(tasks[name], values) if name in tasks else {name: pa.array(values)}
                columns |= {prefix + column: array for column, array in own.items()}
        return pa.table(columns)

    @classmethod
    def from_table(
        cls, schema: Schema, table: pa.Table, source: str = "the predictions", group: str | None = None
    ) -> Predictions:
        """Read predictions from a table, which any library may have written.

        Args:
            schema: The schema. Predictions are in columns named like the tasks (of a multi-class task ``TASK_CLASS``
                for each class), labels in their columns or in `label_COLUMN`; keys, group and `sampling_weight`, for
                rows of a thinned file, are optional.
            table: The table.
            source: The name of the table in error messages.
            group: The column that groups rows instead of the schema's.

        Raises:
            SchemaError: No task is predicted; the row weight, or the label or weight of a predicted task is missing; a
                column is duplicated or not numeric; or the group has lists.
        """
        twice = [name for name, count in Counter(table.column_names).items() if count > 1]
        if twice:
            raise SchemaError(f"{source} has several columns named {twice[0]!r}")
        column = group or schema.group
        if column in table.column_names and pa.types.is_nested(table[column].type):
            raise SchemaError(f"{source}: column {column!r} must have one group per row, got {table[column].type}")
        schema = with_classes(schema, table.column_names)
        predicted = [t for t in schema.reported_tasks if {*t.columns} <= {*table.column_names} and t.columns]
        tasks = [column for t in predicted for column in t.columns]
        if not tasks:
            expected = ", ".join(", ".join(t.columns) or f"{t.name}_CLASS" for t in schema.reported_tasks)
            raise SchemaError(f"{source} has no predictions: expected a column named {expected}")
        names = {label: label_column(label, table, tasks) for label in schema.labels}
        for label in (label for t in predicted for label in (t.label, t.given) if label):
            if names[label] is None:
                raise SchemaError(
                    f"{source} has no label {label!r}: expected a column {label!r} or {LABEL_PREFIX + label!r}"
                )
        return cls(
            schema,
            {task.name: read_prediction(table, task, source, schema.decimal) for task in predicted},
            {label: read_label(schema, table, name, label, source) for label, name in names.items() if name},
            float_column(table, schema.weight, source, schema.decimal) if schema.weight else None,
            table.select([c for c in dict.fromkeys((*schema.carried, column)) if c in table.column_names]),
            group,
            sampling_weight_column(schema, table, source),
            {n: float_column(table, n, source, schema.decimal) for t in predicted if (n := t.weight_column)},
            uncalibrated_columns(schema, table, source),
        )

    def write(self, path: str | Path) -> None:
        """Write a Parquet (with page checksums), CSV or Arrow file, by its suffix, on disk or at a URI.

        Raises:
            DataError: The suffix is none of these, or the file cannot be written.
        """
        with TableWriter(path) as writer:
            writer.write(self.table())

    @classmethod
    def read(cls, schema: Schema, path: str | Path | Partitions, group: str | None = None) -> Predictions:
        """Read predictions from files in any form that `prepare` takes: one, a folder, or a glob.

        Raises:
            SchemaError: A file cannot be read, does not fit into memory, or has no column that is needed.
        """
        table = read_predictions(schema, path, group)
        return cls.from_table(schema, table, public_name_of(path), group)


def measure(
    schema: Schema,
    predictions: Mapping[str, Floats],
    labels: Mapping[str, Floats],
    weight: Floats | None = None,
    keys: pa.Table | None = None,
    k: int = K,
    names: Collection[str] | None = None,
    group: str | None = None,
    sampling_weight: Floats | None = None,
    task_weights: Mapping[str, Floats] = NO_WEIGHTS,
) -> dict[str, Metrics]:
    """Compute the metrics of every reported task of a schema, each on the rows that count for it.

    Shape:
        - predictions, labels, weight, sampling_weight: ``[rows]`` each; predictions of classes: ``[rows, C]``

    Args:
        schema: The schema; of a funnel all rates are reported, whichever are predicted.
        predictions: By task: probabilities, or the values of a regression.
        labels: By label column, NaN if missing.
        weight: Row weights.
        keys: The key columns, including the group; without it there are no grouped metrics.
        k: The cutoff of NDCG and recall.
        names: The metrics; ``None`` takes all.
        group: The key column that groups rows; ``None`` takes the schema's group.
        sampling_weight: How many rows of a thinned file each row stands for; ``None`` if it was not thinned.
        task_weights: The weights of single tasks' rows by column.
    """
    keys = pa.table({}) if keys is None else keys
    return Predictions(schema, predictions, labels, weight, keys, group, sampling_weight, task_weights).metrics(
        names, k
    )


def complete(schema: Schema, predictions: Mapping[str, Floats]) -> tuple[dict[str, Floats], dict[str, Mask]]:
    """Return predictions ``{task: [rows]}`` in which the rates of the funnel agree, by `consistent_rates`.

    Those of the funnel come first, with the rates that follow from them; beside them, by rate, the rows in which it was
    lowered ``[rows]``.
    """
    return consistent_rates(schema, predictions, np)
