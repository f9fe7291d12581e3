"""Labels that are names of classes: from values of any type to the numbers of classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.values import Floats, as_text
from recmtl.errors import BadValueError, DataError
from recmtl.schema import Schema, Task
from recmtl.schema.tasks import in_class_order

MAX_CLASSES = 1000  # of one label
YAML_BOOLEANS = ("yes", "no", "on", "off")


def class_codes(column: pa.Array, task: Task) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the place of each row's label among the classes of a task ``[rows]``, and which labels are none of them.

    The place is NaN where the label is missing, or no class of a task that ignores others.

    Raises:
        BadValueError: A label is no class, and others are an error.
    """
    values, codes = as_text(column, task.label, ids=False)
    known = {name: float(place) for place, name in enumerate(task.classes)}
    places = np.array([*(known.get(value, np.nan) for value in values.to_pylist()), np.nan])[codes]  # -1: missing
    unknown = np.isnan(places) & (codes >= 0)
    if task.unknown_classes == "error" and unknown.any():
        row = int(unknown.argmax())
        value = values[codes[row]].as_py()
        expected = f"a class of task {task.name!r}, one of {shown_classes(task)}, or nothing"
        if set(task.classes) == {"true", "false"} and value.lower() in YAML_BOOLEANS:
            expected += f": on a card put {value} in quotes, which YAML reads as true or false otherwise"
        raise BadValueError(row, task.label, value, expected, unknown)
    return places, unknown


def shown_classes(task: Task, most: int = 10) -> str:
    """Return the first classes of a task, separated by commas."""
    more = f" and {len(task.classes) - most} more" if len(task.classes) > most else ""
    return ", ".join(map(str, task.classes[:most])) + more


class ClassReader:
    """Numbers the classes of labels in the order in which they come, where a schema does not say what they are.

    Args:
        schema: The schema.
    """

    def __init__(self, schema: Schema) -> None:
        self._tasks = schema.class_labels
        self._seen: dict[str, dict[str, int]] = {
            label: {str(name): place for place, name in enumerate(task.classes)} for label, task in self._tasks.items()
        }

    def codes(self, column: pa.Array, label: str) -> Floats:
        """Return the number of each row's class ``[rows]``, NaN where it is missing.

        Raises:
            DataError: The label has too many values for classes.
        """
        task, seen = self._tasks[label], self._seen[label]
        if task.classes:
            return class_codes(column, task)[0]
        values, codes = as_text(column, label, ids=False)
        found = np.append([seen.setdefault(v, len(seen)) if v is not None else -1 for v in values.to_pylist()], -1)
        self._check_number(label)
        places = found[codes].astype(np.float64)
        places[places < 0] = np.nan
        return places

    def merge(self, later: ClassReader) -> dict[str, list[int]]:
        """Number the classes of later rows after those seen so far; return for each label the number of each of them.

        Raises:
            DataError: A label has too many values for classes.
        """
        places = {}
        for label, seen in self._seen.items():
            places[label] = [seen.setdefault(name, len(seen)) for name in later._seen[label]]
            self._check_number(label)
        return places

    def _check_number(self, label: str) -> None:
        task = self._tasks[label]
        if not task.classes and len(self._seen[label]) > MAX_CLASSES:
            raise DataError(
                f"label {label!r} of the multiclass task {task.name!r} has more than {MAX_CLASSES:,} values: name its "
                "`classes`, or take a regression"
            )

    def numbered(self, label: str) -> dict[str, int]:
        """Return the number of each class seen so far, in the order of classes: of the schema, as they stand there."""
        seen = self._seen[label]
        return seen if self._tasks[label].classes else {name: seen[name] for name in in_class_order(tuple(seen))}
