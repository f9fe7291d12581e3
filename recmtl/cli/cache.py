"""The `cache` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path

from recmtl.cli.console import print_cached, print_line
from recmtl.data.store.cache import default_cache, find_cached, remove_cached, remove_stale
from recmtl.errors import UsageError, counted


def cache_command(
    action: str,
    names: Sequence[str] = (),
    older_than: float | None = None,
    cache: Path | None = None,
    json: bool = False,
) -> None:
    """List or clear the datasets that `train` prepared from raw files.

    Args:
        action: Whether to list or remove them.
        names: Only datasets whose names begin like this.
        older_than: Only datasets that are at least this old.
        cache: The folder of the datasets; by default `recmtl` in the user's cache folder.
        json: Print JSON instead of a table.
    """
    if older_than is not None and not older_than >= 0:
        raise UsageError(f"`--older-than` must be a number of days from 0, got {older_than}")
    folder = cache or default_cache()
    found = find_cached(folder, names, older_than)
    shown = {dataset.folder: dataset.to_dict() for dataset in found}
    if action == "clear":
        removed = remove_cached(found)
        remove_stale(folder)
        shown = {dataset.folder: shown[dataset.folder] for dataset in removed}
    if json:
        print_line(dumps(list(shown.values()), indent=1))
    else:
        print_cached(list(shown.values()), f"{'removed from' if action == 'clear' else 'in'} {folder}")
    if action == "clear" and len(shown) < len(found):
        sys.stderr.write(f"being prepared, so not removed: {counted(len(found) - len(shown), 'dataset')}\n")
