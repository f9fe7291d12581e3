"""A run folder: recipe, schema, metrics, predictions and checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from recmtl.errors import MAX_SHOWN, DataError, RunError
from recmtl.io.files import digest, fsync, locked, new_file, raise_if_disk_full
from recmtl.io.untrusted import from_json, read_text
from recmtl.runs.serialization import read_checkpoint, write_checkpoint
from recmtl.schema import FittedSchema
from recmtl.schema.serialization import load_fitted, save_fitted
from recmtl.schema.validation import is_number

RECIPE, SCHEMA, LOG, RESULT, PLOTS = "recipe.yaml", "schema", "metrics.jsonl", "metrics.json", "plots"
CHECKPOINTS, CHECKPOINT, LOCK_FILE = "checkpoints", "checkpoint.pt", ".lock"
BEST, LAST, STEP = "best", "last", "step-{}"
STEP_DIGITS = 10
PREDICTIONS, USAGE = "predictions/{split}.parquet", "usage.json"
REPORTED = ("test", "valid")  # the splits that a run is reported on, the better one first
CHECKSUMS = "checksums.json"
MEASURED = (
    LOG,
    USAGE,
    *(PREDICTIONS.format(split=split) for split in REPORTED),
)  # what has checksums beside the result


class RunFolder:
    """The files of one run, each written beside and renamed.

    ``metrics.json`` comes last: a folder without it holds an unfinished run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing the folder within a block; who holds it may hold it once more.

        It is made where it is missing, and goes again where nothing came into it.

        Raises:
            RunError: Another process is at work in it.
            DataError: It cannot be written.
        """
        if self._held:
            yield
            return
        self._check_folder()
        with ExitStack() as stack:
            stack.callback(self._remove_empty)
            if stack.enter_context(locked(self.path / LOCK_FILE)) is None:
                raise RunError(f"another process is at work in {str(self.path)!r}: wait for it, or give another folder")
            self._held = True
            stack.callback(setattr, self, "_held", False)
            yield

    def _remove_empty(self) -> None:
        with suppress(OSError):
            self.path.rmdir()

    def _check_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{str(self.path)!r} is a file: give `--run` a folder")

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / RESULT).is_file()

    def check_free(self) -> None:
        """Check that the folder holds no run.

        Raises:
            RunError: It does, or it is a file.
        """
        self._check_folder()
        if (self.path / SCHEMA).exists():
            state = "a finished" if self.finished else "an unfinished"
            raise RunError(f"{str(self.path)!r} holds {state} run: choose another folder or remove it")

    def create(self, schema: FittedSchema) -> None:
        """Make the folder and write the schema, over what is left of a run that came to no checkpoint."""
        (self.path / SCHEMA).mkdir(parents=True, exist_ok=True)
        save_fitted(schema, self.path / SCHEMA)
        self.cut_log(0)

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`.

        Raises:
            DataError: The disk is full.
        """
        try:
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise_if_disk_full(self.path / LOG, error)
            raise

    def records(self) -> list[dict[str, Any]]:
        """Read `metrics.jsonl`.

        Raises:
            RunError: A line is damaged.
        """
        file = self.path / LOG
        lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
        for number, line in enumerate(lines, 1):
            if not is_record(line):
                raise RunError(
                    f"{file}, line {number} is damaged: expected an object in JSON, got {line[:MAX_SHOWN]!r}"
                )
        return [json.loads(line) for line in lines]

    def log_size(self) -> int:
        """Give the bytes of `metrics.jsonl`, which lie on the disk by then."""
        file = self.path / LOG
        if not file.exists():
            return 0
        fsync(file)
        return file.stat().st_size

    def cut_log(self, size: int) -> bool:
        """Cut from `metrics.jsonl` what was written after a checkpoint; say whether all from before is there.

        Lines that are damaged go, too: a run could not be finished with them.
        """
        file = self.path / LOG
        found = file.read_bytes() if file.exists() else b""
        good = b"".join(line for line in found[:size].splitlines(keepends=True) if is_record(line))
        if good != found:
            with new_file(file) as new:
                new.write_bytes(good)
        return len(good) == size

    def finish(self, result: dict[str, Any]) -> None:
        """Write `metrics.json`, which marks the run as finished, and before it the checksums of what was measured."""
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        sums = {name: digest(self.path / name) for name in MEASURED if (self.path / name).is_file()}
        sums[RESULT] = hashlib.sha256(text.encode()).hexdigest()
        with new_file(self.path / CHECKSUMS) as file:
            file.write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        with new_file(self.path / RESULT) as file:
            file.write_text(text, encoding="utf-8")

    def result(self) -> dict[str, Any]:
        """Read `metrics.json`; nothing of a run that is unfinished.

        Raises:
            RunError: The file is damaged.
        """
        file = self.path / RESULT
        if not file.is_file():
            return {}
        self.check(RESULT)
        try:
            result: dict[str, Any] = from_json(read_text(file))
            if not isinstance(result, dict):
                raise ValueError("expected an object")
        except ValueError as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return result

    def check(self, *names: str) -> None:
        """Check files of a finished run against its checksums, where it has any.

        Args:
            names: The files; by default all that have checksums.

        Raises:
            RunError: A file has changed since it was written.
        """
        file = self.path / CHECKSUMS
        try:
            sums = from_json(read_text(file)) if file.exists() else {}
            if not isinstance(sums, dict):
                raise ValueError("expected an object of checksums")
        except (OSError, ValueError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        for name in names or (*MEASURED, RESULT):
            path = self.path / name
            if name in sums and path.is_file() and digest(path) != sums[name]:
                raise RunError(f"{path} is damaged: its content does not match its checksum in {CHECKSUMS}")

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
            experts: dict[str, list[float]] = from_json(read_text(file))["experts"]
            if not all(is_number(weight) for weights in experts.values() for weight in weights):
                raise ValueError("expected the weights of experts by task")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return experts

    def checkpoint(self, name: str) -> Path:
        """Name the file of a checkpoint: ``best``, or ``last``, the newest one that a training can go on from."""
        folder = self.path / CHECKPOINTS / name
        return (max(self.steps().items())[1] if name == LAST and self.steps() else folder) / CHECKPOINT

    def steps(self) -> dict[int, Path]:
        """Give by step the folders of the checkpoints that a training can go on from, the oldest first."""
        found = sorted((self.path / CHECKPOINTS).glob(STEP.format("[0-9]" * STEP_DIGITS)))
        return {int(folder.name[-STEP_DIGITS:]): folder for folder in found}

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the checkpoint of the best weights.

        Raises:
            RunError: The state holds what a checkpoint that cannot execute code may not hold, or cannot be written.
        """
        write_checkpoint(self.checkpoint(BEST), state)

    def load_checkpoint(self, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Read a checkpoint, ``best`` or ``last``; it cannot execute code.

        Raises:
            RunError: The checkpoint is missing or damaged.
        """
        path = self.checkpoint(name)
        try:
            return read_checkpoint(path, device)
        except FileNotFoundError:
            raise RunError(f"{str(self.path)!r} is not a run with a checkpoint: there is no {path}") from None

    def schema(self) -> FittedSchema:
        """Read the fitted schema.

        Raises:
            DataError: The folder is not a run.
            SchemaError: The schema is damaged.
        """
        if not (self.path / SCHEMA).is_dir():
            raise DataError(f"{str(self.path)!r} is not a run: it has no {SCHEMA} folder")
        return load_fitted(self.path / SCHEMA)


def is_record(line: bytes) -> bool:
    """Whether a line of `metrics.jsonl` is whole."""
    try:
        return line.endswith(b"\n") and isinstance(from_json(line.decode()), dict)
    except ValueError:
        return False
