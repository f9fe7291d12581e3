"""Extend a fitted schema by another day: vocabularies grow at their end, and statistics are kept or updated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.errors import DataError, SchemaError
from recmtl.schema.features import KIND_NAMES, Binned, Categorical, Numeric
from recmtl.schema.fitted import FIRST, FittedSchema
from recmtl.schema.history import COUNTS, Ages, FitHistory, most_frequent
from recmtl.schema.schema import Schema
from recmtl.schema.serialization import history_digest, load_fitted
from recmtl.schema.statistics import updated_statistics
from recmtl.schema.thinning import Thinning

Statistics = Literal["keep", "update"]
RUN_SCHEMA = "schema"  # the folder of a run that holds its fitted schema


@dataclass(frozen=True, eq=False)
class Extension:
    """How the schema of a run is extended by the rows of another day.

    Args:
        schema: The fitted schema of the run.
        statistics: What happens to means, quantiles, knots, bins, label rates and shares of missing values: ``keep``
            leaves them, so that rows are encoded as before; ``update`` takes those of all days.
        max_age: A category that was in no training row of so many continuations in a row becomes unknown again, and its
            id is free for a new one; ``None`` keeps all. Domains are kept in any case.
        allow_repeat: Whether training files may be among those that the run was trained on.

    Raises:
        SchemaError: An option is out of its range.
    """

    schema: FittedSchema
    statistics: Statistics = "keep"
    max_age: int | None = None
    allow_repeat: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if self.statistics not in get_args(Statistics):
            raise SchemaError(f"`statistics` must be one of {get_args(Statistics)}, got {self.statistics!r}")
        if self.max_age is not None and not (type(self.max_age) is int and self.max_age >= 1):
            raise SchemaError(f"`max_age` must be an integer of at least 1, got {self.max_age!r}")

    @property
    def key(self) -> list[str | int | None]:
        """All that the result depends on, beside the rows."""
        history = history_digest(self.schema.history)
        return [self.schema.fingerprint, history, self.statistics, self.max_age, self.allow_repeat]

    def check(self, schema: Schema, thinning: Thinning | None, files: Mapping[str, str]) -> Schema:
        """Return the run's schema, after a check that rows can be another day of it.

        Args:
            schema: The resolved schema by which they were given. It has the run's features and tasks; options of
                features may differ, and are the run's.
            thinning: How their training files were thinned.
            files: The names of these files by their digests.

        Raises:
            SchemaError: A feature or task is missing, new, or of another kind.
            DataError: The files were thinned otherwise, or the run was trained on one of them.
        """
        own = self.schema.schema
        for what, before, now in (
            ("feature", _features(own), _features(schema)),
            ("task", _tasks(own), _tasks(schema)),
        ):
            for name in dict.fromkeys((*before, *now)):
                if name not in now:
                    raise SchemaError(f"the schema lacks the {what} {name!r} of the run: give none, or one with it")
                if name not in before:
                    raise SchemaError(f"the run has no {what} {name!r}: leave it out, or train a new model")
                if before[name] != now[name]:
                    raise SchemaError(f"{what} {name!r} is {before[name]} in the run, but {now[name]} in the schema")
        if thinning != self.schema.thinning:
            raise DataError("the rows are thinned otherwise than the run's, by which predictions are corrected")
        history = self.schema.history
        for seen in () if self.allow_repeat else history.files:
            if seen in files:
                named = f"{files[seen]} already{history.first_name(seen, files[seen])}"
                raise DataError(
                    f"the run was trained on the rows of {named}: give new ones, or let them count twice "
                    "(`--allow_repeat true`, or `allow_repeat` of the command or function)"
                )
        return own

    def extend(self, day: FittedSchema, counts: Mapping[str, pa.Table]) -> tuple[FittedSchema, list[str]]:
        """Return the run's schema with the new categories of a day, and notes.

        Args:
            day: What was fitted on the rows of that day alone, by the run's schema; with its training files.
            counts: How often each category is in its rows, by the owner of the vocabulary.
        """
        old, notes = self.schema, list[str]()
        vocabularies: dict[str, pa.Array] = {}
        ages: dict[str, Ages] = {}
        waiting: dict[str, pa.Table] = {}
        for name, before in old.vocabularies.items():
            grown = self._grown(name, before, counts[name])
            vocabularies[name], ages[name], left, freed, added = grown
            if left.num_rows:
                waiting[name] = left
            notes += _growth_note(name, len(before), added, freed, left.num_rows)
        history = FitHistory(
            rows=old.history.rows + day.history.rows,
            files={**old.history.files, **day.history.files, **old.history.files},  # by their first names
            parents=tuple(dict.fromkeys((*old.history.parents, old.fingerprint))),
            ages=ages,
            waiting=waiting,
        )
        statistics = updated_statistics(old, day) if self.statistics == "update" else {}
        grown_schema = replace(
            old,
            **statistics,
            vocabularies=vocabularies,
            lengths={name: max(length, day.lengths[name]) for name, length in old.lengths.items()},
            integer_keys=old.integer_keys & day.integer_keys,
            missing=self._missing(day),
            history=history,
        )
        sizes = {block.name: block.first_size for block in old.id_blocks}
        changed = {b.name: sizes[b.name] for b in grown_schema.id_blocks if b.size != sizes[b.name]}
        return replace(grown_schema, first_sizes=changed), notes

    def constants(self, day: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return what stays constant: the blocks with the same ids in all rows of the run and of the day, given those.

        A binned feature keeps its only bin if statistics are kept.
        """
        bins = {b.name for b in self.schema.id_blocks if isinstance(b.feature, Binned) and self.statistics == "keep"}
        return {k: ids for k, ids in self.schema.constants.items() if k in bins or day.get(k) == ids}

    def _grown(self, name: str, before: pa.Array, counts: pa.Table) -> tuple[pa.Array, Ages, pa.Table, int, int]:
        """Return a vocabulary with new categories, its ages, those that wait, and how many went and came."""
        feature = next(f for f in self.schema.schema.features if f.name == name)
        assert isinstance(feature, Categorical)
        history, counts = self.schema.history, _combined(counts)
        seen = pc.is_in(before, counts["category"].combine_chunks()).to_numpy(zero_copy_only=False)
        seen &= ~before.is_null().to_numpy(zero_copy_only=False)
        ages = np.where(seen, 0, history.age(name, len(before)) + 1)
        values = before
        freed = 0
        if self.max_age is not None and name != self._domain_owner:
            old_ones = (ages >= self.max_age) & before.is_valid().to_numpy(zero_copy_only=False)
            freed = int(old_ones.sum())
            values = pc.if_else(pa.array(old_ones), pa.scalar(None, pa.large_string()), before)
        known = values.drop_null()
        candidates = _combined(counts, history.waiting.get(name))
        candidates = candidates.filter(pc.invert(pc.is_in(candidates["category"], known)))
        ready = candidates.filter(pc.field("count") >= feature.min_count)
        room = ready.num_rows if feature.max_vocabulary is None else max(0, feature.max_vocabulary - len(known))
        chosen = most_frequent(ready, room)
        added = chosen["category"].combine_chunks().cast(pa.large_string())
        left = candidates.filter(pc.invert(pc.is_in(candidates["category"], added)))
        values, ages = _placed(values, ages, added)
        return values, ages, most_frequent(left), freed, len(added)

    @property
    def _domain_owner(self) -> str | None:
        found = self.schema.domain
        return None if found is None else found.block.owner[0]

    def _missing(self, day: FittedSchema) -> dict[str, float]:
        """Return the shares of missing values: from 0 on that of a category rises in any case, as it has an id."""
        numbers = {f.name for f in self.schema.schema.features if isinstance(f, Numeric)}
        found = dict(self.schema.missing)
        weight = day.history.rows / max(1, self.schema.history.rows + day.history.rows)
        for name, share in found.items():
            if self.statistics == "update" or (share == 0 and name not in numbers):
                found[name] = share + weight * (day.missing[name] - share)
        return found


class HasSchema(Protocol):
    """An object with a fitted schema: a prepared dataset, or a model."""

    @property
    def schema(self) -> FittedSchema:
        """The fitted schema."""


Extendable = Extension | FittedSchema | HasSchema | str | Path


def open_extension(given: Extendable) -> Extension:
    """Return how a fitted schema is extended, given it or what holds it, such as a folder."""
    if isinstance(given, Extension):
        return given
    if isinstance(given, str | Path):
        folder = Path(given)
        return Extension(load_fitted(folder / RUN_SCHEMA if (folder / RUN_SCHEMA).is_dir() else folder))
    return Extension(given if isinstance(given, FittedSchema) else given.schema)


def extended_schema(extension: Extension | None) -> Schema:
    """Return the schema of the run to extend, by which rows are read where no other one is given."""
    if extension is None:
        raise SchemaError("there is no schema: give one, or by `extend` the run of which the rows are another day")
    return extension.schema.schema


def _features(schema: Schema) -> dict[str, str]:
    return {feature.name: KIND_NAMES[type(feature)] for feature in schema.features}


def _tasks(schema: Schema) -> dict[str, str]:
    return {task.name: task.kind for task in schema.tasks}


def _combined(*tables: pa.Table | None) -> pa.Table:
    """Return each category of tables of counts once, with the sum of its counts."""
    found = [table.select(COUNTS.names).cast(COUNTS) for table in tables if table is not None and table.num_rows]
    if not found:
        return COUNTS.empty_table()
    if len(found) == 1:
        return found[0]
    merged = pa.concat_tables(found).group_by("category").aggregate([("count", "sum")])
    return merged.rename_columns({"count_sum": "count"}).select(COUNTS.names)


def _placed(values: pa.Array, ages: Ages, added: pa.Array) -> tuple[pa.Array, Ages]:
    """Give new categories the free ids of a vocabulary, then ids after its last one."""
    free = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[: len(added)]
    if len(free):
        places = np.full(len(values), -1)
        places[free] = np.arange(len(free))
        taken = added.take(pa.array(places, mask=places < 0))
        values, ages = pc.coalesce(values, taken), np.where(places >= 0, 0, ages)
    behind = added.slice(len(free))
    return pa.concat_arrays([values, behind]), np.append(ages, np.zeros(len(behind), np.int64))


def _growth_note(name: str, before: int, added: int, freed: int, waiting: int) -> Iterator[str]:
    said = [f"{added:,} new"] if added else []
    said += [f"{freed:,} not seen for long, which are unknown again"] if freed else []
    said += [f"{waiting:,} too rare so far"] if waiting else []
    if said:
        yield f"column {name!r} has {before:,} categories: {', '.join(said)}"


def unchanged_ids(old: FittedSchema, new: FittedSchema, owner: str, size: int) -> npt.NDArray[np.bool_]:
    """Return which of the `size` ids of a feature are the same as in the older schema ``[size]``."""
    found = np.ones(size, np.bool_)
    if owner in old.vocabularies:
        before, now = old.vocabularies[owner], new.vocabularies[owner]
        same = pc.equal(before, now.slice(0, len(before))).fill_null(False).to_numpy(zero_copy_only=False)
        found[FIRST:] = np.append(same, np.zeros(len(now) - len(before), np.bool_))
    return found
