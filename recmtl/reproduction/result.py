"""The result of a reproduction: figures, verdict and split, as a file and as text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from recmtl._version import __version__
from recmtl.data import PreparedData, Rows
from recmtl.data.columns.values import as_text, stable_hash
from recmtl.errors import RunError, counted
from recmtl.io.files import new_file
from recmtl.io.untrusted import read_text
from recmtl.reproduction.published import Preset
from recmtl.reproduction.verdict import TaskFinding, Verdict, judge

SELECTION = "the best epoch of each run is chosen on the validation rows; the test rows are measured once, at its end"


@dataclass(frozen=True)
class SplitDigest:
    """The rows of a split, told apart by keys and labels in their order, however they are encoded.

    Attributes:
        rows: Their number.
        sha256: The SHA-256 of keys and labels.
    """

    rows: int
    sha256: str

    @classmethod
    def of(cls, rows: Rows) -> SplitDigest:
        """Return the digest of rows."""
        found = hashlib.sha256()
        for name, column in zip(rows.keys.column_names, rows.keys.columns, strict=True):
            found.update(name.encode())
            for chunk in column.chunks:
                values, codes = as_text(chunk, name, ids=False)
                hashes = np.append(stable_hash(values), np.uint64(0))[codes]
                found.update(hashes.astype("<u8").tobytes())
        for name, labels in sorted(rows.labels.items()):
            found.update(name.encode() + labels.astype("<f8").tobytes())
        return cls(len(rows), found.hexdigest())


@dataclass(frozen=True)
class Reproduction:
    """Published figures beside those of runs with the published setting.

    Attributes:
        dataset: The name of the dataset.
        model: The name of the model.
        source: The name, title and address of the source, what is known of its figures, and in what the training here
            differs.
        tasks: What the runs say of each figure.
        doubts: Why nothing can be said whatever the figures are; empty if something can.
        split: The digest of the rows of each split.
        seeds: The seeds of the finished runs.
        version: The version of recmtl.
    """

    dataset: str
    model: str
    source: Mapping[str, Any]
    tasks: Mapping[str, TaskFinding]
    doubts: Sequence[str]
    split: Mapping[str, SplitDigest]
    seeds: Sequence[int]
    version: str = __version__

    @classmethod
    def of(
        cls,
        preset: Preset,
        tasks: Mapping[str, TaskFinding],
        doubts: Sequence[str],
        data: PreparedData,
        seeds: Sequence[int],
    ) -> Self:
        """Return the result for a preset, given the findings and the data."""
        source = {"name": preset.source_name, **{k: v for k, v in vars(preset.source).items() if k != "figures"}}
        split = {name: SplitDigest.of(rows) for name, rows in data.splits.items()}
        return cls(preset.name, preset.model, source, dict(tasks), tuple(doubts), split, tuple(seeds))

    @property
    def verdict(self) -> Verdict:
        """One verdict: ``consistent``, ``apart`` or ``cannot say``."""
        return judge(self.tasks, self.doubts)

    def table(self) -> pd.DataFrame:
        """Return a row for each task: published AUC, own mean and difference with their intervals, and the verdict."""
        names = ("published", "mean", "sd", "low", "high", "difference", "difference_low", "difference_high", "verdict")
        rows = [{"task": t, **{n: getattr(found, n) for n in names}} for t, found in self.tasks.items()]
        return pd.DataFrame(rows, columns=["task", *names])

    def notes(self) -> list[str]:
        """Return the verdict and what it rests on, a line each."""
        source, test = self.source, self.split["test"]
        why = f": {'; '.join(self.doubts)}" if self.doubts else ""
        return [
            f"verdict: {self.verdict}{why}",
            f"published: {source['title']}, {source['url']}. {source['known']}",
            f"here: {counted(len(self.seeds), 'run')}; {SELECTION}. {source['differences']}",
            f"test rows: {test.rows:,}, sha256 {test.sha256}",
        ]

    def save(self, path: Path) -> None:
        """Write the result into a file."""
        content = asdict(self) | {"verdict": self.verdict, "selection": SELECTION}
        for task, found in self.tasks.items():
            known = {
                name: None if value != value else value for name, value in asdict(found).items()
            }  # JSON has no NaN
            content["tasks"][task] = known | {"verdict": found.verdict}
        with new_file(path) as file:
            file.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a result that was written into a file.

        Raises:
            RunError: There is no such file, or it is damaged.
        """
        try:
            content = json.loads(read_text(Path(path)))
            named = {key: content[key] for key in ("dataset", "model", "source", "doubts", "seeds", "version")}
            tasks = {task: _finding(found) for task, found in content["tasks"].items()}
            split = {name: SplitDigest(**digest) for name, digest in content["split"].items()}
            return cls(**named, tasks=tasks, split=split)
        except OSError as error:
            raise RunError(f"there is no reproduction {str(path)!r}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{str(path)!r} is no reproduction, or a damaged one: {error}") from error


def _finding(content: Mapping[str, Any]) -> TaskFinding:
    given = {field.name: content[field.name] for field in fields(TaskFinding) if field.name != "values"}
    numbers = {name: math.nan if value is None else value for name, value in given.items()}
    return TaskFinding(values=tuple(content["values"]), **numbers)
