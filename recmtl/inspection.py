"""The commands that look at data: what is in it, and what the cache keeps of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path

from recmtl import shipped
from recmtl.console import Counter, print_cached, print_description
from recmtl.data import DataError, describe
from recmtl.data.cache import default_cache
from recmtl.data.cached import find_cached, remove, remove_leftovers
from recmtl.data.skipped import BadRows
from recmtl.schema.location import public_name


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
        schema = None if card is None else shipped.card(card)
        description = describe(data, schema, test, label or (), counter, bad_rows)
    if json:
        sys.stdout.write(dumps(description.to_dict(), indent=1, ensure_ascii=False) + "\n")
    else:
        print_description(description, public_name(data))


def cache_command(
    action: str,
    names: Sequence[str] = (),
    older_than: float | None = None,
    cache: Path | None = None,
    json: bool = False,
) -> None:
    """List or clear what `train` keeps of raw files: the prepared datasets.

    Args:
        action: `list` or `clear`.
        names: Only the datasets whose names begin so.
        older_than: Only those that are so many days old and more.
        cache: The folder that keeps them; by default `recmtl` in the user's cache folder.
        json: Print JSON instead of a table.
    """
    if older_than is not None and not older_than >= 0:
        raise DataError(f"`--older-than` must be a number of days from 0, got {older_than}")
    folder = cache or default_cache()
    found = find_cached(folder, names, older_than)
    shown = {dataset.folder: dataset.to_dict() for dataset in found}
    if action == "clear":
        removed = remove(found)
        remove_leftovers(folder)
        shown = {dataset.folder: shown[dataset.folder] for dataset in removed}
    if json:
        sys.stdout.write(dumps(list(shown.values()), indent=1, ensure_ascii=False) + "\n")
    else:
        print_cached(list(shown.values()), f"{'removed from' if action == 'clear' else 'in'} {folder}")
    if action == "clear" and len(shown) < len(found):
        sys.stderr.write(f"{len(found) - len(shown)} datasets stay: they are being prepared\n")
