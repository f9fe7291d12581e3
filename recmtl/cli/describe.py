"""The `describe` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import dumps
from typing import Any

from recmtl.cli.console import RowCounter, print_description, print_line
from recmtl.data import describe
from recmtl.errors import UsageError
from recmtl.io.csv_records import BadRows
from recmtl.io.location import public_name
from recmtl.io.output import check_free, new_output
from recmtl.recipe import presets
from recmtl.recipe.data_options import partitions
from recmtl.recipe.short_options import NO_OPTIONS, funnel_of, listed, parse_date_formats, parse_kinds
from recmtl.schema import Schema
from recmtl.schema.readings import InferredColumns, infer_columns


def describe_command(
    data: str,
    card: str | None = None,
    test: str | None = None,
    label: Sequence[str] | None = None,
    funnel: Sequence[str] | None = None,
    group: str | None = None,
    weight: str | None = None,
    domain: str | None = None,
    drop: Sequence[str] | None = None,
    kind: Sequence[str] | None = None,
    date_format: Sequence[str] | None = None,
    text: Mapping[str, Any] = NO_OPTIONS,
    out: str | None = None,
    bad_rows: BadRows = "error",
    json: bool = False,
    brief: bool = False,
    since: str | None = None,
    until: str | None = None,
    date_key: str | None = None,
) -> None:
    """Describe a dataset: what is wrong with it, columns, labels, drift, and columns that leak a label.

    Args:
        data: Raw files or a prepared dataset.
        card: A dataset card (YAML), or the name of a shipped one; without it the columns are inferred, and the table
            of columns says how each is read and why.
        test: Other rows, to compare with the first ones.
        label: A label column, or `TASK=COLUMN`, if there is no card; may be repeated.
        funnel: Without a card, labels each of which happens only after the one before it, `click cart pay`, or after
            another as `LABEL:PARENT`, `click like:click share:click`.
        group: Without a card, the column that groups rows.
        weight: Without a card, a column with a weight per row.
        domain: Without a card, the column that says which domain a row belongs to.
        drop: Without a card, a column to leave out, by name or pattern; may be repeated.
        kind: Without a card, what a column is that is inferred as something else, such as `zip=categorical`; may be
            repeated.
        date_format: Without a card, the format of a column of dates, by name or pattern, in codes of `strptime`, or
            `seconds`, `milliseconds`, `microseconds` or `nanoseconds`; may be repeated.
        text: Without a card, how text is read.
        out: Also write what was inferred to this file, as a dataset card to edit; it must not exist yet.
        bad_rows: What to do with rows that do not parse: stop at the first, or skip and count them.
        json: Print JSON instead of tables.
        brief: Print warnings, counts and notes alone.
        since: The first day of the first rows (`2024-01-01`), if they are a folder of folders named like
            `date=2024-01-01`; a month or an hour (`2024-01-01T05`) is a bound as well.
        until: The last day of the first rows, which is included.
        date_key: The key of these folders, `date` in `date=2024-01-01`; by default the only one with dates.
    """
    steps = funnel_of(funnel or ())
    given = {"funnel": steps, "group": group, "weight": weight, "domain": domain}
    roles = {name: value for name, value in given.items() if value} | dict(text)
    labels = listed(label or ()) or list(steps.labels if steps else ())
    left_out, kinds = listed(drop or ()), parse_kinds(kind or ())
    formats = parse_date_formats(date_format or ())
    of_columns = {"drop": left_out, "kinds": kinds, "date_formats": formats}
    reading = {**roles} | {name: value for name, value in of_columns.items() if value}
    if json and brief:
        raise UsageError("`--json` prints all that is known and `--brief` a part of it: give one of them")
    if out is not None:
        _check_card(out, card, labels)
    rows = partitions(data, since, until, date_key)
    with RowCounter() as counter:
        schema = None if card is None else presets.card(card)
        description = describe(rows, schema, test, labels, counter, bad_rows, **reading)
    if json:
        print_line(dumps(description.to_dict(), indent=1))
    else:
        print_description(description, public_name(data), brief)
    if out is not None:
        columns = infer_columns(rows, labels, kinds, left_out, roles, bad_rows, formats)
        write_card(out, Schema(columns.features, columns.tasks, **roles), columns)


def _check_card(out: str, card: str | None, label: Sequence[str] | None) -> None:
    if card is not None or not label:
        raise UsageError("`--out` writes a card from what is inferred: give `--label`, and no `--card`")
    check_free(out)


def write_card(out: str, schema: Schema, columns: InferredColumns) -> None:
    """Write an inferred schema as a dataset card, which says above how each column is read and why."""
    head = [f"# Inferred from {columns.source}:", *(f"# {r.column}: {r.kind}, {r.reason}" for r in columns.readings)]
    text = "".join(f"{' '.join(line.split())}\n" for line in head)
    with new_output(out) as file:
        schema.save(file)
        file.write_text(text + file.read_text(encoding="utf-8"), encoding="utf-8")
