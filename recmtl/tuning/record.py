"""What belongs to a search besides its trials: recipe, space, data, metric, seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from recmtl.errors import RunError
from recmtl.io.files import new_file
from recmtl.io.untrusted import from_json, read_text
from recmtl.recipe.recipe import differences

RECORD = "tuning.json"
FORMAT = 1

Pruner = Literal["median", "none"]


@dataclass(frozen=True)
class SearchRecord:
    """What belongs to a search, besides its trials.

    Args:
        recipe: The recipe whose options are searched.
        space: The space, as `SearchSpace.record` returns it.
        data: The fingerprint of the training and validation rows.
        monitor: The metric that decides.
        higher_is_better: Whether higher values of it are better.
        seed: The seed of the search.
        pruner: How trials are pruned.
    """

    recipe: Mapping[str, Any]
    space: list[dict[str, Any]]
    data: str
    monitor: str
    higher_is_better: bool
    seed: int
    pruner: Pruner

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record in a folder.

        Raises:
            RunError: There is none, or it is damaged.
        """
        path = folder / RECORD
        try:
            content = from_json(read_text(path))
            if content.pop("format") != FORMAT:
                raise ValueError("it was written by another version of recmtl")
            return cls(**content)
        except FileNotFoundError:
            raise RunError(f"{str(folder)!r} is no search: there is no {RECORD}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be used: {error}") from error

    def write(self, folder: Path) -> None:
        """Write the record into a folder."""
        with new_file(folder / RECORD) as file:
            text = json.dumps({"format": FORMAT, **vars(self)}, indent=1, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")

    def check_same(self, begun: SearchRecord, folder: Path) -> None:
        """Check that a search goes on as it was begun.

        Raises:
            RunError: It has another recipe, space, data, metric, seed or way of pruning.
        """
        advice = "give another `--out`"
        for key, before, now in differences(begun.recipe, self.recipe):
            raise RunError(f"{str(folder)!r} searches a recipe with `{key}` {before!r}, got {now!r}: {advice}")
        if begun.space != self.space:
            raise RunError(f"{str(folder)!r} was begun with another search space: {advice}")
        if begun.data != self.data:
            raise RunError(f"{str(folder)!r} was begun on other training or validation rows: {advice}")
        for name in ("monitor", "seed", "pruner"):
            before, now = getattr(begun, name), getattr(self, name)
            if before != now:
                raise RunError(f"{str(folder)!r} was begun with the {name} {before!r}, got {now!r}: {advice}")
