"""The runs of a report, read from their folders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recmtl.data import PreparedData
from recmtl.errors import RunError
from recmtl.evaluate.own_metrics import own_metrics
from recmtl.evaluate.predictions import Predictions
from recmtl.evaluate.scores import Scores
from recmtl.io.untrusted import read_text
from recmtl.recipe.trust import trusted_metrics
from recmtl.runs.folder import RECIPE, REPORTED, RunFolder
from recmtl.schema import FittedSchema


@dataclass(frozen=True)
class ReportedRun:
    """A finished run.

    Args:
        name: Its name in the report.
        path: Its folder.
        fitted: Its fitted schema.
        recipe: The text of its recipe.
        records: The lines of `metrics.jsonl`.
        split: The reported split: ``test``, or ``valid`` if there are no test rows.
        predictions: The predictions of this split.
        usage: The mean gate weight of each expert by task; empty without gates.
        opened: Its data, as soon as it has been opened.
    """

    name: str
    path: Path
    fitted: FittedSchema
    recipe: str
    records: Sequence[Mapping[str, Any]]
    split: str
    predictions: Predictions
    usage: Mapping[str, Sequence[float]]
    opened: list[PreparedData] = field(default_factory=list, repr=False, compare=False)

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """The scores of each reported task."""
        return self.predictions.scores()

    @classmethod
    def open(
        cls,
        path: str | Path,
        name: str | None = None,
        trust: Sequence[str] = (),
        note: Callable[[str], None] = warnings.warn,
    ) -> ReportedRun:
        """Read a run folder.

        Args:
            path: The folder.
            name: Its name in the report.
            trust: Modules of your own whose metrics the recipe may name.
            note: Called with a line about metrics of modules that are not trusted.

        Raises:
            DataError: The folder is not a run.
            RunError: The run is unfinished or damaged, or has no recipe or predictions.
            SchemaError: Its schema or predictions are damaged.
        """
        folder = RunFolder(path)
        fitted = folder.schema()
        if not folder.finished:
            raise RunError(f"{str(folder.path)!r} is an unfinished run")
        folder.check()
        files = {split: folder.predictions(split) for split in REPORTED}
        split = next((split for split, file in files.items() if file.is_file()), None)
        if split is None:
            raise RunError(
                f"{str(folder.path)!r} has no predictions of test or validation rows: train it with such rows, "
                "and without `--trainer.run.predictions false`"
            )
        try:
            recipe = read_text(folder.path / RECIPE)
        except (OSError, ValueError) as error:
            raise RunError(f"{folder.path / RECIPE} cannot be read: {error}") from error
        named, untrusted = trusted_metrics(recipe, trust, folder.path / RECIPE)
        for line in untrusted:
            note(line)
        predictions = replace(Predictions.read(fitted.schema, files[split]), own=own_metrics(named))
        name = name or folder.path.resolve().name
        return cls(name, folder.path, fitted, recipe, folder.records(), split, predictions, folder.usage())


def open_runs(
    paths: Sequence[str | Path], trust: Sequence[str] = (), note: Callable[[str], None] = warnings.warn
) -> list[ReportedRun]:
    """Read run folders; runs are named by their folders, or by their paths if two folders have the same name.

    `trust` and `note` are those of `ReportedRun.open`.

    Raises:
        DataError: A folder is not a run.
        RunError: A run is unfinished, has no recipe or predictions, or is given twice.
        SchemaError: A schema or predictions are damaged.
    """
    resolved = [Path(path).resolve() for path in paths]
    for path in resolved:
        if resolved.count(path) > 1:
            raise RunError(f"the run {str(path)!r} is given twice")
    names = [path.name for path in resolved]
    unique = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    return [ReportedRun.open(path, name, trust, note) for path, name in zip(paths, unique, strict=True)]
