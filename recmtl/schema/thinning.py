"""Thinned files: of the rows without a positive label only a share was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from recmtl.errors import SchemaError
from recmtl.schema.funnel import Funnel
from recmtl.schema.schema import Schema
from recmtl.schema.tasks import Task
from recmtl.schema.validation import is_number

SplitName = Literal["train", "valid", "test"]
SAMPLING_WEIGHT = "sampling_weight"  # the column of files of predictions


@dataclass(frozen=True)
class Thinning:
    """How files were thinned: negative rows were kept at a rate, all other rows were kept.

    It is said of files, not of a task: a row that was dropped is missing for all tasks.

    Args:
        negative_rate: The share of the negative rows that was kept, in (0, 1].
        negative_labels: A row is negative if all of these label columns are 0 or missing in it; ``()`` takes all
            binary labels. ``["click"]`` says that rows without a click were thinned.
        thinned: The files that were thinned: ``train``, ``valid`` and ``test``. Rows held out of the training file
            are as thin as it is.

    Raises:
        SchemaError: An option is out of its range.
    """

    negative_rate: float
    negative_labels: Sequence[str] = ()
    thinned: Sequence[SplitName] = ("train",)

    def __post_init__(self) -> None:
        """Check the options."""
        if not (is_number(self.negative_rate) and 0 < self.negative_rate <= 1):
            raise SchemaError(f"`negative_rate` must be in (0, 1], got {self.negative_rate!r}")
        for name in ("negative_labels", "thinned"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise SchemaError(f"`{name}` must be a list of names, got {value!r}")
            object.__setattr__(self, name, tuple(dict.fromkeys(value)))
        known = get_args(SplitName)
        for name in self.thinned:
            if name not in known:
                raise SchemaError(f"`thinned` must name files, {', '.join(known)}, got {name!r}")
        if not self.thinned:
            raise SchemaError(f"`thinned` must name at least one of the files {', '.join(known)}")

    def resolve(self, schema: Schema) -> Thinning | None:
        """Return the thinning with its labels named, or ``None`` if all rows were kept.

        Raises:
            SchemaError: A label is none of the schema's, or not binary; there is no binary label; or a column of the
                schema has the name of the weights in files of predictions.
        """
        if self.negative_rate == 1:
            return None
        binary = [label for label in schema.labels if label in schema.binary_labels]
        if not binary:
            raise SchemaError("`negative_rate` needs a binary label, which says which rows are negative")
        for label in self.negative_labels:
            if label not in binary:
                raise SchemaError(f"`negative_labels` must be binary labels ({', '.join(binary)}), got {label!r}")
        if SAMPLING_WEIGHT in (*schema.carried, *schema.weights, *(task.name for task in schema.reported_tasks)):
            raise SchemaError(f"with `negative_rate`, no key, weight or task can be named {SAMPLING_WEIGHT!r}")
        return replace(self, negative_labels=self.negative_labels or tuple(binary))

    def of(self, split: str) -> Thinning | None:
        """Return the thinning of one file; ``None`` if it was not thinned."""
        return replace(self, thinned=("train",)) if split in self.thinned else None

    def sampling_weight(self, labels: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Return how many rows each kept row stands for ``[rows]``: a negative one 1 / rate, any other one.

        Args:
            labels: Labels by column ``[rows]``, NaN if missing.
        """
        positive = np.logical_or.reduce([labels[name] > 0 for name in self.negative_labels])
        return np.where(positive, 1.0, 1 / self.negative_rate)

    def keeps(self, label: str, funnel: Funnel | None) -> bool:
        """Return whether all rows were kept in which a label is 1."""
        implied = {label, *(funnel.ancestors(label) if funnel else ())}
        return not implied.isdisjoint(self.negative_labels)

    def kept_task(self, objectives: Sequence[Task], funnel: Funnel | None) -> Task | None:
        """Return the task that predicts which training rows are not negative, if that corrects all objectives.

        Such a task has a label that is 1 in exactly these rows, counts for all rows, and is trained by cross-entropy
        alone. It corrects a task whose positive rows were all kept; a task of which all rows were kept needs none.
        ``None``: losses must count each row by its sampling weight.
        """

        def says_it(task: Task) -> bool:
            labelled = task.label in self.negative_labels and all(
                task.label in (label, *(funnel.ancestors(label) if funnel else ())) for label in self.negative_labels
            )
            plain = task.loss_name == "bce" and not task.label_smoothing and task.ranking_loss is None
            return labelled and task.given is None and task.kind == "binary" and plain

        if not all(self.all_kept(t, funnel) or self.positives_kept(t, funnel) for t in objectives):
            return None
        return next((task for task in objectives if says_it(task)), None)

    def all_kept(self, task: Task, funnel: Funnel | None) -> bool:
        """Return whether all rows were kept that count for a task."""
        return task.given is not None and self.keeps(task.given, funnel)

    def positives_kept(self, task: Task, funnel: Funnel | None) -> bool:
        """Return whether all rows count for a task, and all its positive ones were kept."""
        return task.given is None and task.kind == "binary" and self.keeps(task.label, funnel)

    def to_dict(self) -> dict[str, Any]:
        """Return the thinning as plain data, its arguments by name."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def thinning_of(rate: float, labels: Sequence[str] = (), thinned: Sequence[SplitName] = ("train",)) -> Thinning | None:
    """Return the thinning that options describe; ``None`` for the rate 1.

    Raises:
        SchemaError: An option is out of its range, or labels or files are named without a rate.
    """
    found = Thinning(rate, labels, thinned)
    if rate != 1:
        return found
    if found.negative_labels or found.thinned != ("train",):
        raise SchemaError("to say that files were thinned, give `negative_rate`, the share of negative rows kept")
    return None
