"""The `describe` command."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps

from recmtl.cli.console import RowCounter, print_description, print_line
from recmtl.data import describe
from recmtl.data.sources.bad_rows import BadRows
from recmtl.io.location import public_name
from recmtl.recipe import presets


def describe_command(
    data: str,
    card: str | None = None,
    test: str | None = None,
    label: Sequence[str] | None = None,
    bad_rows: BadRows = "error",
    json: bool = False,
) -> None:
    """Describe a dataset: columns, labels, drift, and columns that leak a label.

    Args:
        data: Raw files or a prepared dataset.
        card: A dataset card (YAML), or the name of a shipped one; without it the columns' kinds are inferred.
        test: Other rows, to compare with the first ones.
        label: A binary label, if there is no card; may be repeated.
        bad_rows: What to do with rows that do not parse: stop at the first, or skip and count them.
        json: Print JSON instead of tables.
    """
    with RowCounter() as counter:
        schema = None if card is None else presets.card(card)
        description = describe(data, schema, test, label or (), counter, bad_rows)
    if json:
        print_line(dumps(description.to_dict(), indent=1, ensure_ascii=False))
    else:
        print_description(description, public_name(data))
