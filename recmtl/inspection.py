"""The commands that look at data: what is in it, and what the cache keeps of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps

from recmtl import shipped
from recmtl.console import Counter, print_description
from recmtl.data import describe


def describe_command(
    data: str, card: str | None = None, test: str | None = None, label: Sequence[str] | None = None, json: bool = False
) -> None:
    """Describe a dataset: columns, labels, drift, and columns that give a label away.

    Args:
        data: Raw files as `prepare` takes them, or a prepared dataset.
        card: A dataset card (YAML), or the bare name of a shipped one; without it the columns' kinds are inferred.
        test: Other rows, held against the first ones.
        label: The binary labels, where there is no card.
        json: Print JSON instead of tables.
    """
    with Counter() as counter:
        schema = None if card is None else shipped.card(card)
        description = describe(data, schema, test, label or (), counter)
    if json:
        sys.stdout.write(dumps(description.to_dict(), indent=1, ensure_ascii=False) + "\n")
    else:
        print_description(description, data)
