"""Checkpoint files: they cannot execute code, and they say whether they are whole."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import torch

from recmtl.data.files import new_file
from recmtl.data.memory import holding

SEAL = 64  # letters of a SHA-256


class RunError(ValueError):
    """A run folder or checkpoint that cannot be used, said in one sentence."""


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state to a file that appears whole or not at all.

    Raises:
        RunError: The state holds what a checkpoint that cannot execute code may not hold, or cannot be written.
    """
    with new_file(path) as file:
        try:
            with holding(f"the checkpoint {path}"):
                torch.save(state, file)
        except RuntimeError as error:  # what torch makes of a failed write
            raise RunError(f"the checkpoint {path} cannot be written: is the disk full?") from error
        try:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # reads no tensor
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise RunError(
                f"the state of the training holds {found[1] if found else 'an object'}, which no checkpoint can hold: "
                "model, balancer and optimizer may keep tensors, numbers, text, and lists and dicts of these"
            ) from error
        seal(file)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read the state in a file; it cannot execute code.

    Raises:
        FileNotFoundError: There is no such file.
        RunError: It is damaged.
    """
    try:
        with holding(f"the checkpoint {path}"), warnings.catch_warnings():
            sealed = is_sealed(path)
            warnings.simplefilter("ignore")  # about what turns out to be damaged
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True) if sealed else {}
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        reason = str(error).partition(".")[0] or type(error).__name__
        raise RunError(f"the checkpoint {path} is damaged: {reason}") from error
    if not sealed:
        raise RunError(f"the checkpoint {path} is damaged: its content is not what its checksum says")
    if not isinstance(state, dict):
        raise RunError(f"the checkpoint {path} is damaged: it holds a {type(state).__name__}")
    return state


def seal(path: Path) -> None:
    """Write the SHA-256 of all that a zip file holds as its comment."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", SEAL))  # the length of the comment, which torch leaves at 0
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(digest.encode())


def is_sealed(path: Path) -> bool:
    """Whether a file ends with the SHA-256 of all that comes before."""
    if path.stat().st_size <= SEAL:
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as whole,
        whole[:-SEAL] as sealed,
    ):
        return hashlib.sha256(sealed).hexdigest().encode() == content[-SEAL:]
