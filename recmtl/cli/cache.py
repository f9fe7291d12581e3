"""The command that lists and clears the cache of prepared datasets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path

from recmtl.cli.console import print_cached, print_line
from recmtl.data.store.cache import default_cache, find_cached, remove_cached, remove_stale
from recmtl.errors import UsageError


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
        raise UsageError(f"`--older-than` must be a number of days from 0, got {older_than}")
    folder = cache or default_cache()
    found = find_cached(folder, names, older_than)
    shown = {dataset.folder: dataset.to_dict() for dataset in found}
    if action == "clear":
        removed = remove_cached(found)
        remove_stale(folder)
        shown = {dataset.folder: shown[dataset.folder] for dataset in removed}
    if json:
        print_line(dumps(list(shown.values()), indent=1, ensure_ascii=False))
    else:
        print_cached(list(shown.values()), f"{'removed from' if action == 'clear' else 'in'} {folder}")
    if action == "clear" and len(shown) < len(found):
        sys.stderr.write(f"{len(found) - len(shown)} datasets stay: they are being prepared\n")
