"""Checkpoint files: loading one executes no code, and a checksum at the end tells whether it is intact."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import re
import shutil
import struct
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.errors import OutOfMemoryError, RunError
from recmtl.io.files import new_file, replaced_folder
from recmtl.io.machine import explain_oom

CHECKSUM_LETTERS = 64  # of a SHA-256 in hex
CHECKPOINT, TABLES = "checkpoint.pt", "tables"  # tables that are spread over processes have a folder beside the file


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state to a file, with its checksum; the file appears whole or not at all."""
    with new_file(path) as file:
        try:
            with explain_oom(f"the checkpoint {path}"):
                torch.save(state, file)
        except RuntimeError as error:  # torch's error for a failed write
            raise RunError(f"the checkpoint {path} cannot be written: is the disk full?") from error
        try:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # reads no tensor
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise RunError(
                f"the state of the training holds {found[1] if found else 'an object'}, which no checkpoint can hold: "
                "model, balancer and optimizer may keep tensors, numbers, text, and lists and dicts of these"
            ) from error
        append_checksum(file)


def write_with_tables(
    folder: Path | None, state: dict[str, Any], tables: Mapping[str, Tensor], processes: ProcessGroup = SINGLE_PROCESS
) -> None:
    """Write a state, and tables in parts, into an empty folder.

    Args:
        folder: The folder; ``None`` in all processes but the first.
        state: The state without the tables.
        tables: Those that are spread over the processes, which then all call it.
        processes: The processes.
    """
    if tables:
        from recmtl.runs.table_parts import TableParts

        if folder:
            (folder / TABLES).mkdir()
        parts = TableParts.write(folder / TABLES if folder else None, tables, processes)
        state = state | {TABLES: dict(parts.checksums)}
    if folder:
        write_checkpoint(folder / CHECKPOINT, state)


def replace_checkpoint(
    folder: Path | None,
    state: dict[str, Any],
    tables: Mapping[str, Tensor] = {},
    processes: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Write a checkpoint like `write_with_tables` in place of the one that a folder holds."""
    if tables:
        with replaced_folder(folder) if folder else nullcontext() as path:
            write_with_tables(path, state, tables, processes)
    elif folder:
        write_checkpoint(folder / CHECKPOINT, state)
        shutil.rmtree(folder / TABLES, ignore_errors=True)  # of the one before


def read_checkpoint(path: Path, device: torch.device | str = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read the state in a file, without executing code; a damaged file is a `RunError`.

    Tables beside it are a `TableParts` under the name of their folder, whose files are not read yet. With `mmap`,
    neither are the tensors in the file.
    """
    try:
        with explain_oom(f"the checkpoint {path}"), warnings.catch_warnings():
            if not has_valid_checksum(path):
                raise ValueError("its content does not match its checksum")
            warnings.simplefilter("ignore")  # about a file that turns out not to be a checkpoint
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        if TABLES in state:
            from recmtl.runs.table_parts import TableParts

            state[TABLES] = TableParts.of_state(path.parent / TABLES, state[TABLES])
    except (FileNotFoundError, OutOfMemoryError):
        raise
    except Exception as error:  # torch raises many kinds for a file that is not a checkpoint
        reason = " ".join(str(error).partition(". ")[0].partition("\n")[0].split()) or type(error).__name__
        raise RunError(f"the checkpoint {path} is damaged: {reason}") from error
    return state


def append_checksum(path: Path) -> None:
    """Append the SHA-256 of a zip file to it, as the zip's comment."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", CHECKSUM_LETTERS))  # the length of the comment, which torch leaves at 0
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(checksum.encode())


def has_valid_checksum(path: Path) -> bool:
    """Return whether a file ends with the SHA-256 of all that comes before."""
    if not path.is_file() and path.exists():  # a pipe or a device
        return False
    if path.stat().st_size <= CHECKSUM_LETTERS:
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as whole,
        whole[:-CHECKSUM_LETTERS] as body,
    ):
        return hashlib.sha256(body).hexdigest().encode() == content[-CHECKSUM_LETTERS:]


def check_state_like(found: Any, template: Any, what: str) -> None:
    """Check that a state has a template's types, names and lengths, and the shapes of its tensors."""
    same = type(found) is type(template)
    if isinstance(template, Tensor):
        same = isinstance(found, Tensor) and (found.dtype, found.shape) == (template.dtype, template.shape)
    elif same and isinstance(template, dict):
        same = found.keys() == template.keys()
    elif same and isinstance(template, list | tuple):
        same = len(found) == len(template)
    if not same:
        raise ValueError(f"{what} is {_describe(found)}, expected {_describe(template)}")
    if isinstance(template, dict | list | tuple):
        for name in template if isinstance(template, dict) else range(len(template)):
            check_state_like(found[name], template[name], f"{name!r} of {what}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"a {kind} of {', '.join(map(str, value)) or 'nothing'}"
    return f"a {kind} of {len(value)}" if isinstance(value, list | tuple) else f"{kind} {value!r:.40}"
