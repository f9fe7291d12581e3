"""The schema of a dataset, and the dataset card that it is read from."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recmtl.errors import SchemaError
from recmtl.io.location import Location
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.schema.features import KINDS, Binned, Categorical, Feature, Numeric, check_sharing
from recmtl.schema.infer import head, propose
from recmtl.schema.tasks import Funnel, Task
from recmtl.schema.validation import names, one_character

WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Schema:
    """What the columns of a dataset mean.

    Args:
        features: The model's inputs. A name may be a pattern; a name spelt out wins over a pattern.
        tasks: What is predicted, in the order of the losses.
        funnel: Two labels of which the second implies the first; see `Funnel`.
        group: The column that groups rows (a search, a session, a user): rows of one group are never split between
            training and held-out rows.
        keys: Columns carried through to the predictions.
        weight: A column with a weight per row.
        separator: What stands between the columns of a CSV file; ``None`` finds it in the header.
        description: What the dataset is and where it comes from.
    """

    features: Sequence[Feature]
    tasks: Sequence[Task]
    funnel: Funnel | None = None
    group: str | None = None
    keys: Sequence[str] = ()
    weight: str | None = None
    separator: str | None = None
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check that the names fit together."""
        for name in ("features", "tasks", "keys"):
            object.__setattr__(self, name, tuple(_listed(getattr(self, name), name, "the schema")))
        names(self, "group", "weight")
        one_character(self, "separator")
        self._check()

    def _check(self) -> None:
        if not self.features:
            raise SchemaError("a schema needs at least one feature")
        if not self.tasks:
            raise SchemaError("a schema needs at least one task")
        _unique("feature", [f.name for f in self.features])
        _unique("task", [t.name for t in self.tasks])
        reported = [t.name for t in self.reported_tasks]
        for task in self.tasks:
            if reported.count(task.name) > 1:
                raise SchemaError(
                    f"task {task.name!r} is not what the funnel calls {task.name!r}: give it another name"
                )
        for key in self.keys:
            if not isinstance(key, str):
                raise SchemaError(f"`keys` must be columns, got {key!r}")
            if key in reported:
                raise SchemaError(f"key {key!r} has the name of a task, under which its predictions stand")
        check_sharing(self.features)
        for feature in self.features:
            role = self.role(feature.name)
            if role:
                raise SchemaError(f"column {feature.name!r} is the {role} and cannot be a feature as well")

    def role(self, column: str) -> str | None:
        """Say why a column cannot be a feature (``label of task 'ctr'``), or ``None`` where it can."""
        for task in self.tasks:
            if column == task.label:
                return f"label of task {task.name!r}"
            if column == task.given:
                return f"condition of task {task.name!r}"
        if self.funnel and column in (self.funnel.click, self.funnel.conversion):
            return "label of the funnel"
        return {self.group: "group", self.weight: "row weight"}.get(column)

    def owner(self, feature: Categorical) -> Categorical:
        """Give the feature whose vocabulary and embeddings a feature of the resolved schema uses: mostly its own."""
        name = feature.share_with or feature.name
        return next(f for f in self.features if isinstance(f, Categorical) and f.name == name)

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct label columns, conditions and the funnel's labels included."""
        columns = [c for task in self.tasks for c in (task.label, task.given)]
        if self.funnel:
            columns += [self.funnel.click, self.funnel.conversion]
        return tuple(dict.fromkeys(c for c in columns if c is not None))

    @property
    def binary_labels(self) -> frozenset[str]:
        """The label columns that may hold nothing but 0, 1 and missing."""
        columns = {t.label for t in self.tasks if t.kind == "binary"} | {t.given for t in self.tasks if t.given}
        if self.funnel:
            columns |= {self.funnel.click, self.funnel.conversion}
        return frozenset(c for c in columns if c is not None)

    @property
    def numbers(self) -> tuple[Numeric | Binned, ...]:
        """The features whose columns hold numbers."""
        return tuple(f for f in self.features if isinstance(f, Numeric | Binned))

    @property
    def carried(self) -> tuple[str, ...]:
        """The columns that go through to the predictions: the group and the keys."""
        return tuple(dict.fromkeys(([self.group] if self.group else []) + list(self.keys)))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the schema reads."""
        names = [f.name for f in self.features] + list(self.labels) + list(self.carried)
        return tuple(dict.fromkeys(names + ([self.weight] if self.weight else [])))

    @property
    def unfeatured(self) -> frozenset[str]:
        """The columns that only training and measuring need: labels, row weight, group and keys that are no feature."""
        return frozenset(self.columns) - {f.name for f in self.features}

    @property
    def funnel_tasks(self) -> tuple[Task, ...]:
        """CTR, CVR and CTCVR: the schema's own tasks where it has them; empty without a funnel."""
        if self.funnel is None:
            return ()
        click, conversion = self.funnel.click, self.funnel.conversion
        wanted = (Task("ctr", click), Task("cvr", conversion, given=click), Task("ctcvr", conversion))
        own = {(t.label, t.given): t for t in self.tasks}
        return tuple(own.get((t.label, t.given), t) for t in wanted)

    @property
    def reported_tasks(self) -> tuple[Task, ...]:
        """The tasks of every report: those of the funnel first, then the others."""
        return tuple(dict.fromkeys((*self.funnel_tasks, *self.tasks)))

    def resolve(self, columns: Sequence[str], source: str = "the data") -> Schema:
        """Replace patterns by the columns of a file, in the file's order.

        Args:
            columns: The columns that there are.
            source: What to call them in an error.

        Raises:
            SchemaError: A column is missing, a pattern matches none, or a pattern catches a label.
        """
        named = {f.name for f in self.features if f.name in columns or not WILDCARDS & set(f.name)}
        features: list[Feature] = []
        for feature in self.features:
            if feature.name in named:
                features.append(feature)
                continue
            matched = [c for c in fnmatch.filter(columns, feature.name) if c not in named]
            if not matched:
                raise SchemaError(f"no column of {source} matches the feature pattern {feature.name!r}")
            features += [dataclasses.replace(feature, name=c) for c in matched]
        resolved = dataclasses.replace(self, features=tuple(features))
        for column in resolved.columns:
            if column not in columns:
                hint = _nearest(column, columns) or f"; its columns begin with {', '.join(map(repr, columns[:3]))}"
                raise SchemaError(f"column {column!r} is not in {source}{hint}")
        return resolved

    def to_dict(self) -> dict[str, Any]:
        """Give the schema as plain data, the content of a dataset card."""
        kinds = {cls: kind for kind, cls in KINDS.items()}
        card: dict[str, Any] = {"description": self.description} if self.description else {}
        card["features"] = [{kinds[type(f)]: f.name} | _changed(f) for f in self.features]
        card["tasks"] = [{"name": t.name, "label": t.label} | _changed(t) for t in self.tasks]
        if self.funnel:
            card["funnel"] = dataclasses.asdict(self.funnel)
        return card | {
            name: list(value) if name == "keys" else value
            for name in ("group", "keys", "weight", "separator")
            if (value := getattr(self, name))
        }

    @classmethod
    def from_dict(cls, card: Mapping[str, Any], source: str = "the dataset card") -> Schema:
        """Build a schema from the content of a dataset card.

        Args:
            card: A mapping as `to_dict` gives it.
            source: What to call it in an error.

        Raises:
            SchemaError: The mapping names something unknown or lacks something.
        """
        if not isinstance(card, Mapping):
            raise SchemaError(f"{source} must be a mapping with features and tasks, got {type(card).__name__}")
        fields = {f.name for f in dataclasses.fields(cls)}
        for key in card:
            if key not in fields:
                raise SchemaError(f"{source}: unknown key {key!r}{_nearest(str(key), sorted(fields))}")
        return cls(
            features=[_feature(entry, source) for entry in _listed(card.get("features") or (), "features", source)],
            tasks=[_build(Task, entry, source) for entry in _listed(card.get("tasks") or (), "tasks", source)],
            funnel=_build(Funnel, card["funnel"], source) if card.get("funnel") else None,
            group=card.get("group"),
            keys=card.get("keys") or (),
            weight=card.get("weight"),
            separator=card.get("separator"),
            description=card.get("description") or "",
        )

    def save(self, path: str | Path) -> None:
        """Write the schema as a dataset card (YAML)."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    @classmethod
    def infer(cls, data: str | Path | Location | pd.DataFrame, tasks: Sequence[Task], **roles: Any) -> Schema:
        """Propose a schema from the first rows of a file or frame: a start to edit, not a verdict.

        Text and booleans become categories, or lists of categories where a separator repeats; dates and times parts of
        the calendar; numbers become numeric, except integers that look like identifiers or codes.

        Args:
            data: A CSV, Parquet or Arrow file, or a DataFrame.
            tasks: What is predicted; their columns are left out of the features.
            roles: ``funnel``, ``group``, ``keys`` and ``weight`` as in `Schema`, which are left out as well, and
                ``separator``.

        Raises:
            SchemaError: The file cannot be read or no column is left for a feature.
        """
        table = head(data, roles.get("separator"))
        draft = cls([Numeric("*")], tasks, **roles)
        used = set(draft.columns)
        return dataclasses.replace(draft, features=[propose(table, c) for c in table.column_names if c not in used])

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a dataset card (YAML).

        Raises:
            SchemaError: The file is missing, is not YAML or is not a card.
        """
        try:
            card = from_yaml(read_text(Path(path)))
        except OSError as error:
            raise SchemaError(f"cannot read the dataset card {str(path)!r}: {error.strerror}") from error
        except ValueError as error:
            raise SchemaError(f"{path} is not YAML: {error}") from error
        return cls.from_dict(card, str(path))


def _feature(entry: Any, source: str) -> Feature:
    kinds = [k for k in KINDS if isinstance(entry, Mapping) and k in entry]
    if len(kinds) != 1:
        raise SchemaError(f"{source}: a feature must name one of {', '.join(KINDS)}, got {entry!r}")
    options = {("name" if k == kinds[0] else k): v for k, v in entry.items()}
    feature: Feature = _build(KINDS[kinds[0]], options, source)
    return feature


def _build(cls: type[Any], entry: Any, source: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if not isinstance(entry, Mapping):
        raise SchemaError(f"{source}: a {cls.__name__} must be a mapping, got {entry!r}")
    for key in entry:
        if key not in fields:
            raise SchemaError(f"{source}: unknown option {key!r} of a {cls.__name__}{_nearest(str(key), list(fields))}")
    needed = [n for n, f in fields.items() if f.default is dataclasses.MISSING]
    if not set(needed) <= set(entry):
        raise SchemaError(f"{source}: a {cls.__name__} needs {' and '.join(needed)}, got {dict(entry)}")
    return cls(**entry)


def _listed(value: Any, name: str, source: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise SchemaError(f"{source}: `{name}` must be a list, got {value!r}")
    return value


def _changed(instance: Any) -> dict[str, Any]:
    """The options that differ from their defaults."""
    values = {f.name: (getattr(instance, f.name), f.default) for f in dataclasses.fields(instance)}
    return {n: v for n, (v, default) in values.items() if default is not dataclasses.MISSING and v != default}


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _unique(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SchemaError(f"{what} {name!r} is declared twice")
