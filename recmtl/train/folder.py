"""A run folder: recipe, schema, metrics, predictions and checkpoints."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from recmtl.data.errors import DataError
from recmtl.data.files import new_file
from recmtl.schema import FittedSchema

RECIPE, SCHEMA, LOG, RESULT, PLOTS = "recipe.yaml", "schema", "metrics.jsonl", "metrics.json", "plots"
CHECKPOINT = "checkpoints/{name}/checkpoint.pt"
PREDICTIONS, USAGE = "predictions/{split}.parquet", "usage.json"
REPORTED = ("test", "valid")  # the splits that a run is reported on, the better one first


class RunError(ValueError):
    """A run folder or checkpoint that cannot be used, said in one sentence."""


class RunFolder:
    """The files of one run, each written beside and renamed.

    ``metrics.json`` comes last: a folder without it holds an unfinished run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / RESULT).is_file()

    def check_free(self) -> None:
        """Check that the folder holds no run.

        Raises:
            RunError: It does, or it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{str(self.path)!r} is a file: give `--run` a folder")
        if (self.path / SCHEMA).exists():
            state = "a finished" if self.finished else "an unfinished"
            raise RunError(f"{str(self.path)!r} holds {state} run: choose another folder or remove it")

    def create(self, schema: FittedSchema) -> None:
        """Make the folder and write the schema.

        Raises:
            RunError: The folder holds another run.
        """
        self.check_free()
        (self.path / SCHEMA).mkdir(parents=True)
        schema.save(self.path / SCHEMA)

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """Read `metrics.jsonl`."""
        file = self.path / LOG
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def finish(self, result: dict[str, Any]) -> None:
        """Write `metrics.json`, which marks the run as finished."""
        with new_file(self.path / RESULT) as file:
            file.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def predictions(self, split: str) -> Path:
        """Name the file of the predictions of a split; a run may have been told to write none."""
        return self.path / PREDICTIONS.format(split=split)

    def save_usage(self, experts: dict[str, list[float]]) -> None:
        """Write by head the mean gate weight of each expert."""
        with new_file(self.path / USAGE) as file:
            file.write_text(json.dumps({"experts": experts}, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def usage(self) -> dict[str, list[float]]:
        """Read by head the mean gate weight of each expert; nothing of a model without gates.

        Raises:
            RunError: The file is damaged.
        """
        file = self.path / USAGE
        if not file.is_file():
            return {}
        try:
            experts: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8"))["experts"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return experts

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint, ``best`` or ``last``.

        Raises:
            RunError: The state holds what a checkpoint that cannot execute code may not hold, or cannot be written.
        """
        path = self.path / CHECKPOINT.format(name=name)
        with new_file(path) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # what torch makes of a failed write
                raise RunError(f"the checkpoint {path} cannot be written: is the disk full?") from error
            try:
                torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # reads no tensor
            except pickle.UnpicklingError as error:
                found = re.search(r"GLOBAL ([\w.]+)", str(error))
                raise RunError(
                    f"the model's state holds {found[1] if found else 'an object'}, which no checkpoint can hold: it "
                    "may hold tensors, numbers, text, and lists and dicts of these"
                ) from error

    def load_checkpoint(self, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Read a checkpoint; it cannot execute code.

        Raises:
            RunError: The checkpoint is missing or damaged.
        """
        path = self.path / CHECKPOINT.format(name=name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what turns out to be damaged
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True, mmap=True)
        except FileNotFoundError:
            raise RunError(f"{str(self.path)!r} is not a run with a checkpoint: there is no {path}") from None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
            raise RunError(
                f"the checkpoint {path} is damaged: {str(error).partition('.')[0] or type(error).__name__}"
            ) from error
        if not isinstance(state, dict):
            raise RunError(f"the checkpoint {path} is damaged: it holds a {type(state).__name__}")
        return state

    def schema(self) -> FittedSchema:
        """Read the fitted schema.

        Raises:
            DataError: The folder is not a run.
            SchemaError: The schema is damaged.
        """
        if not (self.path / SCHEMA).is_dir():
            raise DataError(f"{str(self.path)!r} is not a run: it has no {SCHEMA} folder")
        return FittedSchema.load(self.path / SCHEMA)
