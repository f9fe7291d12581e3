"""The schema of a dataset, read from a dataset card or inferred from the data."""

from __future__ import annotations

import dataclasses
import fnmatch
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import SchemaError
from recmtl.io.csv_records import BadRows
from recmtl.io.location import WILDCARDS
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.schema.card_entries import build, build_feature, changed_options, options_text
from recmtl.schema.features import (
    KIND_NAMES,
    Binned,
    Categorical,
    Feature,
    Numeric,
    check_domain,
    check_label_rates,
    check_sharing,
    check_targets,
)
from recmtl.schema.funnel import Funnel, StepRates
from recmtl.schema.readings import ColumnKind, infer_columns
from recmtl.schema.sample import Rows
from recmtl.schema.tasks import Task, check_class_labels, check_prediction_names, check_roles
from recmtl.schema.text_format import TEXT_OPTIONS, TextFormat
from recmtl.schema.validation import check_list, check_nonempty

REPR_TASKS = 5  # named in `repr`
HTML_ROWS = 20  # shown in a notebook
ROLES = ("group", "keys", "weight", "domain", *TEXT_OPTIONS)  # of a card, as they stand in it


@dataclass(frozen=True, repr=False)
class Schema:
    r"""The meaning of the columns of a dataset.

    Args:
        features: The model's inputs. A name may be a pattern, which passes over the group and exact names of others.
        tasks: The prediction targets, in the order of the losses.
        funnel: Labels each of which happens only after another one; see `Funnel`.
        group: The column that groups rows (a search, a session, a user): rows of one group are never split between
            training and held-out rows. It may be a feature as well.
        keys: Columns carried through to the predictions; they may be features as well.
        weight: A column with a weight per row.
        domain: The categorical feature, with a vocabulary, that says which domain a row belongs to: a country, a
            market, a page. Metrics are shown by domain, and the column is carried through to the predictions.
        separator: The column separator of CSV files; ``None`` detects it in the header.
        header: The columns of CSV files without a header line; empty takes the first line of each file.
        nulls: The words for a missing value; ``None`` takes those of common writers, such as ``NULL``. One that is a
            number stands for it however it is written, and in columns of numbers.
        decimal: The decimal mark of numbers in text, ``.`` or ``,``.
        escape: The character before a quote within a quoted value of CSV files, as Spark writes ``\"``.
        description: What the dataset is and where it comes from.
    """

    features: Sequence[Feature]
    tasks: Sequence[Task]
    funnel: Funnel | None = None
    group: str | None = None
    keys: Sequence[str] = ()
    weight: str | None = None
    domain: str | None = None
    separator: str | None = None
    header: Sequence[str] = ()
    nulls: Sequence[str] | None = None
    decimal: str = "."
    escape: str | None = None
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        for name in ("features", "tasks", "keys"):
            object.__setattr__(self, name, tuple(check_list(getattr(self, name), name, "the schema")))
        check_nonempty(self, "group", "weight", "domain")
        for name, value in vars(self.text_format).items():
            object.__setattr__(self, name, value)
        if not isinstance(self.funnel, Funnel | None):
            raise SchemaError(f"`funnel` must be a funnel, such as `Funnel('click', 'pay')`, got {self.funnel!r}")
        if not self.features:
            raise SchemaError("a schema needs at least one feature")
        if not self.tasks:
            raise SchemaError("a schema needs at least one task")
        for what, parts in (("feature", self.features), ("task", self.tasks)):
            for name, count in Counter(part.name for part in parts).items():
                if count > 1:
                    raise SchemaError(f"{what} {name!r} is declared twice")
        self._check_names()
        check_sharing(self.features)
        check_targets(self.features)
        check_label_rates(self.features, self.tasks)
        check_domain(self.features, self.domain)
        check_roles(self.tasks, self.group, self.weight, self.carried)

    def _check_names(self) -> None:
        """Check that no name is used twice."""
        named = {"key": self.keys, "domain": (self.domain,) if self.domain else (), "weight": self.task_weights}
        check_prediction_names(self.tasks, self.reported_tasks, named)
        check_class_labels(self.tasks, self.conditions)
        for feature in self.features:
            if role := self.role(feature.name):
                raise SchemaError(f"column {feature.name!r} is the {role} and cannot be a feature as well")

    def __repr__(self) -> str:
        counts = Counter(KIND_NAMES[type(f)] for f in self.features)
        tasks = [t.name for t in self.tasks[:REPR_TASKS]] + ["…"] * (len(self.tasks) > REPR_TASKS)
        parts = [", ".join(f"{count} {kind}" for kind, count in counts.items()), f"tasks {', '.join(tasks)}"]
        parts += [f"{name} {value}" for name in ("group", "weight", "domain") if (value := getattr(self, name))]
        return f"Schema({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return tables of the features and tasks for notebooks."""
        features = [(f.name, KIND_NAMES[type(f)], options_text(f)) for f in self.features]
        tasks = [(t.name, t.label, t.given or "", options_text(t, "given")) for t in self.tasks]
        frames = (
            pd.DataFrame(features, columns=["feature", "kind", "options"]),
            pd.DataFrame(tasks, columns=["task", "label", "given", "options"]),
        )
        return "\n".join(frame.to_html(index=False, max_rows=HTML_ROWS) for frame in frames)

    def role(self, column: str) -> str | None:
        """Return why a column cannot be a feature (``label of task 'ctr'``), ``None`` if it can."""
        for task in self.tasks:
            for name, what in ((task.label, "label"), (task.given, "condition"), (task.weight_column, "weight")):
                if column == name:
                    return f"{what} of task {task.name!r}"
        if self.funnel and column in self.funnel.labels:
            return "label of the funnel"
        return "row weight" if column == self.weight else None

    def owner(self, feature: Categorical) -> Categorical:
        """Return the feature whose vocabulary and embeddings a feature uses: itself, or the one it shares with."""
        return self._categories[feature.share_with or feature.name]

    @cached_property
    def _categories(self) -> dict[str, Categorical]:
        return {feature.name: feature for feature in self.features if isinstance(feature, Categorical)}

    @cached_property
    def text_format(self) -> TextFormat:
        """How text stands for values."""
        return TextFormat(self.separator, self.header, self.nulls, self.decimal, self.escape)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The distinct label columns, including conditions and the funnel's labels."""
        columns = [c for task in self.tasks for c in (task.label, task.given)]
        columns += self.funnel.labels if self.funnel else []
        return tuple(dict.fromkeys(c for c in columns if c is not None))

    @cached_property
    def conditions(self) -> frozenset[str]:
        """The label columns that must be 0, 1 or missing: conditions of tasks, and those of the funnel."""
        return frozenset((*(self.funnel.labels if self.funnel else ()), *(t.given for t in self.tasks if t.given)))

    @cached_property
    def binary_labels(self) -> frozenset[str]:
        """The label columns that must lie in [0, 1] or be missing: between them are soft labels."""
        return self.conditions | {t.label for t in self.tasks if t.kind == "binary"}

    @cached_property
    def class_labels(self) -> dict[str, Task]:
        """A task of each label column that holds classes."""
        return {task.label: task for task in self.tasks if task.has_classes}

    @cached_property
    def numbers(self) -> tuple[Numeric | Binned, ...]:
        """The features whose columns hold numbers."""
        return tuple(f for f in self.features if isinstance(f, Numeric | Binned))

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """The columns carried through to the predictions: the group, the keys and the domain."""
        return tuple(dict.fromkeys(name for name in (self.group, *self.keys, self.domain) if name))

    @cached_property
    def task_weights(self) -> tuple[str, ...]:
        """The distinct columns with weights of the rows of single tasks."""
        return tuple(dict.fromkeys(task.weight_column for task in self.tasks if task.weight_column))

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The columns of weights: the row weight, then those of tasks."""
        return (*([self.weight] if self.weight else []), *self.task_weights)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns that the schema reads."""
        names = (*(f.name for f in self.features), *self.labels, *self.carried, *self.weights)
        return tuple(dict.fromkeys(names))

    @cached_property
    def unfeatured(self) -> frozenset[str]:
        """The columns that are no feature: labels, row weight, and group and keys unless they are features too."""
        return frozenset(self.columns) - {f.name for f in self.features}

    @cached_property
    def funnel_rates(self) -> tuple[StepRates, ...]:
        """The rates of each step of the funnel, as the schema's own tasks if it has them; empty without a funnel."""
        return self.funnel.rates(self.tasks) if self.funnel else ()

    @cached_property
    def funnel_tasks(self) -> tuple[Task, ...]:
        """All rates of the funnel, step by step: of two steps CTR, CVR and CTCVR."""
        return tuple(dict.fromkeys(task for step in self.funnel_rates for task in step.tasks))

    @cached_property
    def reported_tasks(self) -> tuple[Task, ...]:
        """The tasks in reports: the funnel's, then the others."""
        return tuple(dict.fromkeys((*self.funnel_tasks, *self.tasks)))

    def resolve(self, columns: Sequence[str], source: str = "the data", index: Sequence[str] = ()) -> Schema:
        """Replace patterns by the matching columns, in the file's order.

        Args:
            columns: The columns of the data.
            source: The name of the data for errors.
            index: Those of the columns that no pattern matches, as they are the index of a pandas frame.

        Raises:
            SchemaError: A column is missing, a pattern matches no column, or a pattern matches a label.
        """
        found = frozenset(columns)  # lists of thousands of columns take long to search for each of them
        exact = {f.name for f in self.features if f.name in found or not WILDCARDS & set(f.name)}
        taken = exact | {self.group, "", *index}
        features: list[Feature] = []
        for feature in self.features:
            if feature.name in exact:
                features.append(feature)
                continue
            matched = [c for c in fnmatch.filter(columns, feature.name) if c not in taken]
            if not matched:
                raise SchemaError(f"no column of {source} matches the feature pattern {feature.name!r}")
            features += [dataclasses.replace(feature, name=c) for c in matched]
        resolved = self if tuple(features) == self.features else dataclasses.replace(self, features=features)
        for column in resolved.columns:
            if column not in found:
                first = f"; its columns begin with {', '.join(map(repr, columns[:3]))}"
                hint = did_you_mean(column, columns, most=3) or first
                raise SchemaError(f"column {column!r} is not in {source}{hint}")
        return resolved

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as plain data, the content of a dataset card."""
        card: dict[str, Any] = {"description": self.description} if self.description else {}
        card["features"] = [{KIND_NAMES[type(f)]: f.name} | changed_options(f) for f in self.features]
        card["tasks"] = [{"name": t.name, "label": t.label} | changed_options(t) for t in self.tasks]
        if self.funnel:
            card["funnel"] = self.funnel.to_card()
        roles = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self) if f.name in ROLES}
        given = {name: value for name, (value, default) in roles.items() if value != default}
        return card | {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    @classmethod
    def from_dict(cls, card: Mapping[str, Any], source: str = "the dataset card") -> Schema:
        """Build a schema from the content of a dataset card.

        Args:
            card: A mapping as returned by `to_dict`.
            source: The name of the card for errors.

        Raises:
            SchemaError: A key is unknown or missing, or a value is invalid.
        """
        if not isinstance(card, Mapping):
            raise SchemaError(f"{source} must be a mapping with features and tasks, got {type(card).__name__}")
        fields = [f.name for f in dataclasses.fields(cls)]
        for key in card:
            if key not in fields:
                raise SchemaError(f"{source}: unknown key {key!r}{did_you_mean(str(key), fields, most=3)}")
        return cls(
            [build_feature(entry, source) for entry in check_list(card.get("features") or (), "features", source)],
            [build(Task, entry, source) for entry in check_list(card.get("tasks") or (), "tasks", source)],
            Funnel.from_card(card["funnel"], source) if card.get("funnel") else None,
            **{name: card[name] for name in (*ROLES, "description") if card.get(name) is not None},
        )

    def save(self, path: str | Path) -> None:
        """Write the schema as a dataset card (YAML)."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a dataset card (YAML).

        Raises:
            SchemaError: The file is missing, not YAML, or not a valid card.
        """
        try:
            card = from_yaml(read_text(Path(path)))
        except OSError as error:
            raise SchemaError(f"cannot read the dataset card {str(path)!r}: {error.strerror}") from error
        except ValueError as error:
            raise SchemaError(f"{path} is not YAML: {error}") from error
        return cls.from_dict(card, str(path))

    @classmethod
    def infer(
        cls,
        data: Rows,
        tasks: Sequence[Task | str],
        kinds: Mapping[str, ColumnKind] | None = None,
        drop: Sequence[str] = (),
        bad_rows: BadRows = "error",
        date_formats: Mapping[str, str] | None = None,
        **roles: Any,
    ) -> Schema:
        """Infer a schema from the rows of a dataset: its first ones, and blocks spread over the rest.

        Each column is read by the rules of `recmtl.schema.infer`, which `recmtl.describe` shows beside what it holds.

        Args:
            data: A CSV, Parquet or Arrow file, a glob, folder or list of these, a DataFrame, or an Arrow table.
            tasks: The prediction targets, or the names of their label columns, which may name the task as well
                (``"TASK=COLUMN"``): a binary task if the column is a step of the funnel or holds 0 and 1, a regression
                if it holds more than two numbers, multi-class if it holds text. They are left out of the features.
            kinds: What columns are that the rules read as something else, by name or pattern: ``categorical``,
                ``multi_categorical``, ``numeric``, ``binned``, ``timestamp``, or ``drop`` to leave one out; and the
                kind of the task of a label, such as ``{"rating": "multiclass"}``.
            drop: Columns to leave out, by name or pattern.
            bad_rows: What to do with records of a CSV file that have another number of values than its header: stop at
                the first, or skip them, with a warning that counts those among the rows that are read.
            date_formats: The format of columns of dates, by name or pattern, as in `Timestamp`, such as
                ``{"seen": "%d/%m/%Y"}``.
            roles: ``funnel``, ``group``, ``keys`` and ``weight`` as in `Schema`, left out of the features as well; the
                ``domain``, which is a categorical feature; and how text is read: ``separator``, ``header``, ``nulls``,
                ``decimal`` and ``escape``.

        Raises:
            DataError: There is no such file, it is empty, or it has a record that does not parse.
            SchemaError: The data cannot be read, a column is missing or the rules cannot decide what it is, or no
                column is left for a feature.
        """
        columns = infer_columns(data, tasks, kinds, drop, roles, bad_rows, date_formats)
        for note in columns.sample.notes:
            warnings.warn(note, stacklevel=2)
        return cls(columns.features, columns.tasks, **roles)
