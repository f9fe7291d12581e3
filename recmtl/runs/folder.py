"""A run folder: recipe, schema, metrics, predictions and checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.errors import MAX_SHOWN, DataError, RunError
from recmtl.io.files import check_local, digest, fsync, locked, new_file, raise_if_disk_full
from recmtl.io.untrusted import from_json, read_text
from recmtl.runs.checkpoint_file import CHECKPOINT, TABLES, read_checkpoint
from recmtl.schema import FittedSchema
from recmtl.schema.serialization import FITTED_FILES, load_fitted, save_fitted
from recmtl.schema.validation import is_number

RECIPE, SCHEMA, LOG, RESULT, PLOTS = "recipe.yaml", "schema", "metrics.jsonl", "metrics.json", "plots"
CHECKPOINTS, LOCK_FILE = "checkpoints", ".lock"
BEST, LAST, STEP = "best", "last", "step-{}"
OPTIMIZERS = "optimizers"  # the checkpoint of their states, from which another training goes on
STEP_DIGITS = 10
PREDICTIONS, USAGE = "predictions/{split}.parquet", "usage.json"
CALIBRATION = "calibration.json"
REPORTED = ("test", "valid")  # the splits to report a run on, the preferred one first
CHECKSUMS = "checksums.json"
READER = "recmtl_model.py"  # by which the folder of an exported model is known
BEGUN = ".begun"  # the digest of `recipe.yaml` until the schema is written: a killed start leaves nothing else
EVENTS = "events.out.tfevents.*"  # of TensorBoard
PARENT = "parent.json"  # the run that this one started from
WRITTEN = (  # by a trainer
    *(SCHEMA, PARENT, LOG, EVENTS, RESULT, PLOTS, CHECKPOINTS),
    *("predictions", USAGE, CALIBRATION, CHECKSUMS),
)
CHECKED = (LOG, USAGE, CALIBRATION, *(PREDICTIONS.format(split=split) for split in REPORTED), RESULT)  # by checksums


class RunFolder:
    """The files of one run, each renamed into place when it is complete.

    ``metrics.json`` is written last: a folder without it holds an unfinished run.
    """

    def __init__(self, path: str | Path) -> None:
        check_local(path)
        self.path = Path(path)
        self.has_recipe = False  # whether `recipe.yaml` is that of the run that begins here
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other processes within a block; blocks may be nested.

        A missing folder is created, and removed again if it is still empty at the end.
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
        """Whether the run is finished."""
        return (self.path / RESULT).is_file()

    def check_free(self, resume: bool = False) -> None:
        """Check that the folder is no file, and that a new run would write over nothing in it.

        Args:
            resume: Whether an unfinished run without a checkpoint may be there, to be begun again.

        Raises:
            RunError: The folder holds a run, or a file that has the name of one of a run's.
        """
        self._check_folder()
        if self._is_start():
            return
        inside = {path.name for path in (self.path / SCHEMA).glob("[!.]*")}
        is_run = bool(inside) and inside <= {*FITTED_FILES}
        if is_run and not (resume and not self.finished):
            state = "a finished" if self.finished else "an unfinished"
            raise RunError(f"{str(self.path)!r} holds {state} run: choose another folder or remove it")
        names = WRITTEN if self.has_recipe else (RECIPE, *WRITTEN)
        found = next((name for name in names if any(self.path.glob(name))), None)
        if found and not is_run:
            raise RunError(f"{str(self.path)!r} holds {found!r}, which a run would write over: choose another folder")

    def begin(self, recipe: str) -> None:
        """Write the recipe of a new run; until `create` has written its schema the folder can be begun again."""
        for name, text in ((BEGUN, hashlib.sha256(recipe.encode()).hexdigest()), (RECIPE, recipe)):
            with new_file(self.path / name) as file:
                file.write_text(text, encoding="utf-8")
        self.has_recipe = True

    def abandon(self) -> None:
        """Remove the recipe of a run that has not begun."""
        if not (self.path / SCHEMA).exists():
            (self.path / RECIPE).unlink(missing_ok=True)
            (self.path / BEGUN).unlink(missing_ok=True)

    def _is_start(self) -> bool:
        """Return whether the folder holds what `begin` and a part of `create` wrote before the process was killed."""
        begun, recipe = self.path / BEGUN, self.path / RECIPE
        if not begun.is_file() or any(any(self.path.glob(name)) for name in WRITTEN if name not in (SCHEMA, PARENT)):
            return False
        inside = {path.name for path in (self.path / SCHEMA).glob("[!.]*")}
        own = not recipe.exists() or digest(recipe) == begun.read_text(encoding="utf-8")
        return own and inside <= {*FITTED_FILES}

    def create(self, schema: FittedSchema, parent: Mapping[str, str] | None = None) -> None:
        """Create the folder and write the schema, over the remains of a run without a checkpoint.

        Args:
            schema: The fitted schema.
            parent: What identifies the run that this one starts from, if there is one.
        """
        (self.path / SCHEMA).mkdir(parents=True, exist_ok=True)
        if parent is not None:
            with new_file(self.path / PARENT) as file:
                file.write_text(json.dumps(parent, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        save_fitted(schema, self.path / SCHEMA)
        (self.path / BEGUN).unlink(missing_ok=True)
        self.cut_log(0)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
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
        """Flush `metrics.jsonl` to disk and return its size in bytes."""
        file = self.path / LOG
        if not file.exists():
            return 0
        fsync(file)
        return file.stat().st_size

    def cut_log(self, size: int) -> bool:
        """Cut `metrics.jsonl` to a checkpoint's size, without damaged lines; return whether that part was complete."""
        file = self.path / LOG
        found = file.read_bytes() if file.exists() else b""
        good = b"".join(line for line in found[:size].splitlines(keepends=True) if is_record(line))
        if good != found:
            with new_file(file) as new:
                new.write_bytes(good)
        return len(good) == size

    def finish(self, result: dict[str, Any]) -> None:
        """Write the checksums of all measurements, then `metrics.json`, which marks the run as finished."""
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        sums = {name: digest(self.path / name) for name in CHECKED if (self.path / name).is_file()}
        sums[RESULT] = hashlib.sha256(text.encode()).hexdigest()
        with new_file(self.path / CHECKSUMS) as file:
            file.write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        with new_file(self.path / RESULT) as file:
            file.write_text(text, encoding="utf-8")

    def result(self) -> dict[str, Any]:
        """Read `metrics.json`; it is empty for an unfinished run.

        Raises:
            RunError: The file is damaged.
        """
        self.check(RESULT)
        return self._read_object(RESULT)

    def check(self, *names: str) -> None:
        """Check files of a finished run, by default all, against its checksums, if it has any.

        Raises:
            RunError: A file has changed since it was written.
        """
        sums = self._read_object(CHECKSUMS)
        for name in names or CHECKED:
            path = self.path / name
            if name in sums and path.is_file() and digest(path) != sums[name]:
                raise RunError(f"{path} is damaged: its content does not match its checksum in {CHECKSUMS}")

    def predictions(self, split: str) -> Path:
        """Return the path of the predictions of a split; a run may have been configured to write none."""
        return self.path / PREDICTIONS.format(split=split)

    def save_usage(self, experts: dict[str, list[float]]) -> None:
        """Write the mean gate weight of each expert, by head."""
        with new_file(self.path / USAGE) as file:
            file.write_text(json.dumps({"experts": experts}, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def usage(self) -> dict[str, list[float]]:
        """Read the mean gate weight of each expert, by head; it is empty for a model without gates.

        Raises:
            RunError: The file is damaged.
        """
        content = self._read_object(USAGE)
        try:
            experts: dict[str, list[float]] = content.get("experts", {})
            if not all(is_number(weight) for weights in experts.values() for weight in weights):
                raise ValueError("expected the weights of experts by task")
        except (TypeError, AttributeError, ValueError) as error:
            raise RunError(f"{self.path / USAGE} is damaged: {error}") from error
        return experts

    def _read_object(self, name: str) -> dict[str, Any]:
        """Read a JSON file; a missing one counts as empty."""
        file = self.path / name
        try:
            content: dict[str, Any] = from_json(read_text(file)) if file.exists() else {}
            if not isinstance(content, dict):
                raise ValueError("expected an object")
        except (OSError, ValueError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return content

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint: ``best``, or ``last``, the newest one to resume from."""
        folder = self.path / CHECKPOINTS / name
        return (max(self.steps().items())[1] if name == LAST and self.steps() else folder) / CHECKPOINT

    def steps(self) -> dict[int, Path]:
        """Return the folders of the checkpoints to resume from, by step, the oldest first."""
        found = sorted((self.path / CHECKPOINTS).glob(STEP.format("[0-9]" * STEP_DIGITS)))
        return {int(folder.name[-STEP_DIGITS:]): folder for folder in found}

    def parent(self) -> dict[str, Any]:
        """Read what identifies the run that this one started from; it is empty if there was none."""
        return self._read_object(PARENT)

    def load_checkpoint(
        self, name: str, device: torch.device | str = "cpu", processes: ProcessGroup = SINGLE_PROCESS
    ) -> dict[str, Any]:
        """Read a checkpoint, ``best`` or ``last``, without executing code.

        Args:
            name: The name of the checkpoint.
            device: Where its tensors go.
            processes: Those that all read it, and each check their share of the files of tables beside it.

        Raises:
            RunError: The checkpoint is missing or damaged.
        """
        path = self.checkpoint(name)
        try:
            state = read_checkpoint(path, device)
        except FileNotFoundError:
            raise RunError(self.no_run(f"there is no {path}", "a run with a checkpoint")) from None
        if TABLES in state:
            state[TABLES].check(processes)
        return state

    def schema(self) -> FittedSchema:
        """Read the fitted schema.

        Raises:
            DataError: The folder is not a run.
            SchemaError: The schema is damaged.
        """
        if not (self.path / SCHEMA).is_dir():
            raise DataError(self.no_run(f"it has no {SCHEMA} folder"))
        return load_fitted(self.path / SCHEMA)

    def no_run(self, reason: str, expected: str = "a run") -> str:
        """Return the message about a folder that is no run; of an exported model it says what reads that."""
        if (self.path / READER).is_file():
            return (
                f"{str(self.path)!r} is an exported model, expected a run folder: `recmtl serve` and `recmtl.Scorer` "
                "read it"
            )
        return f"{str(self.path)!r} is not {expected}: {reason}"


def is_record(line: bytes) -> bool:
    """Return whether a line of `metrics.jsonl` is complete."""
    try:
        return line.endswith(b"\n") and isinstance(from_json(line.decode()), dict)
    except ValueError:
        return False
