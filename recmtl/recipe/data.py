"""The data of a recipe: its rows, what their columns mean, and the prepared dataset."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from recmtl.data import PreparedData
from recmtl.data.preparation.part_work import Progress
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.data.profiling.raw import leak_warnings
from recmtl.data.store.format import MANIFEST
from recmtl.errors import DataError
from recmtl.io.partitions import Partitions, files_of
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.presets import card
from recmtl.recipe.short_options import funnel_of
from recmtl.schema import Schema, SplitName
from recmtl.schema.readings import infer_columns
from recmtl.schema.text_format import TEXT_OPTIONS

RECIPE_CARD = "--data.card"  # how a card is given where a recipe may name one


def open_data(
    options: DataOptions,
    progress: Progress = lambda what, rows: None,
    check: Callable[[Schema], None] = lambda schema: None,
) -> PreparedData:
    """Open the data of a recipe; raw files are prepared into the cache first.

    Args:
        options: The data of the recipe.
        progress: Called with the current activity and the number of rows just read.
        check: Called with the schema as soon as it is known, before rows are prepared.
    """
    if options.train is None:
        raise DataError("there are no training rows: give `--data.train`")
    if (Path(options.train) / MANIFEST).is_file():
        if days := options.days:
            raise DataError(
                f"{options.train!r} is a prepared dataset, of which no days are chosen: leave out `{days[0]}`"
            )
        if options.valid or options.test:
            raise DataError(f"{options.train!r} is a prepared dataset: it has its own validation and test rows")
        if options.inferred:
            raise DataError(f"{options.train!r} is a prepared dataset: its labels and columns are those of its card")
        if options.thinning:
            raise DataError(f"{options.train!r} is a prepared dataset: say `negative_rate` when it is prepared")
        found = PreparedData.open(options.train)
        check(found.schema.schema)
        return found
    rows = rows_by_split(options)
    train = rows["train"] or options.train
    schema, notes, extension = None, list[str](), options.extension
    if extension is None or options.card is not None:
        schema, notes = data_schema(options, train)
        check(schema)
    else:
        check(extension.schema.schema)
    data = prepare_cached(
        schema,
        train,
        rows["valid"],
        rows["test"],
        options.holdout,
        options.cache,
        progress,
        options.bad_rows,
        options.thinning,
        extension,
        options.workers,
    )
    notes += missing_days(rows.values())
    return replace(data, notes=(*notes, *data.notes))


def rows_by_split(options: DataOptions) -> dict[str, str | Partitions | None]:
    """Return the training, validation and test rows: paths, or partitions of some days, which do not overlap.

    Raises:
        DataError: A file is in two of them, or days cannot be chosen.
    """
    names: tuple[SplitName, ...] = get_args(SplitName)
    found: dict[str, str | Partitions | None] = {name: options.rows(name) for name in names}
    seen: dict[str, str] = {}
    for name, rows in found.items() if options.days else ():
        for file in files_of(rows) if rows is not None else ():
            other = seen.setdefault(file.name, name)
            if other != name:
                raise DataError(f"{file.name!r} is among the {other} and the {name} rows: give them different days")
    return found


def missing_days(splits: Iterable[Any]) -> list[str]:
    """Return a note for each range of partitions in which folders of days are missing."""
    notes = []
    for rows in splits:
        if isinstance(rows, Partitions) and (missing := rows.missing()):
            more = f" and {len(missing) - 1:,} more days" if len(missing) > 1 else ""
            notes.append(f"there is no folder of {missing[0]}{more} in {rows.name}")
    return notes


def data_schema(
    options: DataOptions, train: str | Partitions, card_option: str = RECIPE_CARD
) -> tuple[Schema, list[str]]:
    """Return the schema of a card, or one inferred from the training rows with notes: what was inferred, and leaks.

    Args:
        options: The card, or the labels and what else is said about the columns.
        train: The training rows.
        card_option: How a card is given, for errors.
    """
    if options.card is not None:
        if options.inferred:
            named = " and ".join(f"`{name}`" for name in options.inferred)
            of_recipe = f" (`{RECIPE_CARD} null` if a recipe names it)" if card_option == RECIPE_CARD else ""
            key = (
                "; to group metrics by a key of the card, train with `--trainer.stopping.group`"
                if options.group
                else ""
            )
            raise DataError(
                f"the card {options.card!r} says what the columns are: leave out {named}, or the card{of_recipe}{key}"
            )
        return card(options.card), []
    funnel = funnel_of(options.funnel)
    labels = options.labels or list(funnel.labels if funnel else ())
    if not labels:
        raise DataError(
            "nothing says what to predict: name the label columns, `--label COLUMN`, or give a dataset card, "
            f"`{card_option}`, a YAML file or a shipped name"
        )
    roles = {k: v for k, v in options.inferred.items() if k in ("group", "weight", "domain", *TEXT_OPTIONS)}
    roles["funnel"] = funnel
    said = (options.kinds, options.drop, roles, options.bad_rows, options.date_formats)
    columns = infer_columns(train, labels, *said)
    schema = Schema(columns.features, columns.tasks, **roles)
    shown = f"`{describe_command_of(options, train)}` shows how each column is read"
    return schema, [*columns.notes, shown, *leak_warnings(columns.sample.table, schema)]


def describe_command_of(options: DataOptions, train: str | Partitions) -> str:
    """Return the `describe` command that reads the columns of the training rows as these options do."""
    said = [("label", label) for label in options.labels]
    said += [(name, value) for name in ("group", "weight", "domain") if (value := getattr(options, name))]
    said += [("drop", name) for name in options.drop] + [("null", word) for word in options.nulls]
    marks = {name: getattr(options, name) for name in ("separator", "decimal", "escape")}
    said += [(name, value) for name, value in marks.items() if value]
    said += [("header", json.dumps(options.header))] if options.header else []
    said += [("kind", f"{name}={kind}") for name, kind in options.kinds.items()]
    said += [("date_format", f"{name}={written}") for name, written in options.date_formats.items()]
    place = str(train.place) if isinstance(train, Partitions) else train
    if isinstance(train, Partitions):
        said += [(name, str(value)) for name in ("since", "until", "date_key") if (value := getattr(options, name))]
    words = [word for name, value in said for word in (f"--{name}", value)]
    return shlex.join(["recmtl", "describe", place, *words, *(["--funnel", *options.funnel] if options.funnel else [])])
