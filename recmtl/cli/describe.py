"""The command that describes a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps

from recmtl.cli.console import Counter, print_description, print_line
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
    """Describe a dataset: columns, labels, drift, and columns that give a label away.

    Args:
        data: Raw files as `prepare` takes them, or a prepared dataset.
        card: A dataset card (YAML), or the bare name of a shipped one; without it the columns' kinds are inferred.
        test: Other rows, held against the first ones.
        label: The binary labels, where there is no card.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
        json: Print JSON instead of tables.
    """
    with Counter() as counter:
        schema = None if card is None else presets.card(card)
        description = describe(data, schema, test, label or (), counter, bad_rows)
    if json:
        print_line(dumps(description.to_dict(), indent=1, ensure_ascii=False))
    else:
        print_description(description, public_name(data))
