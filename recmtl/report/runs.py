"""What a finished run folder holds, as far as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recmtl.evaluate.metrics import metrics_of
from recmtl.evaluate.predictions import Predictions
from recmtl.evaluate.scores import Scores
from recmtl.io.untrusted import read_text
from recmtl.runs.folder import RECIPE, REPORTED
from recmtl.schema import FittedSchema
from recmtl.train import RunError, RunFolder


@dataclass(frozen=True)
class ReportedRun:
    """A finished run.

    Args:
        name: What to call it.
        path: Its folder.
        fitted: Its fitted schema.
        recipe: Its recipe, as it stands in the file.
        records: The lines of `metrics.jsonl`.
        split: The rows that the report is about: ``test``, or else ``valid``.
        predictions: Those of these rows.
        usage: By task the mean gate weight of each expert; empty without gates.
    """

    name: str
    path: Path
    fitted: FittedSchema
    recipe: str
    records: Sequence[Mapping[str, Any]]
    split: str
    predictions: Predictions
    usage: Mapping[str, Sequence[float]]

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Each reported task on its own rows."""
        return self.predictions.scores()

    @cached_property
    def curved(self) -> dict[str, Scores]:
        """The binary tasks that have an AUC, and so curves."""
        binary = {name: s for name, s in self.scores.items() if s.task.kind == "binary"}
        return {name: s for name, s in binary.items() if metrics_of(s, names=["auc"]).values["auc"] is not None}

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> ReportedRun:
        """Read a run folder.

        Raises:
            DataError: The folder is not a run.
            RunError: The run is unfinished or damaged, or lacks recipe or predictions.
            SchemaError: Its schema or its predictions are damaged.
        """
        folder = RunFolder(path)
        fitted = folder.schema()
        if not folder.finished:
            raise RunError(f"{str(folder.path)!r} holds an unfinished run")
        folder.check()
        files = {split: folder.predictions(split) for split in REPORTED}
        split = next((split for split, file in files.items() if file.is_file()), None)
        if split is None:
            raise RunError(
                f"{str(folder.path)!r} holds no predictions of test or validation rows: train it with such rows, "
                "and without `--trainer.run.predictions false`"
            )
        try:
            recipe = read_text(folder.path / RECIPE)
        except (OSError, ValueError) as error:
            raise RunError(f"{folder.path / RECIPE} cannot be read: {error}") from error
        predictions = Predictions.read(fitted.schema, files[split])
        called = name or folder.path.resolve().name
        return cls(called, folder.path, fitted, recipe, folder.records(), split, predictions, folder.usage())


def open_runs(paths: Sequence[str | Path]) -> list[ReportedRun]:
    """Read run folders; each is called by its own name, or by its whole path where two have the same.

    Raises:
        DataError: A folder is not a run.
        RunError: A run is unfinished, or lacks recipe or predictions, or is named twice.
        SchemaError: A schema or predictions are damaged.
    """
    whole = [str(Path(path).resolve()) for path in paths]
    for path in whole:
        if whole.count(path) > 1:
            raise RunError(f"the run {path!r} is named twice")
    names = [Path(path).name for path in whole]
    unique = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    return [ReportedRun.open(path, name) for path, name in zip(paths, unique, strict=True)]
